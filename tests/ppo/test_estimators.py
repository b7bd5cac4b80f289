"""The expected gradient of every estimator, by enumeration of all groups of responses to a prompt.

The task is that of test_optimum.py: 31 responses of at most two tokens. A gradient is a sum over tokens of an advantage
times ∇ log π of the token, so means and variances over all groups follow from the tokens' gradients.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator

from rlhf.config import Advantage
from rlhf.ppo import settings
from rlhf.ppo.advantages import COMPARED, estimate
from rlhf.ppo.distributed import whiten
from tests.docs import page, section
from tests.ppo.test_optimum import (
    BETA,
    distance,
    distribution,
    new_policy,
    responses,
    scores_of,
    tilted,
    tokenizer,  # noqa: F401  fixture
    trained,
)

# ruff: noqa: F811


class Task(NamedTuple):
    """The responses, their probabilities and scores (N,), and gradients of their tokens (N, 2, D), 0 past the end."""

    every: list[tuple[int, ...]]
    p: torch.Tensor
    scores: torch.Tensor
    mask: torch.Tensor  # (N, 2)
    gradients: torch.Tensor

    @property
    def exact(self) -> torch.Tensor:
        """∇ E[score] (D,): Σ p r ∇ log p."""
        return torch.einsum("n,ntd->d", self.p * self.scores, self.gradients)

    def values(self) -> torch.Tensor:
        """Return E[score] before each token (N, 2), given the tokens before it."""
        firsts = torch.tensor([response[0] for response in self.every])
        same = (firsts[:, None] == firsts[None]).double()
        behind = (same @ (self.p * self.scores)) / (same @ self.p)
        return torch.stack([(self.p @ self.scores).expand(len(self.every)), behind], dim=1) * self.mask


@pytest.fixture(scope="module")
def task(tokenizer: Any) -> Task:
    every, policy = responses(), new_policy().double()
    mask = torch.tensor([[True, len(response) == 2] for response in every])
    gradients = []
    for response in every:
        logp = torch.log_softmax(policy(torch.tensor([[2, *response]])).logits[0], dim=-1)
        found = [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(logp[t, token], list(policy.parameters()), retain_graph=True)
                ]
            )
            for t, token in enumerate(response)
        ]
        gradients.append(torch.stack([*found, *[torch.zeros_like(found[0])] * (2 - len(found))]))
    return Task(every, distribution(policy, every), scores_of(every, tokenizer), mask, torch.stack(gradients))


class Moments(NamedTuple):
    """Mean (D,) of the estimate from one group, and the trace of its covariance."""

    mean: torch.Tensor
    variance: float


def moments(
    task: Task, kind: str, samples: int, values: torch.Tensor | None = None, normalized: bool = False
) -> Moments:
    """Return the moments of (1/K) Σ A ∇ log π over all groups of ``samples`` responses, each multiset once.

    ``normalized`` advantages have mean 0 and variance 1 over the tokens of the group, which is then a whole batch.
    """
    groups = torch.tensor(list(itertools.combinations_with_replacement(range(len(task.every)), samples)))
    counts = [math.factorial(samples) / math.prod(map(math.factorial, _repeats(group))) for group in groups.tolist()]
    weights = torch.tensor(counts, dtype=torch.float64) * task.p[groups].prod(1)
    flat, mask = groups.flatten(), task.mask[groups.flatten()]
    rewards = torch.zeros(mask.shape, dtype=torch.float64)
    rewards[torch.arange(len(flat)), mask.sum(1) - 1] = task.scores[flat]
    known = torch.zeros_like(rewards) if values is None else values[flat]
    advantages, _ = estimate(kind, rewards, known, mask, samples, 1.0, 1.0)
    if normalized:
        accelerator, parts = Accelerator(cpu=True), zip(advantages.split(samples), mask.split(samples), strict=True)
        advantages = torch.cat([whiten(part, used, accelerator) for part, used in parts])
    # The coefficient of each response's token in the estimate of each group: (groups, N · 2).
    coefficients = torch.zeros(len(groups), len(task.every), 2, dtype=torch.float64)
    row = torch.arange(len(groups)).repeat_interleave(samples)
    coefficients.index_put_((row, flat), advantages / samples, accumulate=True)
    coefficients, gradients = coefficients.flatten(1), task.gradients.flatten(0, 1)
    mean = (weights @ coefficients) @ gradients
    squares = ((coefficients @ (gradients @ gradients.T)) * coefficients).sum(1)
    return Moments(mean, (weights @ squares - mean @ mean).item())


def _repeats(group: list[int]) -> list[int]:
    return [group.count(i) for i in set(group)]


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return torch.cosine_similarity(x, y, dim=0).item()


@pytest.mark.parametrize("samples", [2, 3])
def test_expected_gradients_equal_their_definitions(task: Task, samples: int) -> None:
    """REINFORCE, RLOO and GAE with the exact values are unbiased; the mean as a baseline scales by (K - 1) / K."""
    share = (samples - 1) / samples
    for kind, scale in {
        "reinforce": 1,
        "reinforce_pp": 1,
        "rloo": 1,
        "dr_grpo": share,
        "reinforce_pp_baseline": share,
    }.items():
        torch.testing.assert_close(moments(task, kind, samples).mean, scale * task.exact, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moments(task, "gae", 1, task.values()).mean, task.exact, atol=1e-6, rtol=1e-5)


def of_batches(task: Task, samples: int, advantage: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Return E[(1/K) Σ A ∇ log π] (D,) over all tuples of K responses, M in number, of an advantage by its definition.

    ``advantage`` maps scores (M, K) and the mask of tokens (M, K, 2) to advantages that broadcast to the mask.
    """
    drawn = torch.cartesian_prod(*[torch.arange(len(task.every))] * samples)
    mask = task.mask[drawn].double()
    weighed = task.p[drawn].prod(1)[:, None, None] * advantage(task.scores[drawn], mask) * mask / samples
    coefficients = torch.zeros_like(task.mask, dtype=torch.float64)
    coefficients.index_put_((drawn.flatten(),), weighed.flatten(0, 1), accumulate=True)
    return torch.einsum("nt,ntd->d", coefficients, task.gradients)


def over_tokens(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return scores minus their mean over the tokens of a batch, divided by their deviation; (M, K) -> (M, K, 2)."""
    scores, tokens = scores[..., None], mask.sum((1, 2), keepdim=True)
    centered = scores - (scores * mask).sum((1, 2), keepdim=True) / tokens
    return centered / ((centered**2 * mask).sum((1, 2), keepdim=True) / (tokens - 1) + 1e-8).sqrt()


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_grpos_expected_gradient_is_that_of_its_definition(task: Task, samples: int) -> None:
    def relative(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ((scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4))[..., None]

    found = moments(task, "grpo", samples).mean
    torch.testing.assert_close(found, of_batches(task, samples, relative), atol=1e-9, rtol=1e-6)
    assert cosine(found, task.exact) < 0.99


@pytest.mark.parametrize("samples", [2, 3])
def test_normalized_expected_gradients_are_those_of_their_definitions(task: Task, samples: int) -> None:
    """REINFORCE++ normalizes over the batch: here one of ``samples`` responses, so the direction is biased."""

    def with_baseline(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return over_tokens(scores - scores.mean(1, keepdim=True), mask)

    for kind, advantage in {"reinforce_pp": over_tokens, "reinforce_pp_baseline": with_baseline}.items():
        found = moments(task, kind, samples, normalized=True).mean
        torch.testing.assert_close(found, of_batches(task, samples, advantage), atol=1e-9, rtol=1e-6)


def test_the_bias_of_normalization_vanishes_in_large_batches(task: Task) -> None:
    """With the mean and deviation of all tokens, REINFORCE++ is the exact gradient divided by the deviation."""
    p = task.p[:, None] * task.mask
    mean = (p * task.scores[:, None]).sum() / p.sum()
    deviation = ((p * (task.scores[:, None] - mean) ** 2).sum() / p.sum()).sqrt()
    exact = task._replace(scores=(task.scores - mean) / deviation).exact
    torch.testing.assert_close(exact, task.exact / deviation, atol=1e-6, rtol=1e-5)
    cosines = [cosine(of_batches(task, samples, over_tokens), task.exact) for samples in (2, 3, 4)]
    assert cosines == sorted(cosines)
    shown = "{:.3f}, {:.3f} and {:.3f}".format(*cosines)
    assert f"its cosine is {shown}" in page("advantages")


def test_grpo_with_two_responses_maximizes_the_probability_to_win(task: Task) -> None:
    """With K = 2 the standardized advantage is ±1/√2: only the order of the scores counts.

    The expected gradient is that of P(win) - P(lose) against a fixed copy of the policy, divided by √2.
    """
    wins = torch.sign(task.scores[:, None] - task.scores[None]) @ task.p
    expected = torch.einsum("n,ntd->d", task.p * wins, task.gradients) / 2**0.5
    found = moments(task, "grpo", 2).mean
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    monotone = task._replace(scores=task.scores**3)
    torch.testing.assert_close(moments(monotone, "grpo", 2).mean, found, atol=2e-2, rtol=2e-2)
    assert cosine(moments(monotone, "rloo", 2).mean, task.exact) < 0.99
    assert cosine(found, task.exact) < 0.99


def of_four(task: Task, kind: Advantage) -> Moments:
    """Return the moments of an estimate from four responses: one group, or four separate responses."""
    if kind.value in COMPARED:
        return moments(task, kind.value, 4)
    if kind is Advantage.reinforce_pp:  # of a large batch, whose mean over tokens is subtracted
        tokens = task.p * task.mask.sum(1)
        task = task._replace(scores=task.scores - (tokens @ task.scores) / tokens.sum())
    one = moments(task, kind.value, 1, task.values() if kind is Advantage.gae else None)
    return one._replace(variance=one.variance / 4)


@pytest.mark.parametrize("kind", [kind for kind in Advantage if kind is not Advantage.reverse_kl])  # it has no reward
def test_docs_show_bias_and_variance(task: Task, kind: Advantage) -> None:
    """docs/advantages.md: cosine with the exact gradient; noise with these scores, and with 1 added to each score.

    Noise is the root of the covariance's trace, relative to the length of the expected gradient.
    """
    found = of_four(task, kind)
    shifted = of_four(task._replace(scores=task.scores + 1), kind)
    cells = [f"{cosine(found.mean, task.exact):.3f}"]
    cells += [f"{one.variance**0.5 / one.mean.norm().item():.1f}" for one in (found, shifted)]
    row = f"| `{kind.value}` | {' | '.join(cells)} |"
    assert row in page("advantages"), row


@pytest.mark.parametrize("kind", ["rloo", "reinforce_pp_baseline", "reinforce", "reinforce_pp"])
def test_unbiased_estimators_reach_the_optimum_of_the_objective(tokenizer: Any, kind: str) -> None:
    """With the KL in the reward: π* ∝ π_ref exp(r / β) over whole responses.

    REINFORCE++ with its normalization, which has no effect on the optimum in a batch of 512 responses.
    """
    every = responses()
    start, scores = distribution(new_policy(), every), scores_of(every, tokenizer)
    options = {
        "kl_in": "reward",
        "kl_estimator": "k1",
        "whiten_advantages": kind == "reinforce_pp",
        "loss_mean": "response",
    }
    end = distribution(trained(tokenizer, advantage=kind, samples=4, batch_size=128, **options).policy, every)
    assert distance(start, tilted(start, scores, BETA)) > 0.4
    assert distance(end, tilted(start, scores, BETA)) < 0.08


def test_grpos_deviation_moves_the_optimum(tokenizer: Any) -> None:
    """With the KL in the loss each token is tilted by the mean advantage behind it; GRPO's advantage is relative."""
    every = responses()
    start, scores = distribution(new_policy(), every), scores_of(every, tokenizer)
    options = {"samples": 2, "updates": 120, "kl_estimator": "k2", "loss_mean": "token"}
    ends = {
        kind: distribution(trained(tokenizer, advantage=kind, **options).policy, every) for kind in ("grpo", "dr_grpo")
    }
    expected = fixed_point(every, start, lambda p: torch.sign(scores[:, None] - scores[None]) @ p / 2**0.5)
    assert distance(ends["grpo"], expected) < 0.08
    # The mean as a baseline halves the advantages of two responses.
    expected = fixed_point(every, start, lambda p: (scores - p @ scores) / 2)
    assert distance(ends["dr_grpo"], expected) < 0.08
    assert distance(ends["grpo"], expected) > 0.15


def fixed_point(every: list[tuple[int, ...]], start: torch.Tensor, advantage: Any) -> torch.Tensor:
    """Return the policy whose tokens are tilted by the mean advantage behind them under this policy itself."""
    firsts = torch.tensor([response[0] for response in every])
    p = start
    for _ in range(400):
        found = advantage(p)
        new, mass, behind = torch.zeros_like(p), [], []
        for first in firsts.unique():
            chosen = firsts == first
            mass.append(start[chosen].sum())
            new[chosen] = tilted(start[chosen] / mass[-1], found[chosen], BETA)
            behind.append((new[chosen] * found[chosen]).sum())
        for index, first in enumerate(firsts.unique()):
            new[firsts == first] *= tilted(torch.stack(mass), torch.stack(behind), BETA)[index]
        p = 0.8 * p + 0.2 * new
    return p


def test_docs_show_the_defaults_of_every_estimator() -> None:
    names = ("kl_in", "kl_estimator", "ratio", "loss_mean", "whiten_advantages")
    text = section(page("advantages"), "Defaults by estimator")
    for kind in Advantage:
        teacher = "larger" if kind is Advantage.reverse_kl else None
        stage = settings(advantage=kind.value, samples=2, teacher=teacher)
        values = [getattr(stage, name) for name in names]
        cells = [str(value).lower() if isinstance(value, bool) else value.value for value in values]
        assert f"| `{kind.value}` | {' | '.join(cells)} |" in text
