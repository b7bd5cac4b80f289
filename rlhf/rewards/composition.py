"""A sum of named rewards, each with a weight and a normalization, and their metrics."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rlhf.data.render import Prompt
from rlhf.errors import RewardError, TrainingError
from rlhf.rewards.columns import shown
from rlhf.rewards.normalization import FixedNormalizer, OverRanks, RunningNormalizer, alone
from rlhf.rewards.protocol import RewardFunction, checked, checked_or_none, detailed
from rlhf.rewards.spending import Spending


class RewardTerm(NamedTuple):
    """``weight`` times the scores of ``function``, normalized unless ``normalization`` is None."""

    function: RewardFunction
    weight: float = 1.0
    normalization: FixedNormalizer | RunningNormalizer | None = None


class Scored(NamedTuple):
    """One number per response each; ``raw`` by term, ``details`` by term and name, such as ``mine_disagreement``.

    A score in ``raw`` is None if the term does not apply to the response. A total is None if no term applies, which is
    possible only with a term that a judge scores.
    """

    totals: list[float | None]
    raw: dict[str, list[float | None]]
    details: dict[str, list[float]]


class CompositeReward:
    """Σ weight · normalized score over the terms that apply to a response, as a RewardFunction.

    The sum is not normalized again: ``stage.normalize_scores`` refers to the statistics of a reward run's own scores,
    which a term holds as ``FixedNormalizer``.
    """

    def __init__(self, terms: Mapping[str, RewardTerm]):
        self.terms = dict(terms)
        normalizers = {name: term.normalization for name, term in self.terms.items()}
        self.judged = spending(term.function for term in self.terms.values())
        self.running = {name: found for name, found in normalizers.items() if isinstance(found, RunningNormalizer)}

    def raw(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Scored:
        """Return the scores of the terms, None if a term does not apply to a completion; the running statistics stay.

        Raises:
            TrainingError: a term did not return one finite number or None per completion, or none of them applies to a
                completion, and none is scored by a judge, which may refuse; the message has the first row.
        """
        raw: dict[str, list[float | None]] = {}
        details: dict[str, list[float]] = {}
        for name, term in self.terms.items():
            given, more = detailed(term.function, prompts, completions)
            details |= {f"{name}_{key}": values for key, values in more.items()}
            raw[name] = checked_or_none(given, completions, f"the reward {name!r}")
        for row, scores in enumerate(zip(*raw.values(), strict=True)):
            if not self.judged and all(score is None for score in scores):
                raise TrainingError(
                    f"no term of stage.rewards scores row {row} (prompt {shown(prompts[row])}, response "
                    f"{shown(completions[row])}), since all returned None: add a term that applies to every row, or "
                    "leave such prompts out"
                )
        return Scored([], raw, details)

    def total(self, scored: Scored, over_ranks: OverRanks = alone) -> Scored:
        """Return ``raw`` scores with their sum, after updating the running statistics with the batches of all ranks."""
        totals = torch.zeros(len(next(iter(scored.raw.values()))), dtype=torch.float64)
        applies = [any(score is not None for score in scores) for scores in zip(*scored.raw.values(), strict=True)]
        for name, term in self.terms.items():
            given = {row: score for row, score in enumerate(scored.raw[name]) if score is not None}
            index, scores = list(given), list(given.values())
            if name in self.running:
                self.running[name].learn(scores, over_ranks)
            if term.normalization is not None:
                scores = term.normalization(scores)
            totals[index] += term.weight * torch.tensor(scores, dtype=torch.float64)
        given = zip(totals.tolist(), applies, strict=True)
        return scored._replace(totals=[total if applied else None for total, applied in given])

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], over_ranks: OverRanks = alone) -> Scored:
        """Return the sum and its parts, after updating the running statistics with the batches of all ranks.

        Raises:
            TrainingError: see ``raw``.
        """
        return self.total(self.raw(prompts, completions), over_ranks)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
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


def spending(rewards: Iterable[Any]) -> list[Spending]:
    """Return the distinct counts of the judges among ``rewards``."""
    found = [getattr(inspect.unwrap(reward), "spending", None) for reward in rewards]
    return list({id(one): one for one in found if one is not None}.values())


def refuses(reward: Any) -> bool:
    """Return whether ``reward`` may return None for a response, since a judge scores it."""
    return bool(getattr(reward, "judged", None) or spending([reward]))


def _check(metric: str, reward: RewardFunction) -> Callable[..., list[Any]]:
    """Return the check of the scores of gold or a shadow; a shadow may leave rows out."""
    return checked if metric == "objective/gold" and not refuses(reward) else checked_or_none


def _named(metric: str) -> str:
    """Return the reward of a metric, for messages."""
    return "the gold reward" if metric == "objective/gold" else f"the shadow {metric.partition('/')[2]!r}"


SPENT = "judge/spent"  # key of a checkpoint; terms have no slash


class Scorer:
    """The reward of a trainer, which also evaluates a gold reward and ``shadows`` on the same responses.

    It is a RewardFunction that returns only the reward, and keeps the scores for ``metrics`` until ``clear``.
    """

    def __init__(
        self,
        reward: RewardFunction,
        gold: RewardFunction | None = None,
        over_ranks: OverRanks = alone,
        shadows: Mapping[str, RewardFunction] | None = None,
    ):
        self.reward, self.gold, self.over_ranks = reward, gold, over_ranks
        self.beside = {} if gold is None else {"objective/gold": gold}
        self.beside |= {f"shadow/{name}": shadow for name, shadow in (shadows or {}).items()}
        self.batch: dict[str, Sequence[float | None]] = {}
        self.details: set[str] = set()  # metrics without a deviation
        terms = reward.terms.values() if isinstance(reward, CompositeReward) else ()
        self.spending = spending([*(term.function for term in terms), *self.beside.values()])

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
        """Return the scores; None for a response that a judge does not score, if no other term does.

        Raises:
            RewardError: a reward failed, on this rank or on another one. Every rank raises it, before the running
                statistics change, so that all of them can write a checkpoint.
        """
        found: tuple[list[float | None] | Scored, dict[str, list[float]], dict[str, list[float | None]]] | None = None
        failure: TrainingError | None = None
        try:
            found = self._scored(prompts, completions)
        except TrainingError as error:
            failure = error
        failed = self.over_ranks(torch.tensor(float(found is None))) > 0
        for counts in self.spending:  # also before a checkpoint that is written after a failure
            counts.settle(self.over_ranks)
        if failed:
            raise RewardError(str(failure or "a reward failed on another rank, whose message names it")) from failure
        assert found is not None
        scores, details, beside = found
        if isinstance(scores, Scored):
            assert isinstance(self.reward, CompositeReward)
            scored = self.reward.total(scores, self.over_ranks)
            scores = scored.totals
            self._note({f"reward/{name}": given for name, given in scored.raw.items()})
        details = {f"reward/{name}": values for name, values in details.items()}
        self.details |= details.keys()
        self._note(details | beside)
        return scores

    def _scored(
        self, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> tuple[list[float | None] | Scored, dict[str, list[float]], dict[str, list[float | None]]]:
        """Return the scores, or the raw ones of the terms, their details, and the scores of gold and shadows.

        No state changes.
        """
        if isinstance(self.reward, CompositeReward):
            scores: list[float | None] | Scored = self.reward.raw(prompts, completions)
            details = scores.details
        else:
            given, details = detailed(self.reward, prompts, completions)
            scores = [*checked(given, completions)]
        if not self.beside:
            return scores, details, {}
        # Random draws of gold and shadows must not advance the stream of training.
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            return (
                scores,
                details,
                {
                    name: _check(name, reward)(reward(prompts, completions), completions, _named(name))
                    for name, reward in self.beside.items()
                },
            )

    def _note(self, scores: Mapping[str, Sequence[float | None]]) -> None:
        for name, found in scores.items():
            self.batch[name] = [*self.batch.get(name, ()), *found]

    def clear(self) -> None:
        """Forget the scores of the last update."""
        self.batch = {}

    def metrics(self) -> dict[str, float]:
        """Return mean and population deviation of the scores since ``clear``, by term and of gold, over all ranks.

        They are those before weight and normalization, without the rows to which a term does not apply; a term that
        applies to no row has none. Every rank must call it.
        """
        found = {}
        for name, scores in self.batch.items():
            x = torch.tensor([score for score in scores if score is not None], dtype=torch.float64)
            count, total = self.over_ranks(torch.stack([torch.tensor(len(x), dtype=torch.float64), x.sum()])).tolist()
            if not count:
                continue
            found[name] = total / count
            squares = self.over_ranks(((x - found[name]) ** 2).sum()).item()
            if name not in self.details:
                found[f"{name}_std"] = (squares / count) ** 0.5
        for counts in self.spending:
            found |= counts.report()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the running statistics and the counts of judges, for a resumed run."""
        found: dict[str, Any] = self.reward.state_dict() if isinstance(self.reward, CompositeReward) else {}
        return found | ({SPENT: [counts.state_dict() for counts in self.spending]} if self.spending else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the running statistics, and the counts of judges."""
        for counts, stored in zip(self.spending, state.get(SPENT, ()), strict=False):
            counts.load_state_dict(stored)
        if isinstance(self.reward, CompositeReward):
            self.reward.load_state_dict({name: values for name, values in state.items() if name != SPENT})
