"""The critic as a head on the policy: values from the same pass, and one gradient of both losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.modeling.logprobs import masked_mean
from rlhf.ppo import PPOTrainer, ValueHead, gae
from rlhf.ppo.checkpoint import trainable
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.rollout import Rollout, all_outputs, collect, evaluate, inputs_of
from rlhf.ppo.shared_base import POLICY, SharedBase
from tests.ppo.conftest import PROMPTS, TINY, model_inputs, new_policy, response_logits, same, token_logprobs, weights

Trainers = Callable[..., PPOTrainer]
ONE_STEP = {"minibatches": 1, "epochs": 1, "max_grad_norm": 1e9}


def new_head(detached: bool = False) -> ValueHead:
    """Return a head that is not zero, since at zero the value loss has no gradient for the trunk."""
    head = ValueHead(16, detached=detached)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.nn.init.normal_(head.score.weight, std=0.3)
    return head


def batch_of(trainer: PPOTrainer, most: int = 6) -> tuple[Rollout, torch.Tensor, torch.Tensor]:
    rollout = collect(
        trainer.policy, trainer.tokenizer, trainer.reward, PROMPTS[:6], temperature=0.7, max_prompt_length=8,
        max_response_length=6, seed=242,
    )  # fmt: skip
    rollout = evaluate(rollout, trainer.policy, trainer.reference, trainer.critic, 0.7, most)
    rewards = torch.where(rollout.mask, torch.sin(rollout.response_ids.float()), 0.0)
    return rollout, *gae(rewards, rollout.values, rollout.mask, 1.0, 0.95)


def plain_values(policy: Any, head: ValueHead, rollout: Rollout) -> torch.Tensor:
    """Return the head's values (B, T) on all of transformers' hidden states of padded rows."""
    hidden = policy.model(**model_inputs(rollout), use_cache=False).last_hidden_state
    states = hidden[:, -rollout.response_ids.shape[1] - 1 : -1]
    return head.score(states.detach() if head.detached else states)[..., 0]


def test_it_starts_with_values_of_zero() -> None:
    assert ValueHead(16)(torch.randn(5, 16)).tolist() == [0.0] * 5


def test_values_are_the_head_on_the_states_before_response_tokens(new_trainer: Trainers) -> None:
    trainer = new_trainer(critic=new_head())
    rollout, *_ = batch_of(trainer, most=2)
    with torch.no_grad():
        expected = plain_values(trainer.policy, trainer.critic, rollout)
    assert torch.allclose(rollout.values[rollout.mask], expected[rollout.mask], atol=1e-5)
    assert (rollout.values[~rollout.mask] == 0).all()
    assert expected[rollout.mask].std() > 0.1


@pytest.mark.parametrize("rows", [None, 2])
def test_values_noted_while_decoding_are_those_of_a_pass(new_trainer: Trainers, rows: int | None) -> None:
    """A prompt occurs twice, and rows end at different steps and are dropped."""
    trainer = new_trainer(critic=new_head(), rollout={"rows": rows}, batch_size=8)
    seen = {}
    improve = trainer.learner.improve
    trainer.learner.improve = lambda rollout, *others: seen.update(rollout=rollout) or improve(rollout, *others)
    trainer.step([*range(7), 0])
    noted = seen["rollout"]
    trainer = new_trainer(critic=new_head())
    again = evaluate(noted._replace(values=noted.values * 0), trainer.policy, trainer.reference, trainer.critic, 0.7, 8)
    assert torch.allclose(noted.values, again.values, atol=1e-5)
    assert torch.allclose(noted.logprobs, again.logprobs, atol=1e-5)
    assert again.values.abs().sum() > 0


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("size", [2, 6])
def test_the_step_is_that_of_the_sum_of_both_losses(new_trainer: Trainers, detached: bool, size: int) -> None:
    """The oracle uses plain padded passes; gradient descent, so that the size of gradients matters."""
    head = new_head(detached)
    trainer = new_trainer(critic=head, **ONE_STEP, micro_batch_size=size, value_coef=0.3)
    rollout, advantages, returns = batch_of(trainer)
    models = trainer.learner.modules
    trainer.learner.optimizers = {name: torch.optim.SGD(one.parameters(), lr=1.0) for name, one in models.items()}
    logprobs = token_logprobs(response_logits(trainer.policy, rollout), rollout.response_ids, 0.7)
    loss = masked_mean(clipped_policy_loss(logprobs, rollout.logprobs, advantages, 0.2, 0.2, None).loss, rollout.mask)
    values = plain_values(trainer.policy, head, rollout)
    loss = loss + 0.3 * masked_mean(clipped_value_loss(values, rollout.values, returns, 0.2)[0], rollout.mask)
    parameters = [*trainer.policy.parameters(), *head.parameters()]
    gradients = torch.autograd.grad(loss, parameters)
    start = [one.detach().clone() for one in parameters]
    metrics = trainer.learner.improve(rollout, advantages, returns, 0)
    for before, one, gradient in zip(start, parameters, gradients, strict=True):
        assert torch.allclose((before - one) / trainer.stage.learning_rate, gradient, atol=1e-4)
    assert metrics["loss/policy_avg"] + 0.3 * metrics["loss/value_avg"] == pytest.approx(loss.item(), abs=1e-5)


def test_detached_it_leaves_the_trunk_to_the_policys_loss(new_trainer: Trainers) -> None:
    found = []
    for coefficient in (0.1, 5.0):
        trainer = new_trainer(critic=new_head(detached=True), **ONE_STEP, value_coef=coefficient)
        trainer.learner.improve(*batch_of(trainer), 0)
        found.append(weights(trainer.policy))
    assert same(*found)


def test_only_the_head_learns_during_its_warm_up(new_trainer: Trainers) -> None:
    trainer = new_trainer(critic=ValueHead(16), critic_warmup_updates=1)
    policy, head = weights(trainer.policy), weights(trainer.critic)
    trainer.step(trainer.batch(0))
    assert same(policy, weights(trainer.policy))
    assert not same(head, weights(trainer.critic))


def test_it_learns_to_predict_the_reward(new_trainer: Trainers) -> None:
    """Starting at zero, with a constant policy, it explains some of the returns' variance."""
    trainer = new_trainer(
        critic=ValueHead(16, detached=True), updates=30, critic_warmup_updates=30, critic_learning_rate=0.1,
        value_clip=None, kl_coef=0.0, missing_eos="keep",
    )  # fmt: skip
    logged: list[float] = []
    trainer.log = lambda metrics, update: logged.append(metrics["loss/value_avg"])
    trainer.train()
    assert sum(logged[-5:]) < 0.7 * sum(logged[:5])


@pytest.mark.parametrize("share_base_model", [False, True])
def test_an_adapted_policy_has_one_too(new_trainer: Trainers, tokenizer: Any, share_base_model: bool) -> None:
    """Its values are those of the same weights without peft; only adapter and head learn."""
    torch.manual_seed(0)
    adapted = get_peft_model(new_policy(tokenizer), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    policy, reference = adapted, None
    if share_base_model:
        shared = SharedBase(adapted)
        policy, reference = shared.language_model([POLICY], train=True), shared.language_model([])
    trainer = new_trainer(policy=policy, reference=reference, critic=new_head(), updates=2)
    base = {name: value.clone() for name, value in weights(adapted).items() if "lora_" not in name}
    trainer.train()
    assert all(torch.equal(value, weights(adapted)[name]) for name, value in base.items())
    rollout, *_ = batch_of(trainer)
    assert all("lora_" in name for name in trainable(policy))
    merged = adapted.merge_and_unload() if not share_base_model else None
    if merged is not None:
        with torch.no_grad():
            expected = plain_values(merged, trainer.critic, rollout)
        assert torch.allclose(rollout.values[rollout.mask], expected[rollout.mask], atol=1e-4)


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(new_trainer: Trainers, tmp_path: Path) -> None:
    def fresh() -> PPOTrainer:
        return new_trainer(critic=ValueHead(16), save_every=2)

    straight = fresh()
    straight.train(tmp_path / "straight")
    stopped = fresh()
    with pytest.raises(KeyboardInterrupt):
        stopped.train(tmp_path / "stopped", lambda: stopped.update == 2)
    resumed = fresh()
    assert resumed.restore(tmp_path / "stopped") == 2
    resumed.train(tmp_path / "stopped")
    assert resumed.metrics == straight.metrics
    for name in ("policy", "critic"):
        assert same(weights(straight.learner.modules[name]), weights(resumed.learner.modules[name]))


def test_the_pass_that_gives_values_gives_the_logprobs_of_one_without(new_trainer: Trainers) -> None:
    trainer = new_trainer(critic=new_head())
    rollout, *_ = batch_of(trainer)
    with torch.no_grad():
        inputs = inputs_of(rollout)
        found = all_outputs(trainer.policy, trainer.critic, rollout, inputs, TINY["temperature"])
        alone = all_outputs(trainer.policy, None, rollout, inputs, TINY["temperature"])
    assert alone[2] is None
    assert torch.equal(found[0], alone[0])
    assert torch.equal(found[1], alone[1])
