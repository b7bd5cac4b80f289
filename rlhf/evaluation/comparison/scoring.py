"""The rewards and the judge of a comparison: the gold reward, the reward model, and ``judge``, if they exist."""

from collections.abc import Sequence
from typing import Any

from rlhf.config import CompareStage, JudgeKind, Settings
from rlhf.data import load
from rlhf.data.render import question
from rlhf.errors import ConfigError
from rlhf.evaluation.comparison.comparison import prefer, score
from rlhf.evaluation.judges.factory import build
from rlhf.evaluation.responses.answers import Answers
from rlhf.evaluation.statistics.calibration import Calibration, of_pairs
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.rewards import RewardFunction, RewardModel
from rlhf.runs.run import Run

BINS = 5  # for a confidence from 0.5 to 1


def score_all(
    settings: Settings, run: Run, answers: dict[str, Answers], prompts: list, gold: RewardFunction | None, notes: list
) -> Calibration | None:
    """Score all responses by each reward; return the reward model's calibration on held-out pairs, if there is one."""
    rewards: dict[str, RewardFunction] = {} if gold is None else {"gold": gold}
    calibration: Calibration | None = None
    if "reward" in run.parents:
        rewards["reward"] = scorer = reward_model(settings, run)
        calibration = calibration_of(scorer, held_out_pairs(settings, run), settings.seed)
        note_trained(run, "reward", answers, notes)
    elif (missing := settings.stage_as(CompareStage).reward) is not None:
        notes.append(f"No response is scored by a reward model: {missing} is not there.")
    for name, reward in rewards.items():
        score(answers.values(), name, reward, prompts)
    return calibration


def check_judge(settings: Settings) -> None:
    """Reject judge=person before anything is generated.

    Raises:
        ConfigError: the judge is a person.
    """
    if settings.judge.kind is JudgeKind.person:
        raise ConfigError(
            "judge=person cannot be asked by stage=compare: sample each model with stage=sample and let people compare "
            "the samples with stage=label, which reports their win rates"
        )


def judge_all(
    settings: Settings,
    run: Run,
    answers: dict[str, Answers],
    prompts: list,
    previous: dict[str, str | None],
    notes: list,
) -> None:
    """Add the judge's preferences over the reference and over the previous stage to all answers."""
    if settings.judge.kind is JudgeKind.none:
        return
    judge = build(settings, run)
    reference = settings.stage_as(CompareStage).reference
    for name, found in answers.items():
        for other in dict.fromkeys((reference, previous[name])):
            if other is not None and other != name:
                prefer(found, answers[other], judge, prompts, settings.judge.limit)
    named = settings.judge.model or settings.judge.function
    counts = ", ".join(f"{key.removeprefix('judge/')} {value:.3g}" for key, value in judge.report().items())
    notes.append(f"The judge is {named} ({settings.judge.kind.value}){f': {counts}' if counts else ''}.")
    if settings.judge.kind is JudgeKind.reward:
        note_trained(run, "judge", answers, notes)


def note_trained(run: Run, role: str, answers: dict[str, Answers], notes: list) -> None:
    """Note which columns were trained on the reward model that scores or judges them here."""
    trained = [name for name in answers if trained_on(run, name, role)]
    title = "the reward model" if role == "reward" else "the judge"
    if trained:
        notes.append(f"Win rates by {title} favor models that were trained on it: {', '.join(trained)}.")


def reward_model(settings: Settings, run: Run) -> RewardModel:
    """Load the comparison's reward model.

    Raises:
        ModelError: it cannot be loaded.
    """
    stage, parent = settings.stage_as(CompareStage), run["reward"]
    tokenizer = loading.load_tokenizer(parent, settings.model)
    model = loading.load_reward_model(parent, settings.model, tokenizer).to(torch_device(settings.hardware))
    return RewardModel(model, tokenizer, max_length=stage.max_prompt_length + stage.max_response_length)


def trained_on(run: Run, name: str, role: str) -> bool:
    """Return whether a column was trained on the model that has ``role`` (reward or judge) in the comparison."""
    parents = (run[name].manifest or {"parents": {}})["parents"]
    scored = [record for own, record in parents.items() if own.partition(".")[0] in ("reward", "rewards")]
    return run[role].digest in [record["digest"] for record in scored]


def held_out_pairs(settings: Settings, run: Run) -> Sequence[dict[str, Any]]:
    """Return up to ``stage.pairs`` preference pairs of the test split; empty if the data has no pairs."""
    data, most = settings.data, settings.stage_as(CompareStage).pairs
    if not most or data.path is not None or data.preferences.path is None:  # one file of prompts has no pairs
        return []
    pairs = load(data, "preferences", "test", settings.seed)
    pairs = pairs.shuffle(seed=settings.seed).select(range(min(most, len(pairs))))
    run.record_data("preferences", "test", pairs)
    return list(pairs)


def calibration_of(scorer: RewardFunction, pairs: Sequence[dict[str, Any]], seed: int) -> Calibration | None:
    """Return the reward model's calibration on preference pairs; None without pairs."""
    if not pairs:
        return None
    prompts = [pair["prompt"] for pair in pairs]
    texts = [question(pair[side]) for side in ("chosen", "rejected") for pair in pairs]
    scores = scorer([*prompts, *prompts], texts)  # in one call, to compute a prompt once
    return of_pairs([a - b for a, b in zip(scores, scores[len(pairs) :], strict=False)], BINS, seed)
