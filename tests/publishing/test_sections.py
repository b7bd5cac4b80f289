import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.publishing import sections
from rlhf.publishing.lineage import Link
from tests.conftest import manifest

STAGE = {
    "name": "ppo", "policy": "checkpoints/x/sft", "kl_coef": 0.05, "score_clip": None, "log_every": 1,
    "sentinel": {"window": 5}, "rollout": {"rows": None}, "reward_defaults": {"remote": {"timeout": 60.0}},
    "rewards": {"mine": {"weight": 0.5, "remote": {"url": "http://h/score", "timeout": 60.0}}},
    "trainer": {"learning_rate": 1e-5, "logging_steps": 10},
}  # fmt: skip


def link(**changes: Any) -> Link:
    return Link("d" * 64, manifest("ppo", **changes), path="checkpoints/x/ppo")


def of(stage: dict[str, Any], adapter: dict[str, Any], data: dict[str, Any] | None = None) -> Link:
    given = {"stage": stage, "adapter": adapter, "data": data or {"path": None}}
    return link(settings=given | {"checkpoints": "checkpoints"})


def test_settings_are_those_that_change_the_model() -> None:
    found = dict(sections.hyperparameters(of(STAGE, {"kind": "none", "rank": 8}), str))
    assert found == {
        "`kl_coef`": "0.05", "`rewards.mine.weight`": "0.5", "`rewards.mine.remote.url`": "http://h/score",
        "`trainer.learning_rate`": "1e-05",
    }  # fmt: skip
    adapted = dict(sections.hyperparameters(of(STAGE, {"kind": "lora", "rank": 8}), str))
    assert (adapted["`adapter.kind`"], adapted["`adapter.rank`"]) == ("lora", "8")


def test_metrics_are_numbers_and_the_objective_is_not_repeated() -> None:
    given = link(metrics={"kl": 1.23456, "objective": 1.23456, "note": "text"})
    assert list(sections.metrics(given, str)) == [["`kl`", "1.235"]]


@pytest.mark.parametrize(
    ("key", "main"),
    [("gold", True), ("win_rate/gold", True), ("win_rate/lc/gold", False), ("kl", True), ("distinct_1", False),
     ("win_rate_previous/gold", False), ("length", False)],
)  # fmt: skip
def test_few_metrics_are_main(key: str, main: bool) -> None:
    assert sections.is_main(key) is main


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.12345, "0.123"), ({"mean": 0.5, "low": 0.25, "high": 0.755}, "0.50 (0.25 to 0.76)")],
)
def test_numbers(value: Any, text: str) -> None:
    assert sections.number(value) == text


def test_a_name_with_markup_is_no_code() -> None:
    assert sections.code("a/b.c-d", str) == "`a/b.c-d`"
    assert sections.code("a`b", lambda text: text.replace("`", "&#96;")) == "a&#96;b"


def test_data_of_several_stages_are_one_source_with_rows_of_each() -> None:
    def run(stage: str, digest: str) -> Link:
        data = {"preferences": {"train": {"rows": 1200, "fingerprint": "f", "longer than max_length, cut": 3}}}
        settings = {"data": {"path": "pairs.jsonl"}, "stage": {}, "adapter": {"kind": "none"}}
        return Link(None, manifest(stage, data=data, settings=settings, content={"files.preferences": digest}))

    chain = [run("reward", "0123456789abcdef"), run("dpo", "0123456789abcdef")]
    assert [row[2:5] for row in sections.data(chain, str)] == [
        ["reward", "preferences, train", "1,200"], ["dpo", "preferences, train", "1,200"],
    ]  # fmt: skip
    assert {row[1] for row in sections.data(chain, str)} == {"files `0123456789ab`"}
    assert {row[5] for row in sections.data(chain, str)} == {"3 longer than max_length, cut"}
    [on_hub] = sections.sources([run("dpo", f"org/pairs@{'a' * 40}")]).values()
    assert (on_hub["id"], on_hub["commit"]) == ("org/pairs", "a" * 40)


def test_samples_are_those_of_the_last_step(tmp_path: Path) -> None:
    rows = [{"step": step, "prompt": f"q{n}", "completion": f"a{step}"} for step in (1, 2) for n in range(3)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sections.samples(tmp_path, 2, str) == [["q0", "a2"], ["q1", "a2"]]
    assert sections.samples(tmp_path / "none", 2, str) == sections.samples(None, 2, str) == []


def test_a_certificate_counts_only_if_it_has_these_weights(tmp_path: Path) -> None:
    reader = {"tokens": 12, "kl_mean": 1.2e-5, "kl_max": 2e-4, "same_token": 1.0, "same_answer": 0.5}
    found = {"weights": "a" * 64, "format": "gguf", "precision": "q8_0", "prompts": 4, "limit": 0.01}
    (tmp_path / "certificate.json").write_text(json.dumps(found | {"readers": {"llama.cpp": reader}}))
    certificate = sections.certificate(tmp_path, "a" * 64, str)
    assert certificate is not None
    assert (certificate["form"], certificate["limit"]) == ("gguf, q8_0", "0.01")
    assert certificate["rows"] == [["llama.cpp", 12, "1.2e-05", "0.0002", "100.0%", "50.0%"]]
    for place, digest in ((tmp_path, "b" * 64), (tmp_path, None), (None, "a" * 64), (tmp_path / "none", "a" * 64)):
        assert sections.certificate(place, digest, str) is None
    (tmp_path / "certificate.json").write_text(json.dumps(found | {"scores": {}}))  # of a reward model
    assert sections.certificate(tmp_path, "a" * 64, str) is None


def test_a_comparison_counts_only_if_it_has_these_weights(tmp_path: Path) -> None:
    parents = {
        stage: {"path": stage, "stage": stage, "digest": stage[0], "revision": None} for stage in ("sft", "reward")
    }
    (tmp_path / "run.json").write_text(json.dumps(manifest("compare", parents=parents)))
    (tmp_path / "metrics.json").write_text(json.dumps({"models": {"sft": {"gold": 1.0}}}))
    found = sections.compared(tmp_path, "s")
    assert found is not None
    assert found["column"] == "sft"
    judged = sections.compared(tmp_path, "r")  # the reward model has no column
    assert judged is not None
    assert judged["column"] is None
    assert sections.compared(tmp_path, "other") is sections.compared(None, "s") is None
