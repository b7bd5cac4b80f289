"""A sum of named rewards, each with a weight and a normalization, and their metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rlhf.data.render import Prompt
from rlhf.errors import TrainingError
from rlhf.rewards.ensemble import Ensemble
from rlhf.rewards.normalization import FixedNormalizer, OverRanks, RunningNormalizer, alone
from rlhf.rewards.protocol import RewardFunction, checked


class RewardTerm(NamedTuple):
    """``weight`` times the scores of ``function``, normalized unless ``normalization`` is None."""

    function: RewardFunction
    weight: float = 1.0
    normalization: FixedNormalizer | RunningNormalizer | None = None


class Scored(NamedTuple):
    """One number per response each; ``raw`` by term, ``disagreement`` by term and only for ensembles."""

    totals: list[float]
    raw: dict[str, list[float]]
    disagreement: dict[str, list[float]]


class CompositeReward:
    """Σ weight · normalized score over the terms, as a RewardFunction.

    The sum is not normalized again: ``stage.normalize_scores`` refers to the statistics of a reward run's own scores,
    which a term holds as ``FixedNormalizer``.
    """

    def __init__(self, terms: Mapping[str, RewardTerm]):
        self.terms = dict(terms)
        normalizers = {name: term.normalization for name, term in self.terms.items()}
        self.running = {name: found for name, found in normalizers.items() if isinstance(found, RunningNormalizer)}

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], over_ranks: OverRanks = alone) -> Scored:
        """Return the sum and its parts, after updating the running statistics with the batches of all ranks.

        Raises:
            TrainingError: a term did not return one finite number per completion; the message names it.
        """
        totals = torch.zeros(len(completions), dtype=torch.float64)
        raw: dict[str, list[float]] = {}
        disagreement: dict[str, list[float]] = {}
        for name, term in self.terms.items():
            if isinstance(term.function, Ensemble):
                given, disagreement[name] = term.function.judge(prompts, completions)
            else:
                given = term.function(prompts, completions)
            raw[name] = scores = checked(given, completions, f"the reward {name!r}")
            if name in self.running:
                self.running[name].learn(scores, over_ranks)
            if term.normalization is not None:
                scores = term.normalization(scores)
            totals += term.weight * torch.tensor(scores, dtype=torch.float64)
        return Scored(totals.tolist(), raw, disagreement)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.score(prompts, completions).totals

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return the running statistics by term, as JSON values."""
        return {name: statistics.state_dict() for name, statistics in self.running.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Restore the statistics that ``state_dict`` returned.

        Raises:
            TrainingError: they belong to other terms.
        """
        if set(state) != set(self.running):
            raise TrainingError(
                f"the checkpoint holds running statistics of the rewards {sorted(state)}, not of "
                f"{sorted(self.running)}: resume with the same rewards, or start a new run"
            )
        for name, values in state.items():
            self.running[name].load_state_dict(values)


class Scorer:
    """The reward of a trainer, which also evaluates a gold reward on the same responses.

    It is a RewardFunction that returns only the reward, and keeps the scores for ``metrics`` until ``clear``.
    """

    def __init__(self, reward: RewardFunction, gold: RewardFunction | None = None, over_ranks: OverRanks = alone):
        self.reward, self.gold, self.over_ranks = reward, gold, over_ranks
        self.batch: dict[str, list[float]] = {}

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        if isinstance(self.reward, CompositeReward):
            scored = self.reward.score(prompts, completions, self.over_ranks)
            totals = scored.totals
            self._note({f"reward/{name}": scores for name, scores in scored.raw.items()})
            self._note({f"reward/{name}_disagreement": scores for name, scores in scored.disagreement.items()})
        else:
            totals = checked(self.reward(prompts, completions), completions)
        if self.gold is not None:
            # Random draws of gold must not advance the stream of training.
            with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
                gold = checked(self.gold(prompts, completions), completions, "the gold reward")
            self._note({"objective/gold": gold})
        return totals

    def _note(self, scores: Mapping[str, list[float]]) -> None:
        for name, found in scores.items():
            self.batch[name] = self.batch.get(name, []) + found

    def clear(self) -> None:
        """Forget the scores of the last update."""
        self.batch = {}

    def metrics(self) -> dict[str, float]:
        """Return mean and population deviation of the scores since ``clear``, by term and of gold, over all ranks.

        They are those before weight and normalization. Every rank must call it.
        """
        found = {}
        for name, scores in self.batch.items():
            x = torch.tensor(scores, dtype=torch.float64)
            count, total = self.over_ranks(torch.stack([torch.tensor(len(x), dtype=torch.float64), x.sum()])).tolist()
            found[name] = total / count
            squares = self.over_ranks(((x - found[name]) ** 2).sum()).item()
            if not name.endswith("_disagreement"):
                found[f"{name}_std"] = (squares / count) ** 0.5
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the running statistics, so that a resumed run scores like an uninterrupted one."""
        return self.reward.state_dict() if isinstance(self.reward, CompositeReward) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the running statistics."""
        if isinstance(self.reward, CompositeReward):
            self.reward.load_state_dict(state)
