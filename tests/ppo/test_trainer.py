"""The algorithm as a whole: what must hold at its start, at every step, across padding, batches and interruptions."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.errors import ConfigError, TrainingError
from rlhf.ppo import Critic, PPOTrainer, gae, shape_rewards
from rlhf.ppo.rollout import Rollout, collect, evaluate
from tests.ppo.conftest import PROMPTS, new_policy, new_reward_model, weights

Trainers = Callable[..., PPOTrainer]


def experience(trainer: PPOTrainer, **fields: Any) -> tuple[Rollout, torch.Tensor, torch.Tensor]:
    """What ``improve`` gets: a rollout with its advantages and returns. The values differ from the returns."""
    stage = trainer.stage
    rollout = collect(
        trainer.policy, trainer.tokenizer, trainer.reward, PROMPTS[:6], temperature=stage.temperature,
        max_prompt_length=stage.max_prompt_length, max_response_length=stage.max_response_length, seed=3,
    )  # fmt: skip
    rollout = evaluate(rollout, trainer.policy, trainer.reference, trainer.critic, stage.temperature, 6)
    rewards = shape_rewards(rollout.scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, stage.kl_coef).rewards
    return rollout, *gae(rewards, rollout.values, rollout.mask, stage.gamma, stage.lam)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> bool:
    return all(torch.allclose(value, other[name], atol=atol, rtol=0) for name, value in one.items())


def test_at_the_start_the_kl_is_zero_and_the_reward_is_the_score(new_trainer: Trainers) -> None:
    """Scores are normalised: mean 2 and deviation 4 are given, and the reward is (score - 2) / 4."""
    trainer = new_trainer(score_mean=2.0, score_std=4.0, missing_eos="keep")
    metrics = trainer.step(trainer.batch(0))
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["objective/non_score_reward"] == pytest.approx(0, abs=1e-6)
    assert metrics["objective/rlhf_reward"] == pytest.approx((metrics["objective/scores"] - 2) / 4, abs=1e-6)


def test_in_the_first_minibatch_the_ratio_is_one_and_nothing_is_clipped(new_trainer: Trainers) -> None:
    trainer = new_trainer(minibatches=1, epochs=1)
    metrics = trainer.step(trainer.batch(0))
    assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/clipfrac_avg"] == metrics["val/clipfrac_avg"] == 0
    assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
    assert metrics["val/ratio_var"] == 0  # of one step


def test_later_minibatches_move_the_ratio(new_trainer: Trainers) -> None:
    trainer = new_trainer(epochs=4)
    metrics = trainer.step(trainer.batch(0))
    assert metrics["policy/approxkl_avg"] > 1e-4
    assert metrics["val/ratio_var"] > 0


def test_a_policy_that_is_not_its_reference_is_refused(new_trainer: Trainers, tokenizer: Any) -> None:
    trainer = new_trainer(reference=new_policy(tokenizer, seed=9))
    with pytest.raises(TrainingError, match="reference"):
        trainer.train()


def test_logprobs_that_are_not_the_policys_are_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    rollout, advantages, returns = experience(trainer)
    with pytest.raises(TrainingError, match="ratio"):
        trainer.improve(rollout._replace(logprobs=rollout.logprobs + 0.01), advantages, returns)


def test_dropout_is_off_and_the_reference_is_frozen(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    trainer.train()
    assert not any(model.training for model in (trainer.policy, trainer.critic, trainer.reference))
    assert not any(parameter.requires_grad for parameter in trainer.reference.parameters())


@pytest.mark.parametrize("size", [1, 4, 6])
def test_accumulated_micro_batches_give_the_step_of_the_full_batch(new_trainer: Trainers, size: int) -> None:
    """Rows have different lengths: a mean of means over micro-batches would be another gradient.

    Plain gradient descent instead of Adam, whose first step has only the gradient's sign.
    """
    found = []
    for micro_batch_size in (6, size):
        trainer = new_trainer(minibatches=1, epochs=1, micro_batch_size=micro_batch_size, max_grad_norm=1e9)
        trainer.optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in trainer.modules.items()
        }
        rollout, advantages, returns = experience(trainer)
        assert len(set(rollout.mask.sum(-1).tolist())) > 1
        metrics = trainer.improve(rollout, advantages, returns)
        found.append((weights(trainer.policy), weights(trainer.critic), metrics))
    for expected, other in zip(found[0][:2], found[1][:2], strict=True):
        assert close(expected, other, atol=1e-6)
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-5)


def test_the_gradient_is_that_of_the_mean_over_tokens(new_trainer: Trainers) -> None:
    """At ratio 1 the policy's loss is -mean A·log π up to a constant; autograd on that is the second way."""
    trainer = new_trainer(minibatches=1, epochs=1, micro_batch_size=2, max_grad_norm=1e9)
    rollout, advantages, returns = experience(trainer)
    rate = trainer.stage.learning_rate
    trainer.optimizers["policy"] = torch.optim.SGD(trainer.policy.parameters(), lr=rate)
    before = weights(trainer.policy)
    expected = torch.zeros_like(trainer.policy.lm_head.weight)
    total = int(rollout.mask.sum())
    for row in range(6):
        ids = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        for t in range(int(rollout.mask[row].sum())):
            token = int(rollout.response_ids[row, t])
            logits = trainer.policy(torch.tensor([ids])).logits[0, -1] / trainer.stage.temperature
            loss = -advantages[row, t] * torch.log_softmax(logits, -1)[token] / total
            expected += torch.autograd.grad(loss, trainer.policy.lm_head.weight)[0]
            ids.append(token)
    trainer.improve(rollout, advantages, returns)
    moved = before["lm_head.weight"] - trainer.policy.lm_head.weight.detach()
    assert torch.allclose(moved, rate * expected, atol=1e-6)
    assert moved.abs().max() > 1e-4


@pytest.mark.parametrize("change", ["left padding", "right padding", "order"])
def test_padding_and_order_change_no_loss_and_no_metric(new_trainer: Trainers, change: str) -> None:
    found = []
    for changed in (False, True):
        trainer = new_trainer(minibatches=1, epochs=2, micro_batch_size=4)
        rollout, advantages, returns = experience(trainer)
        pad = torch.nn.functional.pad
        if changed and change == "order":
            order = torch.tensor([5, 0, 3, 1, 4, 2])
            rollout, advantages, returns = rollout.rows(order), advantages[order], returns[order]
        elif changed and change == "left padding":
            rollout = rollout._replace(
                prompt_ids=pad(rollout.prompt_ids, (3, 0)), prompt_mask=pad(rollout.prompt_mask, (3, 0))
            )
        elif changed:
            wide = {name: pad(getattr(rollout, name), (0, 3)) for name in ("response_ids", "mask", "logprobs")}
            wide |= {name: pad(getattr(rollout, name), (0, 3)) for name in ("ref_logprobs", "values")}
            rollout, advantages, returns = rollout._replace(**wide), pad(advantages, (0, 3)), pad(returns, (0, 3))
        whitened = trainer._whiten(advantages, rollout.mask)
        metrics = trainer.improve(rollout, whitened, returns)
        penalties = torch.zeros_like(returns)
        found.append(metrics | trainer._report(rollout, rollout.scores, penalties, returns))
    assert found[0] == pytest.approx(found[1], abs=2e-4)


def test_ranks_that_cannot_share_the_batch_equally_are_refused(
    new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows on two ranks are three each, which two minibatches cannot share: the ranks would wait for each other."""
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ConfigError, match=r"stage\.batch_size=6"):
        new_trainer(minibatches=2)
    new_trainer(minibatches=3)


def test_whitened_advantages_have_mean_zero_over_the_tokens(new_trainer: Trainers) -> None:
    """Advantages 1, 2, 6: mean 3, variance 7."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = new_trainer()._whiten(torch.tensor([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]), mask)
    assert found.flatten().tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 0, 3 / 7**0.5, 0, 0], abs=1e-6)


def test_prompts_are_visited_once_in_each_pass_and_in_another_order_in_the_next(new_trainer: Trainers) -> None:
    """Seven prompts in batches of six: seven batches are six passes."""
    trainer = new_trainer()
    visited = [prompt for update in range(7) for prompt in trainer.batch(update)]
    passes = [visited[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(part) == sorted(PROMPTS) for part in passes)
    assert len({tuple(part) for part in passes}) > 1
    assert trainer.batch(3) == trainer.batch(3)


def test_the_gradients_of_each_model_are_clipped_by_themselves(new_trainer: Trainers) -> None:
    """By plain gradient descent at rate 1 each model moves as far as the bound on its gradient's norm."""
    trainer = new_trainer(minibatches=1, epochs=1, max_grad_norm=1e-3, learning_rate=1.0, critic_learning_rate=1.0)
    rollout, advantages, returns = experience(trainer)
    trainer.optimizers = {name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in trainer.modules.items()}
    before = {name: weights(model) for name, model in trainer.modules.items()}
    trainer.improve(rollout, advantages, returns)
    for name, model in trainer.modules.items():
        moved = [(value - before[name][key]).double().square().sum() for key, value in weights(model).items()]
        assert sum(moved).sqrt().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_gradient_that_is_no_number_changes_no_parameter(new_trainer: Trainers) -> None:
    """The critic's gradient is infinite, the policy's is fine: neither model takes the step."""
    trainer = new_trainer(minibatches=1)
    rollout, advantages, returns = experience(trainer)
    trainer.critic.classifier.score.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer.policy), weights(trainer.critic)
    with pytest.raises(TrainingError, match="critic"):
        trainer.improve(rollout, advantages, returns)
    assert same(before[0], weights(trainer.policy))
    assert same(before[1], weights(trainer.critic))


def test_an_advantage_that_is_no_number_is_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    rollout, advantages, returns = experience(trainer)
    advantages[0, 0] = math.nan
    with pytest.raises(TrainingError, match="policy"):
        trainer.improve(rollout, trainer._whiten(advantages, rollout.mask), returns)


def test_a_score_that_is_no_number_is_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer(reward=lambda prompts, completions: [math.nan] * len(prompts))
    with pytest.raises(TrainingError, match="finite"):
        trainer.train()


def test_in_its_warm_up_the_critic_alone_learns(new_trainer: Trainers) -> None:
    trainer = new_trainer(critic_warmup_updates=1, updates=2)
    before = weights(trainer.policy), weights(trainer.critic)
    trainer.step(trainer.batch(0))
    assert same(before[0], weights(trainer.policy))
    assert not same(before[1], weights(trainer.critic))
    trainer.step(trainer.batch(1))
    assert not same(before[0], weights(trainer.policy))


def test_learning_rates_rise_linearly_then_fall_linearly(new_trainer: Trainers) -> None:
    """Four updates with a warm-up of two: the shares are ½·1, 1·¾, 1·½, 1·¼."""
    logged: list[dict[str, float]] = []
    new_trainer(
        warmup_updates=2, learning_rate=0.04, critic_learning_rate=0.08, log=lambda metrics, _: logged.append(metrics)
    ).train()
    assert [metrics["lr"] for metrics in logged] == pytest.approx([0.02, 0.03, 0.02, 0.01])
    assert [metrics["lr/critic"] for metrics in logged] == pytest.approx([0.04, 0.06, 0.04, 0.02])


def test_an_adapted_policy_learns_by_its_adapter_alone(new_trainer: Trainers, tokenizer: Any) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    policy = get_peft_model(new_policy(tokenizer), lora)
    before = weights(policy)
    trainer = new_trainer(policy=policy, reference=None)
    first = trainer.step(trainer.batch(0))
    second = trainer.step(trainer.batch(1))
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert second["objective/kl"] != pytest.approx(0, abs=1e-5)
    changed = {name for name, value in weights(policy).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_it_runs_in_bfloat16(new_trainer: Trainers, tokenizer: Any) -> None:
    trainer = new_trainer(
        policy=new_policy(tokenizer).bfloat16(),
        reference=new_policy(tokenizer).bfloat16(),
        critic=Critic(new_reward_model(tokenizer).bfloat16()),
        updates=2,
    )
    assert all(math.isfinite(value) for value in trainer.train().values())


def run(trainer: PPOTrainer, folder: Path, stop_after: int | None = None) -> list[dict[str, float]]:
    """Train and return the logged metrics, stopping as Ctrl-C would after ``stop_after`` updates."""
    logged: list[dict[str, float]] = []
    trainer.log = lambda metrics, update: logged.append(metrics)
    if stop_after is None:
        trainer.train(folder)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(folder, lambda: trainer.update == stop_after)
    return logged


def adapted(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(new_policy(tokenizer), lora)


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    new_trainer: Trainers, tokenizer: Any, tmp_path: Path, stop_after: int, lora: bool
) -> None:
    def fresh() -> PPOTrainer:
        options = {"policy": adapted(tokenizer), "reference": None} if lora else {}
        return new_trainer(**options, save_every=2, critic_warmup_updates=1)

    straight = fresh()
    expected = run(straight, tmp_path / "straight")
    first = run(fresh(), tmp_path / "stopped", stop_after)
    resumed = fresh()
    torch.rand(17)  # the state of the global generator must not matter
    assert resumed.restore(tmp_path / "stopped") == stop_after
    assert first + run(resumed, tmp_path / "stopped") == expected
    for name in ("policy", "critic"):
        assert same(weights(straight.modules[name]), weights(resumed.modules[name]))
        states = [trainer.optimizers[name].state_dict()["state"] for trainer in (straight, resumed)]
        for index, state in states[0].items():
            assert same(state, states[1][index])


def test_a_finished_run_has_nothing_left_to_do(new_trainer: Trainers, tmp_path: Path) -> None:
    trainer = new_trainer(updates=2)
    metrics = trainer.train(tmp_path)
    again = new_trainer(updates=2)
    again.restore(tmp_path)
    assert again.train(tmp_path) == metrics
