"""Steps of both models from a batch of rollouts: gradients, their bounds, and invariances."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.errors import TrainingError
from rlhf.modeling.segment_attention import lay_out
from rlhf.ppo import PPOTrainer, ValueHead, checkpoint
from rlhf.ppo.distributed import whiten
from rlhf.ppo.metrics import Metrics, report
from rlhf.ppo.rollout import grouped_batches
from tests.ppo.conftest import PROMPTS, close, experience, new_policy, same, weights
from tests.ppo.test_gradients import ONE_STEP, moved

Trainers = Callable[..., PPOTrainer]


def test_logprobs_that_are_not_the_policys_are_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    rollout, advantages, returns = experience(trainer)
    with pytest.raises(TrainingError, match="ratio"):
        trainer.learner.improve(rollout._replace(logprobs=rollout.logprobs + 0.01), advantages, returns, 0)


EVERYTHING = {
    "kl_in": "loss", "kl_estimator": "k3", "entropy_coef": 0.1, "loss_mean": "response", "importance_cap": 2.0,
    "dual_clip": 3.0, "clip_high": 0.28, "value_clip": None,
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["defaults", "every option"])
@pytest.mark.parametrize("size", [1, 4, 6])
def test_accumulated_micro_batches_give_the_step_of_the_full_batch(
    new_trainer: Trainers, size: int, options: dict[str, Any]
) -> None:
    """Rows have different lengths: a mean of means over micro-batches would be another gradient.

    Plain gradient descent instead of Adam, whose first step has only the gradient's sign.
    """
    found = []
    for micro_batch_size in (6, size):
        trainer = new_trainer(minibatches=1, epochs=1, micro_batch_size=micro_batch_size, max_grad_norm=1e9, **options)
        trainer.learner.optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in trainer.learner.modules.items()
        }
        rollout, advantages, returns = experience(trainer)
        assert len(set(rollout.mask.sum(-1).tolist())) > 1
        assert rollout.sampler_logprobs.abs().sum() > 0
        rollout = rollout._replace(sampler_logprobs=rollout.sampler_logprobs - 0.3)
        metrics = trainer.learner.improve(rollout, advantages, returns, 0, 0.1 * bool(options))
        found.append((weights(trainer.policy), weights(trainer.critic), metrics))
    for expected, other in zip(found[0][:2], found[1][:2], strict=True):
        assert close(expected, other, atol=1e-6)
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-5)


def test_an_update_ends_before_the_step_that_starts_too_far_away(new_trainer: Trainers) -> None:
    """Some of sixteen allowed steps are taken; the weights equal those after exactly that number of steps."""
    options = {"minibatches": 2, "epochs": 8}
    trainer = new_trainer(**options, target_kl=0.02)
    rollout, advantages, returns = experience(trainer)
    metrics = trainer.learner.improve(rollout, advantages, returns, 0)
    steps = int(metrics["policy/steps"])
    assert 1 <= steps < 16
    other = new_trainer(**options)
    descend, taken = other.learner._descend, []

    def bounded(found: Metrics, learns: bool, update: int) -> None:
        taken.append(found["policy/approxkl_avg"])
        if len(taken) <= steps:
            descend(found, learns, update)
        else:
            other.learner._forget()

    other.learner._descend = bounded
    assert other.learner.improve(rollout, advantages, returns, 0)["policy/steps"] == 16
    assert max(taken[:steps]) <= 0.02 < taken[steps]
    for name in ("policy", "critic"):
        assert same(weights(trainer.learner.modules[name]), weights(other.learner.modules[name]))
        assert all(parameter.grad is None for parameter in trainer.learner.modules[name].parameters())


def test_without_a_target_every_step_is_taken(new_trainer: Trainers) -> None:
    trainer = new_trainer(minibatches=3, epochs=2, critic_warmup_updates=1)
    rollout, advantages, returns = experience(trainer)
    assert trainer.learner.improve(rollout, advantages, returns, 0)["policy/steps"] == 0  # the critic's warm-up
    assert trainer.learner.improve(rollout, advantages, returns, 1)["policy/steps"] == 6


def test_every_epoch_has_every_row_once_in_a_new_order(new_trainer: Trainers) -> None:
    trainer = new_trainer(minibatches=3, epochs=3)
    learner, mask = trainer.learner, torch.ones(6, 4, dtype=torch.bool)
    parts = [index.tolist() for index in learner._minibatches(mask, 1)]
    assert [len(part) for part in parts] == [2] * 9
    epochs = [list(itertools.chain(*parts[start : start + 3])) for start in range(0, 9, 3)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [index.tolist() for index in learner._minibatches(mask, 1)] == parts
    assert [index.tolist() for index in learner._minibatches(mask, 2)] != parts


def test_minibatches_hold_whole_groups_and_leave_out_masked_ones(new_trainer: Trainers) -> None:
    trainer = new_trainer(minibatches=2, epochs=1, advantage="rloo", samples=2)
    mask = torch.ones(12, 4, dtype=torch.bool)
    mask[[2, 3, 8, 9]] = False  # all responses of the second and the fifth prompt
    mask[4] = False  # one of two
    parts = [index.tolist() for index in trainer.learner._minibatches(mask, 1)]
    assert [len(part) for part in parts] == [4, 4]
    assert sorted(itertools.chain(*parts)) == [0, 1, 4, 5, 6, 7, 10, 11]
    assert all(
        first % 2 == 0 and second == first + 1
        for part in parts
        for first, second in zip(part[::2], part[1::2], strict=True)
    )
    assert not list(trainer.learner._minibatches(torch.zeros_like(mask), 1))


def test_the_first_step_is_adams_with_its_epsilon_and_decays_no_weight(new_trainer: Trainers) -> None:
    """After one gradient g both corrected moments are g and g², so a weight moves by lr · g / (|g| + ε).

    ε is as large as the gradients here; added to the uncorrected root, as in TensorFlow, it would count
    1 / sqrt(1 - 0.999), about thirty times, as much.
    """
    plain = new_trainer(**ONE_STEP, learning_rate=1.0)
    rollout, advantages, returns = experience(plain)
    gradient = moved(plain, rollout, advantages, returns, 0)
    trainer = new_trainer(**ONE_STEP, adam_epsilon=1e-2, learning_rate=0.1)
    before = trainer.policy.lm_head.weight.detach().clone()
    trainer.learner.improve(rollout, advantages, returns, 0)
    found = (before - trainer.policy.lm_head.weight.detach()) / 0.1
    assert torch.allclose(found, gradient / (gradient.abs() + 1e-2), atol=1e-3)
    assert 0.01 < found.abs().max() < 1


def test_the_critic_is_free_without_a_value_clip(new_trainer: Trainers) -> None:
    shares = {}
    for clip in (1e-4, None):
        trainer = new_trainer(value_clip=clip, epochs=4)
        shares[clip] = trainer.learner.improve(*experience(trainer), 0)["val/clipfrac_avg"]
    assert shares[None] == 0 < shares[1e-4]


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["defaults", "every option"])
@pytest.mark.parametrize("change", ["left padding", "right padding", "order"])
def test_padding_and_order_change_no_loss_and_no_metric(
    new_trainer: Trainers, change: str, options: dict[str, Any]
) -> None:
    found = []
    for changed in (False, True):
        trainer = new_trainer(minibatches=1, epochs=2, micro_batch_size=4, **options)
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
            wide |= {
                name: pad(getattr(rollout, name), (0, 3)) for name in ("ref_logprobs", "values", "sampler_logprobs")
            }
            rollout, advantages, returns = rollout._replace(**wide), pad(advantages, (0, 3)), pad(returns, (0, 3))
        whitened = whiten(advantages, rollout.mask, trainer.accelerator)
        metrics = trainer.learner.improve(rollout, whitened, returns, 0, 0.1 * bool(options))
        penalties = torch.zeros_like(returns)
        found.append(metrics | report(rollout, rollout.scores, penalties, returns, trainer.accelerator))
    assert found[0] == pytest.approx(found[1], abs=2e-4)


def test_the_gradients_of_each_model_are_clipped_by_themselves(new_trainer: Trainers) -> None:
    """By plain gradient descent at rate 1 each model moves as far as the bound on its gradient's norm."""
    trainer = new_trainer(minibatches=1, epochs=1, max_grad_norm=1e-3, learning_rate=1.0, critic_learning_rate=1.0)
    rollout, advantages, returns = experience(trainer)
    learner = trainer.learner
    learner.optimizers = {name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in learner.modules.items()}
    before = {name: weights(model) for name, model in learner.modules.items()}
    learner.improve(rollout, advantages, returns, 0)
    for name, model in learner.modules.items():
        moved = [(value - before[name][key]).double().square().sum() for key, value in weights(model).items()]
        assert sum(moved).sqrt().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_gradient_that_is_not_finite_changes_no_parameter(new_trainer: Trainers) -> None:
    """The critic's gradient is infinite, the policy's is fine: neither model takes the step."""
    trainer = new_trainer(minibatches=1)
    rollout, advantages, returns = experience(trainer)
    trainer.critic.classifier.score.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer.policy), weights(trainer.critic)
    with pytest.raises(TrainingError, match="critic"):
        trainer.learner.improve(rollout, advantages, returns, 0)
    assert same(before[0], weights(trainer.policy))
    assert same(before[1], weights(trainer.critic))


def test_an_advantage_that_is_not_finite_is_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    rollout, advantages, returns = experience(trainer)
    advantages[0, 0] = math.nan
    nowhere = whiten(advantages, rollout.mask, trainer.accelerator)
    with pytest.raises(TrainingError, match="policy"):
        trainer.learner.improve(rollout, nowhere, returns, 0)


def test_only_the_critic_learns_during_its_warm_up(new_trainer: Trainers) -> None:
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


GROUPS = {
    "samples": 3,
    "minibatches": 1,
    "epochs": 1,
    "max_grad_norm": 1e9,
    "max_prompt_length": 40,
    "missing_eos": "keep",
}
LONG = "red cat green dog blue bird " * 3  # prompts shorter than a few tokens are not shared


@pytest.mark.parametrize(
    "options",
    [{}, {"critic": ValueHead(16)}, {"advantage": "grpo"}, {"advantage": "rloo"}],
    ids=["critic", "head", "grpo", "rloo"],
)
@pytest.mark.parametrize("size", [None, 4])
def test_shared_prompts_give_the_same_numbers_and_gradients(
    new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], size: int | None
) -> None:
    """Also if a group is split, and with the reference and a separate critic."""
    monkeypatch.setattr("tests.ppo.conftest.PROMPTS", [LONG + prompt for prompt in PROMPTS])
    found, attends = [], []
    monkeypatch.setattr("rlhf.ppo.rollout.lay_out", lambda *given: attends.append(lay_out(*given)) or attends[-1])
    for shared in (False, True):
        trainer = new_trainer(**GROUPS, **copy.deepcopy(options), micro_batch_size=size, shared_prefix=shared)
        trainer.learner.optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in trainer.learner.modules.items()
        }
        metrics = trainer.step(trainer.batch(0))
        assert bool(attends) == shared
        assert all(layout.layers % 2 == 0 and layout.layers for layout in attends)
        assert all(len(layout.source) < layout.index.numel() / 2 for layout in attends if size is None)
        found.append((weights(trainer.policy), {} if trainer.critic is None else weights(trainer.critic), metrics))
    assert close(found[0][0], found[1][0], atol=1e-5)
    assert close(found[0][1], found[1][1], atol=1e-5)
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-4)
    assert not same(found[0][0], weights(new_trainer(**GROUPS, **copy.deepcopy(options)).policy))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("options", [{"critic": ValueHead(16)}, {"advantage": "rloo"}], ids=["head", "rloo"])
def test_layers_below_all_adapters_are_computed_once(
    new_trainer: Trainers, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], shared: bool
) -> None:
    """The weights after a step equal those with whole passes; the lower layer is run for states only once."""
    monkeypatch.setattr("tests.ppo.conftest.PROMPTS", [LONG + prompt for prompt in PROMPTS])
    with monkeypatch.context() as patch:
        patch.setattr("rlhf.ppo.rollout.unchanged", lambda *_: 0)
        whole = one_update(new_trainer, tokenizer, options, shared)
    reused = one_update(new_trainer, tokenizer, options, shared)
    assert close(whole[0], reused[0], atol=1e-5)
    assert whole[1] == pytest.approx(reused[1], abs=1e-4)
    assert whole[2].count(0) == whole[2].count(1)
    assert 3 * reused[2].count(0) == reused[2].count(1) == whole[2].count(1)  # for the reference and two epochs


def one_update(
    new_trainer: Trainers, tokenizer: Any, options: dict[str, Any], shared: bool
) -> tuple[dict[str, torch.Tensor], Metrics, list[int]]:
    """Return weights and metrics after an update, and the layers that ran in another one after its sampling."""
    targets = ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    torch.manual_seed(3)
    policy = get_peft_model(new_policy(tokenizer), LoraConfig(r=2, target_modules=targets))
    given = GROUPS | {"epochs": 2, "shared_prefix": shared} | copy.deepcopy(options)
    trainer = new_trainer(**given, policy=policy, reference=None)
    trainer.learner.optimizers = {
        name: torch.optim.SGD(checkpoint.trainable(model).values(), lr=1.0)
        for name, model in trainer.learner.modules.items()
    }
    found = trainer.step(trainer.batch(0)), weights(trainer.policy)
    ran: list[int] = []
    draw = trainer.collector.draw
    trainer.collector.draw = lambda *given: (draw(*given), ran.clear())[0]
    for number, layer in enumerate(trainer.policy.get_base_model().model.layers):
        layer.self_attn.register_forward_hook(lambda *_, number=number: ran.append(number))
    trainer.step(trainer.batch(1))
    return found[1], found[0], ran


def test_grouped_batches_hold_each_row_once_within_their_bounds(new_trainer: Trainers) -> None:
    """Bounded in rows, in tokens of which a prompt counts once, in both, or not at all."""
    rollout, *_ = experience(new_trainer(samples=3, advantage="rloo"))
    rows = len(rollout.scores)
    lengths, prompts = rollout.mask.sum(-1), rollout.prompt_mask.sum(-1)
    for most, tokens in ((None, None), (3, None), (2, None), (7, None), (None, 30), (4, 21), (1, 1)):
        parts = grouped_batches(rollout, 3, most, tokens)
        assert sorted(torch.cat(parts).tolist()) == list(range(rows))
        for part in parts:
            first = {int(row) // 3: int(prompts[row]) for row in part}
            assert len(part) <= (most or rows)
            assert len(part) == 1 or tokens is None or sum(first.values()) + int(lengths[part].sum()) <= tokens
    assert [len(part) for part in grouped_batches(rollout, 3, 3, None)] == [3] * (rows // 3)
    assert len(grouped_batches(rollout, 3, None, None)) == 1
