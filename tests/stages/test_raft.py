import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.config import Settings
from rlhf.errors import ConfigError, RunError
from rlhf.runs.directory import partial
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed
from tests.stages.test_merge import weights

FAST = ("stage.trainer.learning_rate=0.01", "stage.trainer.warmup_steps=0")


def completions(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["completion"][0]["content"] for row in rows]


def test_the_best_and_a_random_response_are_trained_on_alike(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    place = tmp_path / "almanac" / "raft"
    final = execute(beside_chain("raft", *FAST), place)
    policy, control = (Run.open(place / title).manifest for title in ("policy", "control"))
    sft = Run.open(chain / "almanac" / "sft").manifest["weights"]
    for one in (policy, control):
        assert (one["stage"], one["parents"]["policy"]["digest"]) == ("sft", sft)
    assert Run.open(place).manifest["weights"] == policy["weights"] != control["weights"]
    rows = [json.loads(line) for line in (place / "sample" / "responses.jsonl").read_text().splitlines()]
    assert completions(place / "sample" / "random.jsonl") == [row["responses"][0] for row in rows]
    for row, best in zip(rows, completions(place / "sample" / "best.jsonl"), strict=True):
        assert row["scores"][row["responses"].index(best)] == max(row["scores"])
    for title in ("start", "control"):
        for name in ("gold", "score"):
            difference = final[name] - final[f"{title}/{name}"]
            assert final[f"difference/{title}/{name}"] == pytest.approx(difference)
            assert final[f"difference/{title}/{name}/low"] <= difference <= final[f"difference/{title}/{name}/high"]
    assert final["objective"] == final["win_rate"]
    assert "raft: score " in capsys.readouterr().out


def ranks(directory: Path, start: Path) -> set[int]:
    """The ranks of the differences of the weights of two runs, of the attention's matrices."""
    one, other = weights(directory), weights(start)
    named = [name for name in one if "q_proj" in name or "v_proj" in name]
    return {int(torch.linalg.matrix_rank(one[name] - other[name], atol=1e-5)) for name in named}


def test_adapters_of_the_policy_and_of_its_control_are_trained_from_the_same_weights(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    """The result has whole weights."""
    place, sft = tmp_path / "raft", chain / "almanac" / "sft"
    execute(beside_chain("raft", *FAST, "adapter=lora", "adapter.rank=2", "eval_set.prompts=0"), place)
    policy, control = (Run.open(place / title).manifest for title in ("policy", "control"))
    for title in ("policy", "control"):
        assert (place / title / "model" / "adapter_model.safetensors").is_file()
    assert policy["weights"] != control["weights"]
    assert ranks(place, sft) == {2}


def test_killed_in_the_control_it_keeps_the_policy(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished parts of an interrupted run are kept, and the result is that of an uninterrupted one."""
    from rlhf.training import loop

    given = [*FAST, "eval_set.prompts=0"]
    execute(beside_chain("raft", *given), tmp_path / "whole")
    train, begun = loop.train, []

    def second_stops(*arguments: object, **named: object) -> dict[str, float]:
        begun.append(True)
        if len(begun) == 2:
            raise ConnectionAbortedError
        return train(*arguments, **named)

    monkeypatch.setattr(loop, "train", second_stops)
    with pytest.raises(ConnectionAbortedError):
        execute(beside_chain("raft", *given), tmp_path / "cut")
    execute(beside_chain("raft", *given, "resume=true"), tmp_path / "cut")
    assert len(begun) == 3
    whole, cut = (Run.open(tmp_path / name).manifest for name in ("whole", "cut"))
    assert (whole["weights"], whole["metrics"]) == (cut["weights"], cut["metrics"])


def killed_before(function: str, settings: Settings, place: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(function, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        execute(settings, place)


@pytest.mark.parametrize("function", ["rlhf.runs.interrupted.move", "rlhf.stages.write_json"])
def test_killed_at_the_end_of_the_sample_it_is_not_drawn_again(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """SIGKILL before the sample is moved to its place, and before its end is noted."""
    given = ("eval_set.prompts=0", "stage.control=false")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf.stages.raft", "rlhf.stages.sample"])
    place = tmp_path / "almanac" / "raft"
    process = context.Process(target=killed_before, args=(function, beside_chain("raft", *given), place))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    work = partial(place)
    [drawn] = [json.loads(path.read_text()) for path in work.glob("*sample*/run.json")]
    assert drawn["status"] == "finished"
    with pytest.raises(RunError, match="an interrupted run with sample is here: resume=true continues it"):
        execute(beside_chain("raft", *given), place)
    monkeypatch.setattr("rlhf.stages.sample.run", lambda *_: pytest.fail("the responses are drawn again"))
    execute(beside_chain("raft", *given, "resume=true"), place)
    assert Run.open(place / "sample").manifest["metrics"] == drawn["metrics"]


def test_a_reward_is_needed() -> None:
    with pytest.raises(ConfigError, match="stage.reward is null and stage.rewards has no term: set one of them"):
        composed("stage=raft", "stage.reward=null")
