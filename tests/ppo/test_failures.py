"""Each failure is provoked in a PPO run of a tiny model, and the sentinel detects it."""

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import TrainingError
from rlhf.modeling.generation import sample
from rlhf.ppo import Critic, Diagnosis, PPOTrainer, rollout
from rlhf.ppo.sentinel import STOPPED
from tests.ppo.conftest import new_policy, new_reward_model

Trainers = Callable[..., PPOTrainer]
QUICK = {
    "batch_size": 12,
    "micro_batch_size": 12,
    "minibatches": 1,
    "epochs": 2,
    "updates": 12,
    "max_response_length": 8,
    "missing_eos": "keep",
    "save_every": 2,
}
# EYES suit a run of a few updates; a test sets the one limit that it is about and disables the others with BLIND.
BLIND = dict.fromkeys(
    ("approx_kl_max", "explained_variance", "kl_max", "kl_min", "eos_rate_min", "length_growth", "repetition",
     "entropy_share", "gold_fall", "distinct")
)  # fmt: skip
EYES = {"window": 3, "grace": 3}


def run(trainer: PPOTrainer, folder: Path | None = None) -> list[Diagnosis]:
    """Train, and return the reported diagnoses."""
    reported: list[Diagnosis] = []
    trainer.tell = reported.append
    trainer.train(folder)
    return reported


def only(name: str, limit: float, **more: Any) -> dict[str, Any]:
    return {"sentinel": BLIND | EYES | {name: limit} | more}


def tilted(tokenizer: Any, **biases: float) -> Any:
    """Return a policy with ``biases`` added to the logits of words, or of EOS (``end``), at every token."""
    policy = new_policy(tokenizer)
    policy.lm_head = torch.nn.Linear(16, len(tokenizer), bias=True)
    torch.nn.init.normal_(policy.lm_head.weight, std=0.3)
    torch.nn.init.zeros_(policy.lm_head.bias)
    for word, bias in biases.items():
        token = tokenizer.eos_token_id if word == "end" else tokenizer(word)["input_ids"][0]
        policy.lm_head.bias.data[token] = bias
    return policy


def pair(policy: Any) -> dict[str, Any]:
    return {"policy": policy, "reference": copy.deepcopy(policy)}


def constant(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [0.0] * len(completions)


def noisy(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Return scores that a critic cannot learn, the same in every run."""
    return [math.sin(1000 * (len(text) + sum(map(ord, text)))) for text in completions]


def test_a_healthy_run_raises_nothing(new_trainer: Trainers, tokenizer: Any) -> None:
    """With the default limits: small steps, responses that end, and a reward that the critic can predict."""

    def dogs(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [2 * ("dog" in prompt) + text.count("e") / 10 for prompt, text in zip(prompts, completions, strict=True)]

    critic = Critic(new_reward_model(tokenizer))
    torch.nn.init.zeros_(critic.classifier.score.weight)
    small = QUICK | {"learning_rate": 1e-3, "value_clip": 10.0, "updates": 16}
    trainer = new_trainer(**small, **pair(tilted(tokenizer, end=3.0)), reward=dogs, critic=critic)
    assert run(trainer) == []
    assert trainer.metrics["sentinel/active"] == 0


def test_a_critic_that_learns_too_fast(new_trainer: Trainers) -> None:
    [diagnosis] = run(
        new_trainer(
            **QUICK | {"critic_learning_rate": 1.0, "learning_rate": 1e-4, "updates": 8},
            reward=noisy,
            **only("explained_variance", 0.0),
        )
    )
    assert diagnosis.name == "critic_not_learning"
    assert "stage.critic_learning_rate" in diagnosis.text


def test_steps_that_are_too_large(new_trainer: Trainers) -> None:
    reported = run(new_trainer(**QUICK | {"learning_rate": 0.3, "updates": 6}, **only("approx_kl_max", 0.1)))
    assert [diagnosis.name for diagnosis in reported] == ["steps_too_large"]


def test_a_kl_without_a_penalty_runs_away(new_trainer: Trainers) -> None:
    reported = run(new_trainer(**QUICK | {"kl_coef": 0.0, "learning_rate": 0.03}, **only("kl_max", 5.0)))
    assert [diagnosis.name for diagnosis in reported] == ["kl_running_away"]
    assert reported[0].medians["objective/kl"] > 5


def test_responses_of_other_weights_make_the_kl_negative(new_trainer: Trainers) -> None:
    """A sampler that never gets the new weights writes responses that are likely under the old policy, not the new."""
    trainer = new_trainer(**QUICK | {"learning_rate": 0.02, "kl_coef": 0.0}, **only("kl_min", -0.5))
    stale = trainer.reference
    trainer.collector.sampler = lambda policy, *arguments: sample(stale, *arguments)
    assert [diagnosis.name for diagnosis in run(trainer)] == ["kl_negative"]


def test_a_policy_that_never_ends(new_trainer: Trainers, tokenizer: Any) -> None:
    trainer = new_trainer(
        **QUICK | {"updates": 8, "learning_rate": 1e-3},
        **pair(tilted(tokenizer, end=-20.0)),
        reward=constant,
        **only("eos_rate_min", 0.2),
    )
    assert [diagnosis.name for diagnosis in run(trainer)] == ["no_eos"]
    assert trainer.metrics["val/ended"] == 0


LONGER = QUICK | {"learning_rate": 0.02, "kl_coef": 0.0, "max_response_length": 12}


def test_a_reward_that_likes_length(new_trainer: Trainers, tokenizer: Any) -> None:
    trainer = new_trainer(**LONGER, **pair(tilted(tokenizer, end=4.5)), **only("length_growth", 1.5))
    [diagnosis] = run(trainer)
    assert diagnosis.name == "length_hack"
    assert diagnosis.medians["val/response_length"] > 6


def test_a_reward_that_likes_one_word(new_trainer: Trainers, tokenizer: Any) -> None:
    """The policy repeats the word for every prompt, and finally writes only that word."""

    def cats(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [float(text.count("cat")) for text in completions]

    trainer = new_trainer(
        **QUICK | {"learning_rate": 0.06, "kl_coef": 0.0},
        **pair(tilted(tokenizer, end=-20.0, cat=4.0)),
        reward=cats,
        seed=2,
        sentinel=BLIND | EYES | {"repetition": 0.3, "distinct": 0.3, "entropy_share": 0.1},
    )
    reported = {diagnosis.name: diagnosis for diagnosis in run(trainer)}
    assert set(reported) == {"repeating", "all_alike", "entropy_collapse"}
    assert reported["repeating"].medians["val/repetition"] > 0.3
    assert reported["all_alike"].medians["val/distinct"] < 0.3


def test_a_score_that_rises_while_the_gold_score_falls(
    new_trainer: Trainers, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gold is the negative reward, the number of letters. Without gold the failure is not detected."""
    for gold in (True, False):
        trainer = new_trainer(**LONGER, **pair(tilted(tokenizer, end=4.5)), **only("gold_fall", 4.0))
        step = trainer.step
        if gold:
            monkeypatch.setattr(trainer, "step", lambda batch, step=step: gilded(step(batch)))
        assert [diagnosis.name for diagnosis in run(trainer)] == ["over_optimized"] * gold


def gilded(metrics: dict[str, float]) -> dict[str, float]:
    return metrics | {"objective/gold": -metrics["objective/scores"]}


def test_a_policy_that_starts_elsewhere(new_trainer: Trainers, tokenizer: Any, tmp_path: Path) -> None:
    for action in ("warn", "rollback"):
        trainer = new_trainer(reference=new_policy(tokenizer, seed=9), sentinel={"action": action})
        with pytest.raises(TrainingError, match="reference"):
            run(trainer, tmp_path / action)
        assert [(diagnosis.name, diagnosis.action, diagnosis.update) for diagnosis in trainer.sentinel.raised] == [
            ("start_off", STOPPED, 1)
        ]


def test_logprobs_that_are_not_the_policys(new_trainer: Trainers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampled distribution differs from the trained one, for example because of an ignored temperature."""
    trainer = new_trainer()
    evaluate = rollout.evaluate
    off = lambda *arguments, **options: shifted(evaluate(*arguments, **options), trainer.update)  # noqa: E731
    monkeypatch.setattr("rlhf.ppo.trainer.evaluate", off)
    with pytest.raises(TrainingError, match="ratio"):
        run(trainer)
    assert [(diagnosis.name, diagnosis.update) for diagnosis in trainer.sentinel.raised] == [("ratio_off", 3)]


def shifted(found: rollout.Rollout, update: int) -> rollout.Rollout:
    return found._replace(logprobs=found.logprobs + 0.01) if update == 2 else found


def test_a_learning_rate_that_overflows_the_gradients(new_trainer: Trainers) -> None:
    """The overflowing gradients change no weight, and the run ends."""
    trainer = new_trainer(**QUICK, sentinel=BLIND)
    trainer.stage.learning_rate = trainer.stage.critic_learning_rate = 1e25  # beyond the range of the settings
    with pytest.raises(TrainingError, match="not a finite number"):
        run(trainer)
    assert [diagnosis.name for diagnosis in trainer.sentinel.raised] == ["not_finite"]


RUNAWAY = QUICK | {"kl_coef": 0.0, "learning_rate": 0.03, "updates": 12}


def test_the_sentinels_state_is_saved_in_the_checkpoint(new_trainer: Trainers, tokenizer: Any) -> None:
    """JSON keeps the metrics that the sentinel has seen to the last bit."""
    trainer = new_trainer(critic=Critic(new_reward_model(tokenizer, seed=5)), updates=3)
    run(trainer)
    state = json.loads(json.dumps(trainer.state()))
    assert state["sentinel"]["seen"]["objective/kl"][-1] == trainer.metrics["objective/kl"]
    assert state["healthy"] is True
