"""The whole algorithm: invariants at its start, at every step, across padding, batches and interruptions."""

import itertools
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.config import Advantage
from rlhf.errors import ConfigError, TrainingError
from rlhf.modeling.generation import Sampled, sample
from rlhf.ppo import Critic, PPOTrainer, kl, settings
from rlhf.rewards import CompositeReward, LengthReward, RewardTerm, RunningNormalizer
from tests.ppo.conftest import (
    OF_REWARD,
    PROMPTS,
    TINY,
    close,
    length_reward,
    new_policy,
    new_reward_model,
    same,
    weights,
)
from tests.training.test_oom import limit_ppo

Trainers = Callable[..., PPOTrainer]


def test_at_the_start_the_kl_is_zero_and_the_reward_is_the_score(new_trainer: Trainers) -> None:
    """Scores are normalized: with mean 2 and deviation 4 the reward is (score - 2) / 4."""
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


@pytest.mark.parametrize("kind", OF_REWARD)
def test_the_kl_coefficient_adapts_from_one_update_to_the_next(new_trainer: Trainers, kind: str) -> None:
    """The logged coefficient is the one in use; at the first update the KL is 0, so the error is clipped."""
    logged: list[dict[str, float]] = []
    options: dict[str, Any] = {"advantage": kind, "samples": 2, "missing_eos": "keep", "kl_target": 0.05}
    new_trainer(**options, kl_gain=0.5, log=lambda metrics, _: logged.append(metrics)).train()
    assert logged[0]["objective/kl_coef"] == 0.05
    assert logged[1]["objective/kl_coef"] == pytest.approx(0.05 * 0.9)
    for before, after in itertools.pairwise(logged):
        expected = kl.adapted(before["objective/kl_coef"], before["objective/kl"], 0.05, 0.5)
        assert after["objective/kl_coef"] == pytest.approx(expected)
    assert len({metrics["objective/kl_coef"] for metrics in logged}) == 4


def test_a_fixed_coefficient_stays(new_trainer: Trainers) -> None:
    trainer = new_trainer(updates=2)
    assert trainer.train()["objective/kl_coef"] == trainer.kl_coef == 0.05


def test_the_kl_in_the_loss_leaves_the_rewards_unchanged(new_trainer: Trainers) -> None:
    """With λ = 1 and values of 0 the returns are the score for any KL; the reported objective still subtracts it."""
    trainer = new_trainer(kl_in="loss", kl_estimator="k2", kl_coef=10.0, gae_lambda=1.0, missing_eos="keep", updates=2)
    improve, seen = trainer.learner.improve, []

    def noted(rollout: Any, advantages: Any, returns: Any, update: int, kl_coef: float) -> dict[str, float]:
        seen.append((rollout, returns, kl_coef))
        return improve(rollout, advantages, returns, update, kl_coef)

    trainer.learner.improve = noted
    metrics = trainer.train()
    rollout, returns, kl_coef = seen[-1]
    assert torch.allclose(returns[rollout.mask], rollout.scores[:, None].expand_as(returns)[rollout.mask], atol=1e-5)
    assert kl_coef == 10.0
    half_squares = 0.5 * (rollout.logprobs - rollout.ref_logprobs) ** 2
    expected = -10 * torch.where(rollout.mask, half_squares, 0.0).sum(-1).mean().item()
    assert metrics["objective/non_score_reward"] == pytest.approx(expected, rel=1e-4)
    assert metrics["objective/rlhf_reward"] == pytest.approx(metrics["objective/scores"] + expected, rel=1e-4)


def test_rewards_are_whitened_before_the_advantages_are_estimated(new_trainer: Trainers) -> None:
    """λ = 1: the first token's return is the sum of the whitened rewards, in plain Python over the unmasked tokens."""
    trainer = new_trainer(whiten_rewards=True, gae_lambda=1.0, missing_eos="keep")
    improve, seen = trainer.learner.improve, []
    trainer.learner.improve = lambda *arguments: seen.append(arguments) or improve(*arguments)
    trainer.step(trainer.batch(0))
    rollout, returns = seen[0][0], seen[0][2]
    lengths = rollout.mask.sum(-1).tolist()
    rows = [[0.0] * (length - 1) + [score] for length, score in zip(lengths, rollout.scores.tolist(), strict=True)]
    plain = [value for row in rows for value in row]
    mean, std = statistics.mean(plain), statistics.stdev(plain)
    expected = [sum((value - mean) / std + mean for value in row) for row in rows]
    assert returns[:, 0].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", OF_REWARD)
def test_every_estimator_learns_and_resumes_to_the_bit(new_trainer: Trainers, tmp_path: Path, kind: str) -> None:
    """Without GAE, neither a critic nor its metrics, files and learning rate exist."""
    options: dict[str, Any] = {"advantage": kind, "samples": 3, "missing_eos": "keep", "updates": 3}
    if Advantage(kind).compares:
        options["equal_groups"] = "resample"
    whole = new_trainer(**options)
    metrics = whole.train()
    cut = new_trainer(**options)
    with pytest.raises(KeyboardInterrupt):
        cut.train(tmp_path, lambda: cut.update == 1)
    again = new_trainer(**options)
    assert again.restore(tmp_path) == 1
    assert again.train(tmp_path) == metrics
    assert same(weights(again.policy), weights(whole.policy))
    assert not same(weights(whole.policy), weights(new_trainer(**options).policy))
    own = {path.name for path in (tmp_path / "update-3").glob("critic*")} | {
        name for name in metrics if "critic" in name
    }
    own |= set(metrics) & {"loss/value_avg", "val/explained_variance"}
    assert bool(own) == (kind == "gae")
    assert metrics["episode"] == 3 * 6 * 3


@pytest.mark.parametrize("kind", OF_REWARD)
def test_micro_batches_and_a_retry_do_not_change_the_step_of_an_estimator(
    new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whole, with micro-batches of two rows, and with memory that runs out above five rows."""
    plain: dict[str, Any] = {"minibatches": 1, "epochs": 1, "max_grad_norm": 1e9, "missing_eos": "keep"}
    found, counts = [], []
    for size, most in ((18, 18), (2, 18), (18, 5)):
        limit_ppo(monkeypatch, most)
        trainer = new_trainer(**plain, advantage=kind, samples=3, micro_batch_size=size)
        trainer.learner.optimizers["policy"] = torch.optim.SGD(trainer.policy.parameters(), lr=10.0)
        trainer.step(trainer.batch(0))
        found.append(weights(trainer.policy))
        counts.append(trainer.learner.parts.count)
    assert counts == [1, 1, 4]
    assert not close(found[0], weights(new_trainer().policy), atol=1e-4)
    assert close(found[0], found[1], atol=1e-5)
    assert close(found[0], found[2], atol=1e-5)


def test_a_critic_is_refused_by_other_estimators_and_needed_by_gae(new_trainer: Trainers, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="stage.advantage=rloo has no critic"):
        new_trainer(advantage="rloo", samples=2, critic=Critic(new_reward_model(tokenizer)))
    stage = settings(**TINY)
    with pytest.raises(ConfigError, match="stage.advantage=gae needs a critic"):
        PPOTrainer(new_policy(tokenizer), None, None, tokenizer, length_reward, PROMPTS, stage, seed=0)


def test_another_engine_draws_and_its_distance_is_measured_and_corrected(new_trainer: Trainers) -> None:
    """An engine whose log-probabilities are all 0.2 nats too high: the gap is 0.2, every token has weight exp(-0.2).

    The weights scale all advantages equally, so a step of plain gradient descent is exp(-0.2) times as long.
    """

    def engine(*arguments: Any) -> list[Sampled]:
        return [Sampled(ids, [value + 0.2 for value in logprobs]) for ids, logprobs, _ in sample(*arguments)]

    moved = {}
    for name, options in {"own": {}, "other": {"sampler": engine, "importance_cap": 2.0}}.items():
        trainer = new_trainer(**options, minibatches=1, epochs=1, max_grad_norm=1e9)
        trainer.learner.optimizers["policy"] = torch.optim.SGD(trainer.policy.parameters(), lr=1.0)
        before = trainer.policy.lm_head.weight.detach().clone()
        metrics = trainer.step(trainer.batch(0))
        moved[name] = before - trainer.policy.lm_head.weight.detach()
        assert metrics["val/sampler_gap"] == pytest.approx(0.2 * (name == "other"), abs=1e-4)
    assert torch.allclose(moved["other"], moved["own"] * math.exp(-0.2), atol=1e-6)
    assert moved["own"].abs().max() > 1e-4


def test_a_policy_that_is_not_its_reference_is_refused(new_trainer: Trainers, tokenizer: Any) -> None:
    trainer = new_trainer(reference=new_policy(tokenizer, seed=9))
    with pytest.raises(TrainingError, match="reference"):
        trainer.train()


def test_dropout_is_off_and_the_reference_is_frozen(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    trainer.train()
    assert not any(model.training for model in (trainer.policy, trainer.critic, trainer.reference))
    assert not any(parameter.requires_grad for parameter in trainer.reference.parameters())


def test_ranks_that_cannot_share_the_batch_equally_are_refused(
    new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows on two ranks are three per rank, which two minibatches cannot share: the ranks would deadlock."""
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ConfigError, match=r"stage\.batch_size=6"):
        new_trainer(minibatches=2)
    new_trainer(minibatches=3)


def test_prompts_are_visited_once_in_each_pass_and_in_another_order_in_the_next(new_trainer: Trainers) -> None:
    """Seven prompts in batches of six: seven batches are six passes."""
    trainer = new_trainer()
    visited = [trainer.prompts[i] for update in range(7) for i in trainer.batch(update)]
    passes = [visited[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(part) == sorted(PROMPTS) for part in passes)
    assert len({tuple(part) for part in passes}) > 1
    assert trainer.batch(3) == trainer.batch(3)


def test_a_score_that_is_not_finite_is_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer(reward=lambda prompts, completions: [math.nan] * len(prompts))
    with pytest.raises(TrainingError, match="finite"):
        trainer.train()


@pytest.mark.parametrize("kind", OF_REWARD)
def test_only_the_adapter_of_an_adapted_policy_learns(new_trainer: Trainers, tokenizer: Any, kind: str) -> None:
    """The base without the adapter is the reference."""
    policy = adapted(tokenizer)
    before = weights(policy)
    trainer = new_trainer(policy=policy, reference=None, advantage=kind, samples=2, missing_eos="keep")
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
    """Train and return the logged metrics; stop like Ctrl-C after ``stop_after`` updates."""
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
        return new_trainer(**options, save_every=2, critic_warmup_updates=1, kl_target=0.05)

    straight = fresh()
    expected = run(straight, tmp_path / "straight")
    first = run(fresh(), tmp_path / "stopped", stop_after)
    resumed = fresh()
    torch.rand(17)  # the state of the global generator must not matter
    assert resumed.restore(tmp_path / "stopped") == stop_after
    assert first + run(resumed, tmp_path / "stopped") == expected
    assert resumed.kl_coef == straight.kl_coef != straight.stage.kl_coef
    for name in ("policy", "critic"):
        assert same(weights(straight.learner.modules[name]), weights(resumed.learner.modules[name]))
        states = [trainer.learner.optimizers[name].state_dict()["state"] for trainer in (straight, resumed)]
        for index, state in states[0].items():
            assert same(state, states[1][index])


def test_no_state_of_any_generator_matters(new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch) -> None:
    """All generators are reseeded before every update: a checkpoint does not need their states."""
    calm, scrambled = new_trainer(), new_trainer()
    calm.train()
    step, noise = PPOTrainer.step, random.SystemRandom()

    def disturbed(trainer: PPOTrainer, prompts: list) -> dict[str, float]:
        seed = noise.randrange(2**32)
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        return step(trainer, prompts)

    monkeypatch.setattr(PPOTrainer, "step", disturbed)
    scrambled.train()
    assert scrambled.metrics == calm.metrics
    for name in ("policy", "critic"):
        assert same(weights(calm.learner.modules[name]), weights(scrambled.learner.modules[name]))


def test_a_finished_run_has_nothing_left_to_do(new_trainer: Trainers, tmp_path: Path) -> None:
    trainer = new_trainer(updates=2)
    metrics = trainer.train(tmp_path)
    again = new_trainer(updates=2)
    again.restore(tmp_path)
    assert again.train(tmp_path) == metrics


def test_each_term_of_a_composition_is_reported_and_gold_trains_nothing(new_trainer: Trainers) -> None:
    """Without Hydra: two weighted terms, one with running statistics, and a gold reward that disagrees."""

    def trained(gold: Any) -> PPOTrainer:
        terms = {
            "long": RewardTerm(length_reward, 1.0, RunningNormalizer()),
            "brief": RewardTerm(LengthReward(max=1), 0.5),
        }
        trainer = new_trainer(reward=CompositeReward(terms), gold=gold, updates=2)
        trainer.train()
        return trainer

    plain, watched = trained(None), trained(lambda prompts, completions: [-float(len(text)) for text in completions])
    assert {"reward/long", "reward/long_std", "reward/brief", "reward/brief_std"} < plain.metrics.keys()
    assert watched.metrics.keys() - plain.metrics.keys() == {"objective/gold", "objective/gold_std"}
    assert watched.metrics["objective/gold"] == pytest.approx(-10 * watched.metrics["reward/long"])
    for name in ("policy", "critic"):
        models = [trainer.learner.modules[name] for trainer in (plain, watched)]
        assert same(*map(weights, models))
