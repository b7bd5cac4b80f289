"""A sum of named rewards, each with a weight and a normalization of its own, and what is logged of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rlhf.data.render import Prompt
from rlhf.errors import TrainingError
from rlhf.rewards.ensemble import Ensemble
from rlhf.rewards.normalization import FixedNormalizer, OverRanks, RunningNormalizer, alone
from rlhf.rewards.protocol import RewardFunction, checked


class RewardTerm(NamedTuple):
    """``weight`` times the scores of ``function``, normalised; None: as they are."""

    function: RewardFunction
    weight: float = 1.0
    normalization: FixedNormalizer | RunningNormalizer | None = None


class Scored(NamedTuple):
    """One number per response each. ``raw`` and ``disagreement`` are by term, the latter of ensembles alone."""

    totals: list[float]
    raw: dict[str, list[float]]
    disagreement: dict[str, list[float]]


class CompositeReward:
    """Σ weight · normalised score over the terms, as a RewardFunction.

    The sum itself is not normalised again: ``stage.normalize_scores`` is about the statistics that a reward run holds
    of its own scores, and a term carries those as ``FixedNormalizer``.
    """

    def __init__(self, terms: Mapping[str, RewardTerm]):
        self.terms = dict(terms)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], over_ranks: OverRanks = alone) -> Scored:
        """The sum and what it is made of; running statistics take the batch in, over all ranks.

        Raises:
            TrainingError: a term gave something else than one finite number per completion; the message names it.
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
            if isinstance(term.normalization, RunningNormalizer):
                term.normalization.learn(scores, over_ranks)
            if term.normalization is not None:
                scores = term.normalization(scores)
            totals += term.weight * torch.tensor(scores, dtype=torch.float64)
        return Scored(totals.tolist(), raw, disagreement)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.score(prompts, completions).totals

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Running statistics by term: plain numbers, to be written as JSON."""
        return {
            name: term.normalization.state_dict()
            for name, term in self.terms.items()
            if isinstance(term.normalization, RunningNormalizer)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on with statistics that ``state_dict`` gave.

        Raises:
            TrainingError: they are of other terms.
        """
        if set(state) != set(self.state_dict()):
            raise TrainingError(
                f"the checkpoint holds running statistics of the rewards {sorted(state)} and those at hand are "
                f"{sorted(self.state_dict())}: resume with the same rewards, or start again"
            )
        for name, values in state.items():
            self.terms[name].normalization.load_state_dict(values)


class Scorer:
    """What a trainer asks: the reward, and beside it a gold reward on the very same responses, which trains nothing.

    Remembers the last batch, for ``metrics``. As a RewardFunction it returns what is trained on: gold is not in it.
    """

    def __init__(self, reward: RewardFunction, gold: RewardFunction | None = None, over_ranks: OverRanks = alone):
        self.reward, self.gold, self.over_ranks = reward, gold, over_ranks
        self.batch: dict[str, list[float]] = {}

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        if isinstance(self.reward, CompositeReward):
            scored = self.reward.score(prompts, completions, self.over_ranks)
            totals = scored.totals
            self.batch = {f"reward/{name}": scores for name, scores in scored.raw.items()}
            self.batch |= {f"reward/{name}_disagreement": scores for name, scores in scored.disagreement.items()}
        else:
            totals = checked(self.reward(prompts, completions), completions)
        if self.gold is not None:
            # What gold draws at random must not move the stream that anything else draws from.
            with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
                self.batch["objective/gold"] = checked(self.gold(prompts, completions), completions, "the gold reward")
        return totals

    def metrics(self) -> dict[str, float]:
        """Mean and population deviation of every term and of gold in the last batch, over all ranks; as they were
        given, before weight and normalization. Every rank must call it."""
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
        """What a checkpoint must hold for a resumed run to score as an uninterrupted one: running statistics."""
        return self.reward.state_dict() if isinstance(self.reward, CompositeReward) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.reward, CompositeReward):
            self.reward.load_state_dict(state)
