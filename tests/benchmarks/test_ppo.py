"""Our sides of benchmarks.ppo and benchmarks.rollout run in small, and what is printed is what was measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ppo, ppo_profile, rollout, sides

SPEC = ppo.COMMON | {"shape": "tiny", "rows": 6, "micro_rows": 3, "mean_length": 4, "prompt": [3, 9], "length": 8}
TINY = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A side's ``make``, as its own process would import it."""
    monkeypatch.syspath_prepend(str(sides.HERE))
    import ppo_models

    monkeypatch.setitem(ppo_models.SHAPES, "tiny", TINY)
    yield lambda name: __import__(name).make
    for name in (
        "sides",
        "ppo_models",
        "ppo_ours",
        "rollout_ours",
        "rollout_transformers",
        "rl_ours",
        "rl_trl",
        "ppo_trl_turns",
    ):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("share_base_model", [False, True])
def test_an_iteration_counts_what_it_used(made: Callable[[str], Any], share_base_model: bool) -> None:
    done = made("ppo_ours")(SPEC | {"share_base_model": share_base_model})(0)
    assert done["samples"] == 6
    assert 1 <= done["response"] <= 8
    assert 6 * (3 + 1) <= done["tokens"] <= 6 * (9 + 8)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_both_sides_of_rl_do_the_same_work(made: Callable[[str], Any], kind: str) -> None:
    spec = SPEC | {"samples": 4, "advantage": kind, "shared_prefix": True}
    for name in ("rl_ours", "rl_trl"):
        step = made(name)(spec)
        done = [step(number) for number in range(2)]
        assert [one["samples"] for one in done] == [24, 24]
        assert all(1 <= one["response"] <= 8 for one in done)
        assert all(24 * (3 + 1) <= one["tokens"] <= 24 * (9 + 8) for one in done)


def test_both_rollouts_do_the_same_work(made: Callable[[str], Any]) -> None:
    """Lengths are those of one distribution: the end of sequence comes about as often on both sides."""
    spec = SPEC | {"rows": 200}
    ours, theirs = (made(name)(spec)(0) for name in ("rollout_ours", "rollout_transformers"))
    assert ours["samples"] == theirs["samples"] == 200
    assert ours["response"] == pytest.approx(theirs["response"], abs=0.7)  # three deviations of the difference
    assert 2 < ours["response"] < 7


def measured(seconds: float, peak: int) -> dict[str, Any]:
    one = {"samples": 4, "tokens": 200, "response": 20.0, "seconds": seconds, "cpu": seconds, "peak": peak}
    return {"rounds": [one, one]}


def test_what_is_written_is_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []

    def interleave(running: dict[str, sides.Side], spec: dict[str, Any], rounds: int, warmup: int) -> dict[str, Any]:
        asked.append(spec)
        return {name: measured(6.0 if name in (ppo.PEER, rollout.PEER) else 2.0, 100) for name in running}

    monkeypatch.setattr(sides, "interleave", interleave)
    monkeypatch.setattr(sides, "gemm_peak", lambda: 1e11)
    monkeypatch.setattr(sides, "environment", lambda name, requirements: "python-of-trl")
    monkeypatch.setenv("RLHF_TEST_MODELS", str(tmp_path))
    for script, options in ((ppo, ["--rows", "4"]), (rollout, [])):
        monkeypatch.setattr(script, "RESULT", tmp_path / f"{script.__name__}.json")
        monkeypatch.setattr("sys.argv", ["it", "--shapes", "256x4", "stories15M", "--rounds", "2", *options])
        script.main()
        rows = json.loads((tmp_path / f"{script.__name__}.json").read_text())["rows"]
        assert {row["ratio"] for row in rows} == {3.0}
        assert {row["memory_ratio"] for row in rows} == {1.0}
    assert [spec["rows"] for spec in asked] == [4, 64]
    said = capsys.readouterr().out
    assert said.count("stories15M is left out") == 2
    assert "PPO iteration, 256x4, one base, compared with trl 1.12.0: 3.0 times [3.0, 3.0], aim 6.0" in said


@pytest.mark.parametrize("way", ["critic on the policy", ppo_profile.GRPO])
def test_the_shares_of_a_profile_are_of_one_iteration(
    made: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Phases cover nearly all of the time, kinds of operator all of it; the patched functions are restored."""
    import ppo_models

    from rlhf.ppo import trainer

    kept = trainer.evaluate
    monkeypatch.setattr(sides, "gemm_peak", lambda: 1e9)
    monkeypatch.setattr(ppo, "parameters", lambda shape: 10**4)
    given = {key: value for key, value in SPEC.items() if key != "shape"}
    found = ppo_profile.profile("tiny", way, **given)
    assert ppo_models.SHAPES["tiny"] is TINY
    assert trainer.evaluate is kept
    assert 0.5 < sum(found["phases"].values()) <= 1.01
    assert sum(found["kinds"].values()) == pytest.approx(1, abs=0.05)
    assert min(found["kinds"][kind] for kind in ("matrix products", "attention", "optimizer")) > 0
    assert found["the_least"] > 0
    assert ppo_profile.kind_of("aten::softmax") == "other operators"
