"""The figures of a leaderboard."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.comparison.frontier import efficient
from rlhf.evaluation.sweeps.figures import efficient_jobs, figures, rewards
from rlhf.evaluation.sweeps.jobs import collect
from rlhf.evaluation.sweeps.leaderboard import board
from tests.evaluation.sweeps.test_jobs import member

points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(points)
def test_a_point_is_on_the_frontier_unless_another_one_beats_it(given: list[tuple[int, int]]) -> None:
    """By the definition, with the first coordinate maximized and the second minimized."""
    beaten = [any(g >= gold and k <= kl and (g > gold or k < kl) for g, k in given) for gold, kl in given]
    assert efficient(given, ["maximize", "minimize"]) == [not one for one in beaten]
    assert any(efficient(given, ["maximize", "minimize"]))


def test_the_frontier_shows_all_methods_and_rings_efficient_runs(tmp_path: Path) -> None:
    for beta, gold, kl in (("0.1", 2.0, 1.5), ("0.5", 1.6, 0.8)):
        for seed in (1, 2):
            member(
                tmp_path / "dpo",
                seed=seed,
                metrics={"gold": gold + seed / 10, "win_rate": 0.6, "kl": kl},
                stage__beta=beta,
            )
    member(tmp_path / "ppo", "ppo", metrics={"gold": 1.9, "win_rate": 0.7, "kl": 0.7}, stage__kl_coef="0.2")
    jobs = collect([str(tmp_path)])
    found = board(jobs, None)
    assert rewards(found) == ["gold", "win_rate"]
    kept = {(job.stage, job.seed) for job in efficient_jobs(jobs, "gold")}
    assert kept == {("ppo", 0), ("dpo", 2)}
    [frontier] = figures(found)  # β and κ both vary, but in different stages
    assert "gold: 2 of 5" in frontier.caption
    assert "win rate vs start: 1 of 5" in frontier.caption
    text = frontier.standalone()
    ElementTree.fromstring(text)
    for label in ("dpo, means", "ppo, runs", "no run beats it", "beta 0.1", "kl_coef 0.2"):
        assert label in text, label


def test_figures_are_left_out_for_a_single_setting_or_without_a_reward(tmp_path: Path) -> None:
    for beta in ("0.1", "0.5"):
        member(tmp_path / "one", metrics={"gold": 1.0, "kl": 0.1}, stage__beta=beta)
        for rate in ("1e-5", "1e-3", "auto"):
            member(tmp_path / "two", metrics={"eval/rewards/accuracies": 0.5}, stage__beta=beta, rate=rate)
    assert [drawing.name for drawing in figures(board(collect([str(tmp_path / "one")]), "gold"))] == ["frontier"]
    [effects] = figures(board(collect([str(tmp_path / "two")]), None))
    assert {"stage.beta", "rate", "auto", "held-out accuracy"} <= set(
        ElementTree.fromstring(effects.standalone()).itertext()
    )
    member(tmp_path / "none", status="failed", reason="x")
    assert figures(board(collect([str(tmp_path / "none")]), None)) == []
