"""A batch of rollouts: masks from lengths, log-probabilities of the forward pass, the score on the last token."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config import MissingEOS
from rlhf.data.render import prompt_ids
from rlhf.errors import TrainingError
from rlhf.modeling.generation import response_text
from rlhf.ppo import Critic, shape_rewards
from rlhf.ppo.responses import collect
from rlhf.ppo.rollout import Rollout, evaluate, filled, final_scores, micro_batches, pack
from tests.ppo.conftest import (
    PROMPTS,
    length_reward,
    model_inputs,
    new_policy,
    new_reward_model,
    response_logits,
    token_logprobs,
)

CPU = torch.device("cpu")


def collected(tokenizer: Any, policy: Any = None, reward: Any = length_reward, **options: Any) -> Rollout:
    plain = {"temperature": 0.7, "max_prompt_length": 8, "max_response_length": 6, "seed": 0}
    policy = new_policy(tokenizer) if policy is None else policy
    return collect(policy, tokenizer, reward, PROMPTS, **plain | options)


def evaluated(rollout: Rollout, tokenizer: Any, temperature: float = 0.7, size: int = 2) -> Rollout:
    policy, reference, critic = new_policy(tokenizer), new_policy(tokenizer, 5), Critic(new_reward_model(tokenizer))
    return evaluate(rollout, policy, reference, critic, temperature, size)


def widened(rollout: Rollout, left: int, right: int) -> Rollout:
    """Return the same batch with more padding: columns before the prompts and after the responses."""
    pad = torch.nn.functional.pad
    behind = ("response_ids", "mask", "sampler_logprobs", "logprobs", "ref_logprobs", "values")
    return rollout._replace(
        prompt_ids=pad(rollout.prompt_ids, (left, 0), value=7),
        prompt_mask=pad(rollout.prompt_mask, (left, 0), value=False),
        **{name: pad(getattr(rollout, name), (0, right)) for name in behind},
    )


def test_masks_come_from_lengths_and_not_from_the_padding_token() -> None:
    """The padding token may occur in a prompt or a response and counts there."""
    rollout = pack([[0, 5], [6]], [[0, 0, 1], [9]], [1.0, 2.0], {1}, 0, CPU)
    assert rollout.prompt_ids.tolist() == [[0, 5], [0, 6]]
    assert rollout.prompt_mask.tolist() == [[True, True], [False, True]]
    assert rollout.response_ids.tolist() == [[0, 0, 1], [9, 0, 0]]
    assert rollout.mask.tolist() == [[True, True, True], [True, False, False]]
    assert rollout.ended.tolist() == [True, False]


def test_positions_count_real_tokens() -> None:
    rollout = pack([[4, 5, 6], [7]], [[8], [8, 9]], [0.0, 0.0], {1}, 0, CPU)
    inputs = model_inputs(rollout)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]


def test_the_score_lands_on_the_end_of_sequence() -> None:
    rollout = pack([[5], [6]], [[9, 8, 1], [9, 1]], [3.0, 4.0], {1}, 0, CPU)
    rewards = shape_rewards(rollout.scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, 0.1).rewards
    for row in range(2):
        [[column]] = (rewards[row] != 0).nonzero().tolist()
        assert rollout.response_ids[row, column] == 1


@torch.no_grad()
def test_logprobs_are_those_of_unpadded_prefixes_one_at_a_time(tokenizer: Any) -> None:
    """A plain implementation: no batch, no padding, no mask; one forward pass per token."""
    rollout = evaluated(collected(tokenizer), tokenizer)
    models = {"logprobs": new_policy(tokenizer), "ref_logprobs": new_policy(tokenizer, 5)}
    for row, prompt in enumerate(PROMPTS):
        prefix = prompt_ids(tokenizer, prompt, 8)
        for t in range(int(rollout.mask[row].sum())):
            token = int(rollout.response_ids[row, t])
            for field, model in models.items():
                z = [value / 0.7 for value in model(torch.tensor([prefix])).logits[0, -1].tolist()]
                expected = z[token] - math.log(sum(map(math.exp, z)))
                assert getattr(rollout, field)[row, t].item() == pytest.approx(expected, abs=1e-4)
            prefix.append(token)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_generation_and_the_forward_pass_give_the_same_logprobs(
    tokenizer: Any, dtype: torch.dtype, tolerance: float
) -> None:
    """Log-probabilities of cached, left-padded decoding equal those of one forward pass in the same dtype.

    The tolerance is 1e-4 in float32, and 0.1 with a mean of 0.01 in bfloat16, whose significands have eight bits.
    """
    policy = new_policy(tokenizer).to(dtype)
    rollout = collected(tokenizer, policy, max_response_length=20)
    found = evaluate(rollout, policy, policy, Critic(new_reward_model(tokenizer).to(dtype)), 0.7, 3)
    gaps = (found.sampler_logprobs - found.logprobs).abs()[found.mask]
    assert found.sampler_logprobs[found.mask].max() < 0
    assert gaps.max() < tolerance
    assert gaps.mean() < tolerance / 10


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance", "mean"), [(torch.float32, 1e-4, 1e-5), (torch.bfloat16, 0.6, 0.1)])
@pytest.mark.parametrize("name", ["stories15M", "SmolLM2-135M-Instruct"])
def test_a_real_model_gives_the_same_logprobs(name: str, dtype: torch.dtype, tolerance: float, mean: float) -> None:
    """As above. Measured in bfloat16: at most 0.4 nats with SmolLM2, 0.04 on average; at most 0.2 with stories15M."""
    folder = Path(os.environ.get("RLHF_TEST_MODELS", "nowhere"), name)
    if not folder.is_dir():
        pytest.skip("RLHF_TEST_MODELS names no folder with this model")
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    prompts = ["Once upon a time", "The little dog went to the big forest and", "What is", "Tell me a story about"]
    rollout = collect(
        policy, tokenizer, length_reward, prompts * 2, temperature=0.7, max_prompt_length=20, max_response_length=40,
        seed=0,
    )  # fmt: skip
    with torch.no_grad():
        found = token_logprobs(response_logits(policy, rollout), rollout.response_ids, 0.7)
    gaps = (rollout.sampler_logprobs - found).abs()[rollout.mask]
    assert gaps.max() < tolerance
    assert gaps.mean() < mean


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 4), (2, 5)])
def test_padding_changes_no_logprob_and_no_value(tokenizer: Any, left: int, right: int) -> None:
    rollout = collected(tokenizer)
    plain, padded = evaluated(rollout, tokenizer), evaluated(widened(rollout, left, right), tokenizer)
    for field in ("logprobs", "ref_logprobs", "values"):
        expected, found = getattr(plain, field), getattr(padded, field)
        assert torch.allclose(found[:, : expected.shape[1]][rollout.mask], expected[rollout.mask], atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_micro_batches_and_the_order_change_nothing(tokenizer: Any, size: int) -> None:
    rollout = collected(tokenizer)
    expected = evaluated(rollout, tokenizer, size=2)
    order = torch.randperm(len(PROMPTS), generator=torch.Generator().manual_seed(0))
    permuted = evaluated(rollout.rows(order), tokenizer, size=size)
    for field in ("logprobs", "ref_logprobs", "values"):
        found = getattr(permuted, field)[order.argsort()]
        assert torch.allclose(found[rollout.mask], getattr(expected, field)[rollout.mask], atol=1e-5)
    assert [len(index) for index in micro_batches(rollout, 3, None)] == [3, 3, 1]


def test_the_temperature_divides_the_logits_of_policy_and_reference(tokenizer: Any) -> None:
    rollout = collected(tokenizer)
    sharp = evaluated(rollout, tokenizer, temperature=0.5)
    for field, model in (("logprobs", new_policy(tokenizer)), ("ref_logprobs", new_policy(tokenizer, 5))):
        model.lm_head.weight.data *= 2
        with torch.no_grad():
            expected = token_logprobs(response_logits(model, rollout), rollout.response_ids, 1.0)
        assert torch.allclose(getattr(sharp, field)[rollout.mask], expected[rollout.mask], atol=1e-5)


def test_the_reference_of_an_adapted_policy_is_the_policy_without_its_adapter(tokenizer: Any) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(new_policy(tokenizer), lora).eval()
    for parameter in policy.parameters():
        parameter.data += 0.05 * parameter.requires_grad
    rollout, critic = collected(tokenizer), Critic(new_reward_model(tokenizer))
    found = evaluate(rollout, policy, None, critic, 0.7, 3)
    expected = evaluate(rollout, policy, new_policy(tokenizer), critic, 0.7, 3)
    assert torch.allclose(found.ref_logprobs, expected.ref_logprobs, atol=1e-6)
    assert torch.equal(found.logprobs, expected.logprobs)
    assert not torch.allclose(found.logprobs, found.ref_logprobs, atol=1e-2)
    assert any(parameter.requires_grad for parameter in policy.parameters())  # switched on again


def test_the_text_of_the_sampled_tokens_is_scored(tokenizer: Any) -> None:
    seen: list[tuple[Sequence[Any], Sequence[str]]] = []

    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        seen.append((prompts, completions))
        return [float(i) for i in range(len(prompts))]

    rollout = collected(tokenizer, reward=reward)
    [(prompts, completions)] = seen
    assert list(prompts) == PROMPTS
    assert rollout.scores.tolist() == [0, 1, 2, 3, 4, 5, 6]
    for row, completion in enumerate(completions):
        ids = rollout.response_ids[row][rollout.mask[row]].tolist()
        assert completion == response_text(tokenizer, prompts[row], ids)


def test_the_seed_decides_the_responses(tokenizer: Any) -> None:
    first, again, other = (collected(tokenizer, seed=seed).response_ids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(tokenizer: Any, bad: float) -> None:
    with pytest.raises(TrainingError, match="finite"):
        collected(tokenizer, reward=lambda prompts, completions: [bad] * len(prompts))


SCORES, ENDED = torch.tensor([5.0, 5.0, -7.0]), torch.tensor([True, False, False])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (MissingEOS.keep, [5.0, 5.0, -7.0]),
        (MissingEOS.subtract, [5.0, 3.0, -9.0]),
        (MissingEOS.replace, [5.0, -2.0, -2.0]),
    ],
)
def test_the_rules_for_responses_that_do_not_end(rule: MissingEOS, expected: list[float]) -> None:
    assert final_scores(SCORES, ENDED, 0.0, 1.0, None, rule, 2.0).tolist() == expected


def test_scores_are_normalized_then_clipped_then_penalized() -> None:
    """(5 - 1) / 2 = 2, clipped to 1.5; (-7 - 1) / 2 = -4, clipped to -1.5; 1 less without EOS."""
    found = final_scores(SCORES, ENDED, 1.0, 2.0, 1.5, MissingEOS.subtract, 1.0)
    assert found.tolist() == [1.5, 0.5, -2.5]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.floats(-5, 5), st.floats(0.1, 5), st.floats(0.1, 3))
def test_clipped_scores_stay_within_their_bound(scores: list[float], mean: float, std: float, clip: float) -> None:
    ended = torch.ones(len(scores), dtype=torch.bool)
    found = final_scores(torch.tensor(scores), ended, mean, std, clip, MissingEOS.replace, 1.0)
    for value, score in zip(found.tolist(), scores, strict=True):
        assert value == pytest.approx(min(max((score - mean) / std, -clip), clip), abs=1e-3)


def test_a_response_without_a_score_has_the_mean_of_its_prompts_others() -> None:
    nan = math.nan
    scores = torch.tensor([1.0, nan, 3.0, nan, nan, nan])
    assert filled(scores, 3).tolist() == [1, 2, 3, 2, 2, 2]
    assert filled(torch.tensor([nan, nan]), 1).tolist() == [0, 0]
    assert filled(torch.tensor([1.0, 2.0]), 2).tolist() == [1, 2]
