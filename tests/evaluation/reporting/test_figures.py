"""The figures of a comparison show the measured metrics."""

import re

import pytest

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.reporting.figures import figures
from rlhf.evaluation.responses.best_of_n import best_of_n_kl
from tests.evaluation.making import comparison, whole


def names(of: Comparison) -> list[str]:
    return [drawing.name for drawing in figures(of)]


def test_a_full_comparison_has_all_figures() -> None:
    assert names(whole()) == [
        "frontier", "law-1", "lengths", "scores", "reliability", "training-0", "training-1", "training-2", "training-3",
    ]  # fmt: skip


def test_equal_comparisons_give_equal_figures() -> None:
    assert figures(whole()) == figures(whole())


def test_metrics_that_were_not_measured_are_not_drawn() -> None:
    bare = comparison(["a", "b"])
    for answers in bare.answers.values():
        answers.scores.clear()
    for row in bare.metrics.values():
        row.clear()
    assert names(bare) == ["lengths"]


def test_captions_hold_what_the_figure_does_not_show() -> None:
    texts = {drawing.name: drawing.caption for drawing in figures(whole())}
    assert "n = 1 to 2 of the sft samples by the reward model, drawn at the upper bound of its KL" in texts["frontier"]
    assert "PPO's log during training, on its training prompts" in texts["frontier"]
    assert re.search(
        r"gold reward: α = [\d.-]+, β = [\d.-]+, (no )?peak .*within the data \(KL up to 0.7\)", texts["law-1"]
    )
    assert texts["lengths"].endswith("Medians: base 7; sft 8; dpo 9; ppo 10.")
    assert "40 held-out pairs; expected calibration error 0.087, for a calibrated model 0.062" in texts["reliability"]
    assert texts["training-0"] == "Over steps, first to last: loss in training 3 to 2.6."
    assert texts["training-3"].startswith("Over updates, first to last: reward model 0 to 2.65; gold reward 1 to 0.93")


def test_a_bound_is_marked_and_ppo_is_named_only_if_it_has_a_run() -> None:
    without = whole()
    without.paths = {}
    [drawing] = [found for found in figures(without) if found.name == "frontier"]
    assert "best of n, KL at most" in drawing.svg
    assert "PPO" not in drawing.caption


def test_constant_values_can_be_drawn() -> None:
    same = comparison(["a"])
    assert names(same) == ["frontier", "lengths", "scores"]


@pytest.mark.parametrize("n", [2, 4])
def test_best_of_n_goes_as_far_as_the_samples(n: int) -> None:
    [drawing] = [found for found in figures(whole(samples=n)) if found.name == "frontier"]
    assert f"n={n}" in drawing.svg
    assert f"n={2 * n}" not in drawing.svg
    assert best_of_n_kl(n) > 0
