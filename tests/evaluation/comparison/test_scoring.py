import math
from typing import Any

import pytest

from rlhf.errors import ConfigError
from rlhf.evaluation.comparison import scoring
from rlhf.runs.parents import Parent
from tests.conftest import composed, manifest
from tests.evaluation.making import comparison


class Roles(dict):
    """A run, of which these functions read the parents and record the data."""

    def __init__(self, **parents: Parent):
        super().__init__(parents)
        self.parents, self.recorded = parents, []

    def record_data(self, kind: str, split: str, rows: Any) -> None:
        self.recorded.append((kind, split, len(rows)))


def of(stage: str, weights: str, **scored_by: str) -> Parent:
    """A run with these weights, which was trained on the models with the digests ``scored_by``."""
    records = {role: {"digest": digest} for role, digest in scored_by.items()}
    return Parent("policy", stage, manifest(stage, weights=weights, parents=records))


def test_the_calibration_of_a_scorer_by_hand() -> None:
    """Two pairs with a difference of log 3, so a confidence of ¾; one is ordered correctly."""
    scores = {"good": math.log(3), "bad": 0.0}
    pairs = [{"prompt": "q", "chosen": "good", "rejected": "bad"}, {"prompt": "q", "chosen": "bad", "rejected": "good"}]
    found = scoring.calibration_of(lambda prompts, texts: [scores[text] for text in texts], pairs, seed=0)
    assert found is not None
    [bin] = found.bins
    assert (bin.count, bin.accuracy) == (2, 0.5)
    assert bin.confidence == pytest.approx(0.75)
    assert found.error == pytest.approx(0.25)
    assert scoring.calibration_of(lambda *_: [], [], seed=0) is None


def test_models_that_were_trained_on_the_scorer_are_named() -> None:
    roles = Roles(
        sft=of("sft", "s"), ppo=of("ppo", "p", reward="R"),
        composed=of("ppo", "c", **{"rewards.a": "x", "rewards.b": "R"}),
        other=of("ppo", "o", reward="another"), hub=Parent("policy", "org/model", None, "main"),
        reward=of("reward", "R"),
    )  # fmt: skip
    names = [name for name in roles if name != "reward"]
    assert [name for name in names if scoring.trained_on(roles, name, "reward")] == ["ppo", "composed"]
    notes: list[str] = []
    scoring.note_trained(roles, "reward", dict.fromkeys(names), notes)
    assert notes == ["Win rates by the reward model favor models that were trained on it: ppo, composed."]


def test_a_missing_reward_model_is_noted_and_gold_still_scores() -> None:
    given = composed("stage=compare", "stage.reward=checkpoints/x/reward")
    made, notes = comparison(["one", "three"]), []
    for answers in made.answers.values():
        answers.scores.clear()
    prompts = [row["prompt"] for row in made.prompts]
    gold = lambda prompts, texts: [float(len(text)) for text in texts]  # noqa: E731
    assert scoring.score_all(given, Roles(), made.answers, prompts, gold, notes) is None
    assert made.answers["sft"].scores == {"gold": [[3.0], [5.0]]}
    assert notes == ["No response is scored by a reward model: checkpoints/x/reward is not there."]


@pytest.mark.parametrize("overrides", [["stage.pairs=0"], ["data.path=prompts.jsonl"], ["data.preferences.path=null"]])
def test_without_pairs_there_is_no_calibration(overrides: list[str]) -> None:
    roles = Roles()
    assert scoring.held_out_pairs(composed("stage=compare", *overrides), roles) == []
    assert roles.recorded == []


def test_pairs_are_drawn_with_the_seed_and_recorded() -> None:
    def drawn(seed: int) -> tuple[list, list]:
        roles = Roles()
        given = composed("stage=compare", "stage.pairs=5", f"seed={seed}")
        return [row["chosen"] for row in scoring.held_out_pairs(given, roles)], roles.recorded

    assert drawn(1) == drawn(1)
    assert drawn(1)[0] != drawn(2)[0]
    assert drawn(1)[1] == [("preferences", "test", 5)]


def test_people_are_not_asked_by_a_comparison() -> None:
    scoring.check_judge(composed("stage=compare"))
    with pytest.raises(ConfigError, match="judge=person cannot be asked by stage=compare: sample each model"):
        scoring.check_judge(composed("stage=compare", "judge=person"))
