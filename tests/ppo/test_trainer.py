"""The algorithm as a whole: what must hold at its start, at every step, across padding, batches and interruptions."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.errors import ConfigError, TrainingError
from rlhf.ppo import Critic, PPOTrainer
from tests.ppo.conftest import PROMPTS, new_policy, new_reward_model, same, weights

Trainers = Callable[..., PPOTrainer]


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


def test_dropout_is_off_and_the_reference_is_frozen(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    trainer.train()
    assert not any(model.training for model in (trainer.policy, trainer.critic, trainer.reference))
    assert not any(parameter.requires_grad for parameter in trainer.reference.parameters())


def test_ranks_that_cannot_share_the_batch_equally_are_refused(
    new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows on two ranks are three each, which two minibatches cannot share: the ranks would wait for each other."""
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ConfigError, match=r"stage\.batch_size=6"):
        new_trainer(minibatches=2)
    new_trainer(minibatches=3)


def test_prompts_are_visited_once_in_each_pass_and_in_another_order_in_the_next(new_trainer: Trainers) -> None:
    """Seven prompts in batches of six: seven batches are six passes."""
    trainer = new_trainer()
    visited = [prompt for update in range(7) for prompt in trainer.batch(update)]
    passes = [visited[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(part) == sorted(PROMPTS) for part in passes)
    assert len({tuple(part) for part in passes}) > 1
    assert trainer.batch(3) == trainer.batch(3)


def test_a_score_that_is_no_number_is_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer(reward=lambda prompts, completions: [math.nan] * len(prompts))
    with pytest.raises(TrainingError, match="finite"):
        trainer.train()


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
        assert same(weights(straight.learner.modules[name]), weights(resumed.learner.modules[name]))
        states = [trainer.learner.optimizers[name].state_dict()["state"] for trainer in (straight, resumed)]
        for index, state in states[0].items():
            assert same(state, states[1][index])


def test_a_finished_run_has_nothing_left_to_do(new_trainer: Trainers, tmp_path: Path) -> None:
    trainer = new_trainer(updates=2)
    metrics = trainer.train(tmp_path)
    again = new_trainer(updates=2)
    again.restore(tmp_path)
    assert again.train(tmp_path) == metrics
