import pytest
import torch
from accelerate import Accelerator

from rlhf.ppo.metrics import report
from rlhf.ppo.rollout import Rollout

MASK = torch.tensor([[True, True, True], [True, False, False]])


def rollout(**changes: torch.Tensor) -> Rollout:
    """Two responses of 3 and 1 tokens; what is off the mask must count nowhere."""
    off = torch.where(MASK, 0.0, 99.0)
    fields = {
        "prompt_ids": torch.zeros(2, 1, dtype=torch.long), "prompt_mask": torch.ones(2, 1, dtype=torch.bool),
        "response_ids": torch.tensor([[5, 6, 1], [7, 0, 0]]), "mask": MASK, "ended": torch.tensor([True, False]),
        "logprobs": torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]]) + off,
        "ref_logprobs": torch.tensor([[-2.0, -2.0, -3.5], [-5.0, 0.0, 0.0]]),
        "sampler_logprobs": torch.tensor([[-1.0, -2.5, -3.0], [-4.0, 0.0, 0.0]]),
        "values": torch.zeros(2, 3), "scores": torch.tensor([1.0, 3.0]),
    }  # fmt: skip
    return Rollout(**fields | changes)


def measured(**changes: torch.Tensor) -> dict[str, float]:
    penalties = torch.tensor([[-0.1, 0.0, -0.1], [-0.4, 0.0, 0.0]])
    returns = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 0.0]])
    return report(rollout(**changes), torch.tensor([0.5, 1.5]), penalties, returns, Accelerator(cpu=True))


def test_by_hand() -> None:
    """Means over responses: KL (1.5 + 1) / 2, penalty (-0.2 - 0.4) / 2, entropy (6 + 4) / 2, length (3 + 1) / 2."""
    found = measured()
    expected = {
        "objective/scores": 2.0, "objective/scores_std": 2**0.5, "objective/kl": 1.25, "objective/entropy": 5.0,
        "objective/non_score_reward": -0.3, "objective/rlhf_reward": 1.0 - 0.3, "val/ended": 0.5,
        "val/response_length": 2.0, "val/repetition": 0.0, "val/distinct": 1.0, "val/sampler_gap": 0.5 / 4,
        "val/explained_variance": 0.0, "tokens": 6.0, "sampled_tokens": 4.0,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_critic_that_knows_the_returns_explains_them() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0], [2.0, 99.0, 99.0]])
    assert measured(values=returns)["val/explained_variance"] == pytest.approx(1.0)
    assert measured(values=-returns)["val/explained_variance"] < 0


def test_equal_responses_are_not_distinct() -> None:
    same = torch.tensor([[5, 6, 1], [5, 6, 1]])
    assert measured(response_ids=same, mask=torch.ones(2, 3, dtype=torch.bool))["val/distinct"] == 0.5


def test_responses_to_one_prompt_may_be_equal() -> None:
    """Two prompts with two equal responses each: of one response per prompt, both are distinct."""
    same = rollout(response_ids=torch.tensor([[5, 6, 7], [5, 6, 7]]), mask=torch.ones(2, 3, dtype=torch.bool))
    both = Rollout(
        *(
            torch.cat([field, field + 1]) if field.dtype is torch.long else torch.cat([field, field])
            for field in same[:-1]
        )
    )
    zeros = torch.zeros(4, 3)
    found = [report(both, torch.zeros(4), zeros, None, Accelerator(cpu=True), samples) for samples in (1, 2)]
    assert [one["val/distinct"] for one in found] == [0.5, 1.0]
