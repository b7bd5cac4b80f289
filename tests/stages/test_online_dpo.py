import json
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError, DataError, RunError
from rlhf.evaluation.responses.policies import Policies
from rlhf.modeling import loading
from rlhf.runs.directory import partial
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides
from tests.stages.test_raft import ranks

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rlhf.stages.online_dpo", "rlhf.stages.dpo", "rlhf.stages.sample"])
Configure = Callable[..., Settings]
VOWELS = "tests.stages.test_online_dpo:vowels"
FAST = ("stage.trainer.learning_rate=0.01", "stage.trainer.warmup_steps=0", "stage.trainer.save_steps=1")
BY_FUNCTION = (f"stage.rewards={{vowels: {{function: '{VOWELS}'}}}}", "stage.reward=null")


def vowels(prompts: list, completions: list[str]) -> list[float]:
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def results(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.suffix in (".safetensors", ".jsonl")
    }
    return found | {"metrics": Run.open(directory).manifest["metrics"]}


@pytest.fixture(scope="module")
def whole(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds with the tiny chain's reward run, at checkpoints/almanac/online_dpo."""
    root = tmp_path_factory.mktemp("whole")
    place = root / "almanac" / "online_dpo"
    execute(settings_at(root, chain), place)
    return place


def settings_at(root: Path, chain: Path, *more: str) -> Settings:
    parents = [f"stage.policy={chain}/almanac/sft", f"stage.reward={chain}/almanac/reward"]
    return composed(*tiny_overrides("online_dpo", root), *parents, *FAST, "stage.pairs=best_worst", *more)


def test_every_round_is_a_run_that_starts_from_the_last_one(whole: Path, chain: Path) -> None:
    outer = Run.open(whole).manifest
    first, second = (Run.open(whole / f"round_{number}").manifest for number in (1, 2))
    sft = Run.open(chain / "almanac" / "sft").manifest["weights"]
    assert {role: one["digest"] for role, one in first["parents"].items()} == {"policy": sft}
    assert {role: one["digest"] for role, one in second["parents"].items()} == {
        "policy": first["weights"],
        "reference": sft,
    }
    assert second["parents"]["policy"]["path"] == str(whole / "round_1")
    assert [one["stage"] for one in (first, second)] == ["dpo", "dpo"]
    assert (second["command"], second["name"]) == (outer["command"], "almanac/online_dpo/round_2")
    assert Run.open(whole / "round_2" / "sample").manifest["parents"]["policy"]["digest"] == first["weights"]
    assert outer["weights"] == second["weights"] != first["weights"] != sft
    assert not [path for path in whole.rglob("run.json") if ".partial" in path.read_text()]


def test_every_round_logs_what_it_measured(whole: Path) -> None:
    rounds, final = lines(whole / "metrics.jsonl"), Run.open(whole).manifest["metrics"]
    assert [one["step"] for one in rounds] == [1, 2]
    assert rounds[0]["start/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(rounds[1]["kl"]) > 1e-3  # an estimate from 8 responses
    assert rounds[0]["win_rate"] == rounds[0]["win_rate/previous"]
    for one in rounds:
        assert one["win_rate/previous/low"] <= one["win_rate/previous"] <= one["win_rate/previous/high"]
        assert one["pairs"] + one["equal_groups"] == 24  # best against worst: a pair per prompt
    assert final == {key: value for key, value in rounds[1].items() if key != "step"} | {
        "rounds": 2.0,
        "objective": rounds[1]["win_rate"],
    }


def test_pairs_are_the_best_against_the_worst_of_the_samples(whole: Path) -> None:
    sampled = lines(whole / "round_1" / "sample" / "responses.jsonl")
    manifest = Run.open(whole / "round_1").manifest
    contrasts = [row for row in sampled if min(row["scores"]) < max(row["scores"])]
    rows = manifest["data"]["preferences"]
    assert sum(split["rows"] for split in rows.values()) == len(contrasts)
    assert rows["validation"]["rows"] >= 1


def test_it_is_published_with_its_lineage_and_shown_with_its_rounds(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    execute(composed(*tiny_overrides("publish", tmp_path), f"stage.run={whole}"), tmp_path / "publish")
    [card] = (tmp_path / "publish" / "bundles").glob("*/README.md")
    text = card.read_text(encoding="utf-8")
    assert "DPO in rounds on the policy's own responses" in text
    assert "| sft | almanac/sft" in text
    capsys.readouterr()
    execute(composed(f"checkpoints={whole.parents[1]}"), Path("unused"))
    shown = capsys.readouterr().out
    assert "almanac/online_dpo/round_2" in shown
    assert "almanac/online_dpo/round_1/sample" in shown


def start(settings: Settings, place: Path) -> None:
    execute(settings, place)


def test_killed_within_a_round_it_ends_with_the_same_bytes(
    whole: Path, chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """SIGKILL once the second round has a checkpoint."""
    place = tmp_path / "almanac" / "online_dpo"
    process = CONTEXT.Process(target=start, args=(settings_at(tmp_path, chain), place))
    process.start()
    checkpoints = partial(place) / ".round_2.partial" / "resume"
    while process.exitcode is None and not any(checkpoints.glob("checkpoint-*/digests.json")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not place.exists()
    execute(composed(f"checkpoints={tmp_path}"), Path("unused"))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not finished: ")]
    assert len(told) == 1  # the parts of an unfinished run are not listed
    with pytest.raises(RunError, match="an interrupted run with .* is here: resume=true continues it"):
        execute(settings_at(tmp_path, chain), place)
    execute(settings_at(tmp_path, chain, "resume=true"), place)
    assert results(place) == results(whole)


def killed_before(function: str, call: int, settings: Settings, place: Path) -> None:
    original, calls = resolve_name(function), []

    def counted(*given: Any) -> Any:
        calls.append(True)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(function, counted)
        execute(settings, place)


@pytest.mark.parametrize(("function", "call"), [("measured", 1), ("sample", 2), ("adopt", 1)])
def test_killed_between_rounds_it_ends_with_the_same_bytes(
    whole: Path, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    """SIGKILL between the training of round 1 and its measurement, before round 2, and after it."""
    place = tmp_path / "almanac" / "online_dpo"
    process = CONTEXT.Process(
        target=killed_before, args=(f"rlhf.stages.online_dpo.{function}", call, settings_at(tmp_path, chain), place)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (partial(place) / "round_1" / "run.json").is_file()
    execute(settings_at(tmp_path, chain, "resume=true"), place)
    assert results(place) == results(whole)


def test_stopped_between_rounds_it_ends_with_the_same_bytes(
    whole: Path, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "almanac" / "online_dpo"
    measured = Policies.measured
    for title in ("start", "round_2"):

        def stop(self: Policies, name: str, parent: Parent, title: str = title) -> Any:
            if name == title:
                raise ConnectionAbortedError
            return measured(self, name, parent)

        with monkeypatch.context() as patched:
            patched.setattr(Policies, "measured", stop)
            with pytest.raises(ConnectionAbortedError):
                execute(settings_at(tmp_path, chain, *(["resume=true"] if title != "start" else [])), place)
    execute(settings_at(tmp_path, chain, "resume=true"), place)
    assert results(place) == results(whole)


def test_people_label_each_round_and_nothing_moves_in_noise(
    beside_chain: Configure, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A judge stands in for people. Without a learning rate the win rate is within noise: one round is enough."""
    place = tmp_path / "almanac" / "online_dpo"
    given = ["judge=person", "stage.reward=null", "stage.stop_early=true", "stage.pairs=all", "stage.rounds=3"]
    given += ["stage.trainer.learning_rate=0", "adapter=lora"]
    with pytest.raises(RunError) as stopped:
        execute(beside_chain("online_dpo", *given), place, ["stage=online_dpo", f"checkpoints={tmp_path}"])
    label, again = str(stopped.value).partition("waits for labels: run ")[2].split(", then ")
    assert again.endswith("resume=true")
    words = [word.strip("'") for word in shlex.split(label)[3:]]
    assert "stage.pairs=3" in words
    labels = composed(*words, "judge=function", f"judge.function={VOWELS}")
    execute(labels, Path(labels.checkpoints) / labels.name / "label")
    final = execute(beside_chain("online_dpo", *given, "resume=true"), place)
    assert "round 1 gains nothing beyond noise (win rate" in capsys.readouterr().out
    assert final["rounds"] == 1
    scored = lines(place / "labels" / "round_1.jsonl")
    for row in scored:
        assert max(zip(row["scores"], row["responses"], strict=True))[1] in row["responses"]
        assert all(0 <= score <= 1 for score in row["scores"])
    assert (place / "round_1" / "label" / "preferences.jsonl").is_file()
    merged = loading.load_policy(Parent("policy", str(place), Run.open(place).manifest), labels.model, tokenizer(place))
    assert not (place / "model" / "adapter_config.json").exists()
    assert merged is not None


def test_each_round_adds_an_adapter_to_the_policy_of_the_last(
    beside_chain: Configure, chain: Path, tmp_path: Path
) -> None:
    place, sft = tmp_path / "online_dpo", chain / "almanac" / "sft"
    execute(beside_chain("online_dpo", *FAST, "adapter=lora", "adapter.rank=2", "eval_set.prompts=0"), place)
    first, second = (Run.open(place / f"round_{number}").manifest for number in (1, 2))
    assert second["parents"]["policy"]["digest"] == first["weights"] != second["weights"]
    assert all((place / f"round_{number}" / "model" / "adapter_model.safetensors").is_file() for number in (1, 2))
    assert ranks(place, sft) == {4}


def tokenizer(place: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place / "model")


def test_a_judge_decides_and_a_moving_reference_is_the_policy(beside_chain: Configure, tmp_path: Path) -> None:
    judged = ["judge=function", f"judge.function={VOWELS}", "stage.reward=null", "stage.reference=moving"]
    final = execute(beside_chain("online_dpo", *judged, *FAST, "data.gold=null"), tmp_path / "online")
    assert set(Run.open(tmp_path / "online" / "round_2").manifest["parents"]) == {"policy"}
    for row in lines(tmp_path / "online" / "labels" / "round_2.jsonl"):
        ordered = sorted(zip(vowels([], row["responses"]), row["scores"], strict=True))
        assert [score for _, score in ordered] == sorted(row["scores"])
    assert "score" not in final  # the win rate is the judge's
    assert 0 <= final["win_rate"] <= 1


def test_a_function_scores_the_responses(beside_chain: Configure, tmp_path: Path) -> None:
    execute(beside_chain("online_dpo", *BY_FUNCTION, *FAST, "stage.rounds=1"), tmp_path / "online_dpo")
    rows = lines(tmp_path / "online_dpo" / "round_1" / "sample" / "responses.jsonl")
    assert rows
    assert all(row["scores"] == vowels([], row["responses"]) for row in rows)


def test_equal_scores_are_refused_before_training(beside_chain: Configure, tmp_path: Path) -> None:
    same = "stage.rewards={same: {format: {max_words: 1000}}}"
    with pytest.raises(DataError, match="only 0 of 24 prompts have responses with different scores"):
        execute(beside_chain("online_dpo", same, "stage.reward=null"), tmp_path / "online")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["judge=person", "stage.reward=somewhere"], "judge=person decides the pairs of stage=online_dpo, so stage.re"),
        (["stage.reward=null"], "nothing decides the pairs of stage=online_dpo: set one of them"),
        (["stage.samples=1"], "stage.samples must lie in"),
        (["stage.rounds=0"], "stage.rounds must be positive, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed("stage=online_dpo", *given)
