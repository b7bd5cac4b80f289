"""Models of a few thousand parameters, a tokenizer, prompts and a trainer."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.config import Advantage
from rlhf.data.templates import chat_template
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.ppo import Critic, PPOTrainer, settings, shape_rewards
from rlhf.ppo.advantages import estimate
from rlhf.ppo.responses import collect
from rlhf.ppo.rollout import Rollout, evaluate

WORDS = ("red", "green", "blue", "cat", "dog", "bird")
PROMPTS = ["red cat", "green", "blue bird dog", "cat dog red green blue", "bird", "dog dog", "green cat"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return new_tokenizer([" ".join(WORDS)] * 4, 280, chat_template("almanac"))


def config(tokenizer: Any, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def new_policy(tokenizer: Any, seed: int = 0, spread: float = 0.3) -> LlamaForCausalLM:
    """Return a policy with random weights, large enough that tokens have clearly different probabilities."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(config(tokenizer, initializer_range=spread)).eval()


def new_reward_model(tokenizer: Any, seed: int = 1) -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config(tokenizer, num_labels=1, initializer_range=0.3)).eval()


def length_reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Return a reward that differs between completions and can be learned."""
    return [len(text) / 10 for text in completions]


OF_REWARD = [kind.value for kind in Advantage if kind is not Advantage.reverse_kl]  # which needs another model
TINY = {
    "updates": 4,
    "batch_size": 6,
    "minibatches": 2,
    "micro_batch_size": 3,
    "epochs": 2,
    "learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "max_prompt_length": 8,
    "max_response_length": 6,
    "temperature": 0.7,
    "save_every": 1,
}


@pytest.fixture
def new_trainer(tokenizer: Any) -> Callable[..., PPOTrainer]:
    """Return a function that builds a trainer with the same new models from arguments and overridden settings."""

    def build(
        *,
        policy: Any = None,
        reference: Any = "same",
        critic: Any = None,
        reward: Any = length_reward,
        **overrides: Any,
    ) -> PPOTrainer:
        names = ("seed", "score_mean", "score_std", "log", "gold", "shadows", "sampler", "synchronize", "shared_prefix")
        names = (*names, "text")
        arguments = {"seed": 0} | {name: overrides.pop(name) for name in names if name in overrides}
        policy = new_policy(tokenizer) if policy is None else policy
        if reference == "same":
            reference = new_policy(tokenizer)
        stage = settings(**TINY | overrides)
        if critic is None and stage.has_critic:
            critic = Critic(new_reward_model(tokenizer))
        return PPOTrainer(policy, reference, critic, tokenizer, reward, PROMPTS, stage, **arguments)

    return build


def interrupted_in_the_second_update() -> AbstractContextManager:
    return interrupted_in_update(2)


@contextmanager
def interrupted_in_update(number: int) -> Iterator[None]:
    """Send Ctrl-C within an update of a trainer, and expect the run in the context to end with it."""
    step = PPOTrainer.step

    def interrupted(trainer: PPOTrainer, prompts: list) -> dict[str, float]:
        if trainer.update == number - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, prompts)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PPOTrainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def experience(trainer: PPOTrainer) -> tuple[Rollout, torch.Tensor, torch.Tensor]:
    """Return the arguments of ``improve``: a rollout, advantages, and returns that differ from the values."""
    stage = trainer.stage
    prompts = [prompt for prompt in PROMPTS[:6] for _ in range(stage.samples)]
    rollout = collect(
        trainer.policy, trainer.tokenizer, trainer.reward, prompts, temperature=stage.temperature,
        max_prompt_length=stage.max_prompt_length, max_response_length=stage.max_response_length, seed=242,
    )  # fmt: skip
    rollout = evaluate(rollout, trainer.policy, trainer.reference, trainer.critic, stage.temperature, 6)
    rewards = shape_rewards(rollout.scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, stage.kl_coef).rewards
    given = (rewards, rollout.values, rollout.mask, stage.samples, stage.gamma, stage.gae_lambda)
    return rollout, *estimate(stage.advantage.value, *given)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> bool:
    return all(torch.allclose(value, other[name], atol=atol, rtol=0) for name, value in one.items())


def model_inputs(rollout: Rollout) -> dict[str, torch.Tensor]:
    """Return inputs for prompts and responses together, (B, P + T). Positions count real tokens, not padding."""
    mask = torch.cat([rollout.prompt_mask, rollout.mask], dim=1).long()
    return {
        "input_ids": torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }


def response_logits(model: Any, rollout: Rollout) -> torch.Tensor:
    """Return the logits (B, T, V) that predict the response tokens: those at the position before each."""
    length = rollout.response_ids.shape[1]
    return model(**model_inputs(rollout), use_cache=False, logits_to_keep=length + 1).logits[:, :-1]


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return log softmax(z / τ)[a] in float32: logits z (B, T, V), tokens a (B, T) -> (B, T)."""
    return (logits.float() / temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
