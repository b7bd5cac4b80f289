import json
import math
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.data import load
from rlhf.errors import LineageError
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides


def sampled(chain: Path, tmp_path: Path, *overrides: str) -> Settings:
    return composed(*tiny_overrides("sample", tmp_path), f"stage.policy={chain}/almanac/sft", *overrides)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_prompt_has_its_responses(chain: Path, tmp_path: Path) -> None:
    final = execute(sampled(chain, tmp_path), tmp_path / "sample")
    found = rows(tmp_path / "sample" / "responses.jsonl")
    assert len(found) == 6
    assert all(len(row["responses"]) == len(row["ended"]) == 3 for row in found)
    assert final["responses"] == 18
    assert set(final) == {"responses", "ended", "tokens"}
    manifest = Run.open(tmp_path / "sample").manifest
    assert manifest["output"]
    assert manifest["weights"] is None
    assert manifest["data"]["prompts"]["train"]["rows"] == 6


def test_equal_settings_give_equal_bytes(chain: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        execute(sampled(chain, tmp_path, f"seed={seed}"), tmp_path / name)
    one, same, other = ((tmp_path / name / "responses.jsonl").read_bytes() for name in ("one", "same", "other"))
    assert one == same
    assert one != other


def test_with_a_reward_the_best_of_each_prompt_are_demonstrations(chain: Path, tmp_path: Path) -> None:
    settings = sampled(chain, tmp_path, f"stage.reward={chain}/almanac/reward")
    final = execute(settings, tmp_path / "sample")
    found, best = (rows(tmp_path / "sample" / f"{name}.jsonl") for name in ("responses", "best"))
    for row, one in zip(found, best, strict=True):
        assert row["scores"][row["responses"].index(one["completion"][0]["content"])] == max(row["scores"])
        assert one["completion"][0]["content"] in row["responses"]
    assert final["best_of_1/score"] == pytest.approx(sum(s for row in found for s in row["scores"]) / 18)
    assert final["best_of_2/score"] > final["best_of_1/score"]
    assert final["best_of_2/kl"] == pytest.approx(math.log(2) - 0.5)
    assert "best_of_4/score" not in final
    data = composed("stage=sft", f"data.path={tmp_path}/sample/best.jsonl").data
    assert len(load(data, "demonstrations", "train", 0)) + len(load(data, "demonstrations", "validation", 0)) == 6


def test_terms_and_gold_score_as_in_ppo(chain: Path, tmp_path: Path) -> None:
    words = "stage.rewards={short: {length: {max: 0}}, ten: {format: {max_words: 10}, weight: 10}}"
    final = execute(sampled(chain, tmp_path, words, "stage.gold=rlhf.almanac:gold"), tmp_path / "sample")
    for row in rows(tmp_path / "sample" / "responses.jsonl"):
        counts = [len(text.split()) for text in row["responses"]]
        assert row["scores"] == [10.0 * (count <= 10) - count for count in counts]
    assert final["best_of_1/score"] == pytest.approx(final["reward/short"] + 10 * final["reward/ten"])
    golds = [gold for row in rows(tmp_path / "sample" / "responses.jsonl") for gold in row["gold"]]
    assert final["objective/gold"] == pytest.approx(sum(golds) / 18)


def test_another_stream_draws_other_prompts_and_responses(chain: Path, tmp_path: Path) -> None:
    for stream in (0, 1):
        execute(sampled(chain, tmp_path, f"stage.stream={stream}"), tmp_path / str(stream))
    first, second = (rows(tmp_path / str(stream) / "responses.jsonl") for stream in (0, 1))
    assert [row["prompt"] for row in first] != [row["prompt"] for row in second]


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match=r"run stage=sft first"):
        execute(composed(*tiny_overrides("sample", tmp_path)), tmp_path / "sample")
