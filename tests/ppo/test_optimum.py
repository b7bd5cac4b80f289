"""A task whose optimum is known: sequences of at most two words, each with a reward, and a KL penalty.

The policy that maximizes E[r] - β KL(π ‖ π_ref) is π* ∝ π_ref exp(r / β) over whole responses (Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593, section 2.1; Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 4).
"""

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from rlhf.ppo import Critic, PPOTrainer, settings

VOCABULARY = ("<pad>", "<end>", "go", "a", "b", "c")
WORDS = ("a", "b", "c")
BETA = 0.25
SCORES = {"": 0.0, "a": 0.4, "b": -0.3, "c": 0.1, "a a": -0.5, "a b": 1.0, "b a": 0.6, "c c": 0.8}


def score(text: str) -> float:
    return SCORES.get(text, 0.0)


def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [score(text) for text in completions]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        **{"intermediate_size": 32} | more,
    )  # fmt: skip


def new_policy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(config()).eval()


def responses() -> list[tuple[int, ...]]:
    """Return every response: EOS only, one word and EOS, or two tokens without EOS."""
    others = [i for i in range(len(VOCABULARY)) if i != 1]
    return [(1,), *itertools.product(others, range(len(VOCABULARY)))]


@torch.no_grad()
def distribution(policy: Any, of: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Return the probability of each response to the prompt "go", by the chain rule."""
    found = []
    for response in of:
        logp = torch.log_softmax(policy(torch.tensor([[2, *response]])).logits[0].double(), dim=-1)
        found.append(sum(logp[t, token].item() for t, token in enumerate(response)))
    return torch.tensor(found, dtype=torch.float64).exp()


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    """Return the total variation distance: the largest difference between the probabilities of any event."""
    return 0.5 * (p - q).abs().sum().item()


def trained(tokenizer: Any, **options: Any) -> PPOTrainer:
    """Return a trainer that has converged under its settings."""
    policy, reference = new_policy(), new_policy()
    torch.manual_seed(1)
    critic = Critic(LlamaForSequenceClassification(config(num_labels=1)))
    # Whitening would amplify the remaining noise at the optimum, at which every advantage is zero.
    plain = {
        "updates": 60, "batch_size": 512, "micro_batch_size": 512, "minibatches": 1, "epochs": 2,
        "learning_rate": 0.005, "critic_learning_rate": 0.02, "value_clip": None, "kl_coef": BETA, "temperature": 1.0,
        "max_response_length": 2, "missing_eos": "keep", "normalize_scores": False, "whiten_advantages": False,
    }  # fmt: skip
    stage = settings(**plain | options)
    used = critic if stage.has_critic else None
    trainer = PPOTrainer(policy, reference, used, tokenizer, reward, ["go"], stage, seed=0)
    trainer.train()
    return trainer


def tilted(p: torch.Tensor, scores: torch.Tensor, beta: float) -> torch.Tensor:
    """Return p exp(r / β), normalized."""
    weights = p * (scores / beta).exp()
    return weights / weights.sum()


def scores_of(every: Sequence[tuple[int, ...]], tokenizer: Any) -> torch.Tensor:
    texts = [tokenizer.decode(response, skip_special_tokens=True) for response in every]
    return torch.tensor([score(text) for text in texts], dtype=torch.float64)


def test_ppo_reaches_the_optimum_of_its_objective(tokenizer: Any) -> None:
    every = responses()
    start = distribution(new_policy(), every)
    assert start.sum().item() == pytest.approx(1, abs=1e-5)
    optimum = tilted(start, scores_of(every, tokenizer), BETA)
    end = distribution(trained(tokenizer).policy, every)
    assert distance(start, optimum) > 0.4
    assert distance(end, optimum) < 0.08


def test_with_the_kl_in_the_loss_each_token_is_tilted_by_the_mean_score_behind_it(tokenizer: Any) -> None:
    """The penalty in the loss ignores later tokens, so it has another fixed point, which can be computed as well.

    The second token is tilted as before; the first by E[r] of its continuations, without the penalty of the second.
    """
    every = responses()
    reference = new_policy()
    start, scores = distribution(reference, every), scores_of(every, tokenizer)
    firsts = [response[0] for response in every]
    expected = torch.zeros_like(start)
    values, mass = [], []
    for first in sorted(set(firsts)):
        [chosen] = torch.tensor([[token == first for token in firsts]])
        mass.append(start[chosen].sum())
        expected[chosen] = tilted(start[chosen] / mass[-1], scores[chosen], BETA)
        values.append((expected[chosen] * scores[chosen]).sum())
    first_token = tilted(torch.stack(mass), torch.stack(values), BETA)
    for index, first in enumerate(sorted(set(firsts))):
        [chosen] = torch.tensor([[token == first for token in firsts]])
        expected[chosen] *= first_token[index]
    end = distribution(trained(tokenizer, kl_in="loss", kl_estimator="k2").policy, every)
    assert distance(start, expected) > 0.4
    assert distance(end, expected) < 0.08
    assert distance(end, expected) < distance(end, tilted(start, scores, BETA))


def test_the_adaptive_coefficient_finds_the_tilt_that_has_the_target_kl(tokenizer: Any) -> None:
    """The best policy with a given KL is the reference tilted by some β: the controller finds that β."""
    every, target = responses(), 0.25
    start, scores = distribution(new_policy(), every), scores_of(every, tokenizer)

    def kl(p: torch.Tensor) -> float:
        return (p * (p / start).log()).sum().item()

    low, high = 0.05, 5.0
    for _ in range(60):  # the KL falls as β grows
        middle = (low + high) / 2
        low, high = (middle, high) if kl(tilted(start, scores, middle)) > target else (low, middle)
    trainer = trained(tokenizer, kl_target=target)
    end = distribution(trainer.policy, every)
    assert abs(BETA - low) > 0.1  # the start is not the solution
    assert trainer.kl_coef == pytest.approx(low, rel=0.15)
    assert kl(end) == pytest.approx(target, abs=0.06)
    assert distance(start, tilted(start, scores, low)) > 0.2
    assert distance(end, tilted(start, scores, low)) < 0.08


def test_distillation_reaches_the_teacher(tokenizer: Any) -> None:
    """Without reward and critic; the teacher has another architecture, and the policy differs from it at the start."""
    torch.manual_seed(5)
    teacher = LlamaForCausalLM(config(intermediate_size=48)).eval()
    every, metrics = responses(), []
    start, goal = distribution(new_policy(), every), distribution(teacher, every)
    stage = settings(
        teacher="larger", updates=60, batch_size=512, micro_batch_size=512, minibatches=1, epochs=2,
        learning_rate=0.005, temperature=1.0, max_response_length=2,
    )  # fmt: skip
    assert stage.missing_eos.value == "replace"  # it has no effect: there is no score
    policy = new_policy()
    trainer = PPOTrainer(policy, teacher, None, tokenizer, reward, ["go"], stage, seed=0)  # whose reward is only logged
    trainer.log = lambda found, _: metrics.append(found)
    trainer.train()
    assert distance(start, goal) > 0.4
    assert distance(distribution(policy, every), goal) < 0.08
    exact = (start * (start / goal).log()).sum().item()
    assert metrics[0]["objective/kl"] == pytest.approx(exact, rel=0.15)
    tokens = sum(p.item() * len(response) for p, response in zip(start, every, strict=True))
    assert metrics[0]["objective/reverse_kl"] == pytest.approx(exact / tokens, rel=0.15)
    assert abs(metrics[-1]["objective/reverse_kl"]) < 0.05 * metrics[0]["objective/reverse_kl"]


def test_dpo_reaches_the_same_optimum_from_preferences(tokenizer: Any, tmp_path: Path) -> None:
    """Pairs are drawn from the Bradley-Terry model of the rewards.

    The loss depends only on responses that occur in pairs, so the policies are compared on these.
    """
    every = [(3, 1), (4, 1), (5, 1), (3, 4, 1), (5, 5, 1)]
    texts = [" ".join(VOCABULARY[token] for token in response[:-1]) for response in every]
    generator = random.Random(0)
    rows = []
    for _ in range(2000):
        i, j = generator.sample(range(len(every)), 2)
        if generator.random() > 1 / (1 + math.exp(score(texts[j]) - score(texts[i]))):
            i, j = j, i
        rows.append({"prompt": "go", "chosen": f" {texts[i]}", "rejected": f" {texts[j]}"})
    arguments = DPOConfig(
        output_dir=str(tmp_path), beta=BETA, learning_rate=0.01, max_steps=50, per_device_train_batch_size=400,
        report_to="none", use_cpu=True, disable_tqdm=True, seed=0, logging_steps=1000, save_strategy="no",
        dataloader_pin_memory=False, max_length=None, bf16=False, activation_checkpointing=False,
    )  # fmt: skip
    policy, reference = new_policy(), new_policy()
    DPOTrainer(policy, reference, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    start, end = (distribution(model.eval(), every) for model in (reference, policy))
    optimum = start * torch.tensor([math.exp(score(text) / BETA) for text in texts])
    start, end, optimum = (p / p.sum() for p in (start, end, optimum))
    assert distance(start, optimum) > 0.4
    assert distance(end, optimum) < 0.08
