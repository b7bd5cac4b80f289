from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.data.rows import Row
from rlhf.evaluation.reward_card.autopsy import autopsies, by_token, gradients, largest, markdown
from rlhf.evaluation.reward_card.pairs import score_pairs, side
from rlhf.preference.losses import bradley_terry
from rlhf.rewards import RewardModel
from tests.rewards.test_model import new_encoder

ROWS: list[Row] = [
    {"prompt": f"<b>{n}</b>", "chosen": f" yes {n}", "rejected": f" no, not {n} | at all"[: 9 + n]} for n in range(8)
]


@pytest.fixture(scope="module")
def reward(chain: Path) -> RewardModel:
    folder = chain / "almanac" / "reward" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return RewardModel(model, AutoTokenizer.from_pretrained(folder), max_length=64)


def test_the_gradient_is_that_of_the_loss_with_respect_to_the_head(reward: RewardModel) -> None:
    found = gradients(reward, side(ROWS, "chosen"), side(ROWS, "rejected"))
    assert found is not None
    head = reward.model.score.weight
    for row, ours in zip(ROWS, found, strict=True):
        scores = [
            reward.model(input_ids=torch.tensor([reward.encode(row["prompt"], row[name])])).logits[0]
            for name in ("chosen", "rejected")
        ]
        [expected] = torch.autograd.grad(bradley_terry(*scores).sum(), head)
        torch.testing.assert_close(ours[None], expected, atol=1e-5, rtol=1e-4)


def test_a_pair_supports_itself_and_opposes_its_opposite(reward: RewardModel) -> None:
    """Every pair that is scored wrong is also in the training data, once unchanged and once with the other label."""
    flipped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    test = score_pairs(ROWS, reward)
    wrong = [i for i, difference in enumerate(test.differences) if difference < 0]
    found = autopsies(reward, test, [*ROWS, *flipped], 3, 0)
    assert len(found) == min(3, len(wrong)) > 0
    assert [one.pair for one in found] == sorted(wrong, key=lambda i: test.differences[i])[:3]
    for one in found:
        assert one.supporting[0].influence > 0 > one.opposing[0].influence
        own = gradients(reward, side([ROWS[one.pair]], "chosen"), side([ROWS[one.pair]], "rejected"))
        assert own is not None
        everything = gradients(reward, side(ROWS, "chosen"), side(ROWS, "rejected"))
        assert everything is not None
        assert one.supporting[0].influence >= max(everything @ own[0]).item() - 1e-6
    text = "\n".join(markdown(found[0], test))
    assert "<b>" not in text
    assert "| for |" in text
    assert "| against |" in text
    assert autopsies(reward, score_pairs([flipped[i] for i in wrong], reward), ROWS, 3, 0) == []


def test_the_changes_of_the_score_add_up(reward: RewardModel) -> None:
    """From the score at the end of the prompt to the score of the response."""
    steps = by_token(reward, "is it", " yes it is")
    ids = reward.encode("is it", " yes it is")
    start = reward.running(ids)[len(ids) - len(steps) - 1]
    assert start + sum(step for _, step in steps) == pytest.approx(reward(["is it"], [" yes it is"])[0], abs=1e-5)
    assert 1 < len(steps) < len(ids)
    short = RewardModel(reward.model, reward.tokenizer, max_length=3)
    assert len(by_token(short, "is it", " yes it is")) == 3


def test_the_largest_changes_keep_their_order() -> None:
    assert largest([(str(n), (-1) ** n * n) for n in range(9)]) == [4, 5, 6, 7, 8]


def test_an_encoder_has_no_autopsy() -> None:
    model, tokenizer = new_encoder()
    reward = RewardModel(model, tokenizer, max_length=None)
    test = score_pairs([{"prompt": "a", "chosen": " b", "rejected": " c"}] * 2, reward)
    test.chosen_scores[:] = -1e3
    assert autopsies(reward, test, ROWS, 3, 0) == []
