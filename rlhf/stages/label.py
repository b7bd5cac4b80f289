"""Make preference pairs from sampled responses, labeled by people in the browser or by any other judge.

    python -m rlhf stage=label                                                  # opens a page on this machine
    python -m rlhf stage=label judge=reward judge.model=checkpoints/almanac/reward
    python -m rlhf stage=reward data.path=checkpoints/almanac/label/preferences.jsonl    # train on the labels

Each answer is saved before the next pair is shown; resume=true continues an interrupted session.
"""

from collections.abc import Sequence
from typing import Any

from rlhf.config import JudgeKind, LabelStage, Settings
from rlhf.console import console, plural
from rlhf.errors import ConfigError, DataError
from rlhf.evaluation.judges.factory import build, reward_model
from rlhf.evaluation.judges.judge import RewardJudge
from rlhf.evaluation.statistics.metrics import Estimate, estimate
from rlhf.labeling.answers import Answers, agreement, vote
from rlhf.labeling.pairs import RESPONSES, Pair, disagreement, draw, preference, read_responses, write_rows
from rlhf.runs.run import Run

PREFERENCES = "preferences.jsonl"
BOOTSTRAP = 2000  # draws of an interval


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Draw pairs, have them labeled, write the preferences and return counts and win rates."""
    stage, kind = settings.stage_as(LabelStage), settings.judge.kind
    if kind is JudgeKind.none:
        raise ConfigError("judge=none labels nothing: set judge=person, reward, function, local or endpoint")
    samples = {title: read_responses(run[title].directory / RESPONSES) for title in stage.titles}
    rewards = [reward_model(settings, run, f"pick_by.{number}") for number in range(len(stage.pickers))]
    doubts = disagreement(rewards) if rewards else None
    pairs, equal = draw(samples, stage.pairs, stage.limit, settings.seed, doubts)
    if not pairs:
        raise DataError(
            f"the samples have no two different responses to a prompt ({plural(equal, 'equal pair')}): sample more"
        )
    by_people = kind is JudgeKind.person
    preferred, fields, reported = people(settings, run, pairs) if by_people else judged(settings, run, pairs)
    rows = [
        preference(pair, first, kind.value, **more)
        for pair, first, more in zip(pairs, preferred, fields, strict=True)
        if first is not None and first != 0.5
    ]
    write_rows(run.work / PREFERENCES, rows)
    run.record_output(run.work / PREFERENCES)
    metrics = {
        "pairs": float(len(pairs)),
        "preferences": float(len(rows)),
        "ties": float(sum(first == 0.5 for first in preferred)),
        "no_verdict": float(sum(first is None for first in preferred)),
        "equal_texts": float(equal),
    }
    for titles, rate in win_rates(pairs, preferred, settings.seed).items():
        metrics[f"win_rate/{titles[0]}/{titles[1]}"] = rate.mean
        console.print(f"win rate {titles[0]} vs {titles[1]}: {rate}, ties count half", highlight=False, markup=False)
    return metrics | reported


def judged(settings: Settings, run: Run, pairs: Sequence[Pair]) -> tuple[list, list[dict[str, Any]], dict[str, float]]:
    """Return a judge's preferences, with the margin of its scores or the confidence of each choice, and its report."""
    judge = build(settings, run)
    preferred = judge([pair.prompt for pair in pairs], [pair.first for pair in pairs], [pair.second for pair in pairs])
    if isinstance(judge, RewardJudge):
        fields: list[dict[str, Any]] = [{"margin": abs(margin)} for margin in judge.margins]
    else:
        fields = [{} if first is None else {"confidence": abs(2 * first - 1)} for first in preferred]
    return preferred, fields, judge.report()


def people(settings: Settings, run: Run, pairs: Sequence[Pair]) -> tuple[list, list[dict[str, Any]], dict[str, float]]:
    """Return people's preferences as shares of the votes, with their confidence, and the annotators' agreement."""
    try:
        from rlhf.labeling.server import serve
    except ImportError:
        raise ConfigError("judge=person needs a web server: pip install 'rlhf[label]'") from None
    stage = settings.stage_as(LabelStage)
    answers = Answers(run.scratch / "answers.jsonl", pairs, stage.annotators, settings.seed)
    try:
        serve(answers, stage.port, lambda address: console.print(f"Open {address}", highlight=False, soft_wrap=True))
    except OSError as error:
        raise ConfigError(f"stage.port={stage.port} is not available ({error.strerror}): set another port") from error
    except KeyboardInterrupt:
        if not answers.complete:
            raise
    if not answers.complete:
        raise KeyboardInterrupt
    given = answers.by_pair()
    listed = [
        {"pair": pair.id, "first": pair.first, "second": pair.second, "answers": given[pair.id]} for pair in pairs
    ]
    write_rows(run.work / "answers.jsonl", listed)
    shares = [vote(list(given[pair.id].values())) for pair in pairs]
    fields = [{} if share is None else {"confidence": abs(2 * share - 1)} for share in shares]
    return shares, fields, agreement(given)


def win_rates(pairs: Sequence[Pair], preferred: Sequence[float | None], seed: int) -> dict[tuple[str, str], Estimate]:
    """Return the win rate of each run against each other: (title, other title) -> rate of the first."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for pair, first in zip(pairs, preferred, strict=True):
        if first is not None and pair.titles[0] != pair.titles[1]:
            found.setdefault(pair.titles, []).append([first])
    return {titles: estimate(groups, BOOTSTRAP, seed) for titles, groups in found.items()}
