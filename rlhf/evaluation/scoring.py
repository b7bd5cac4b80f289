"""The rewards of a comparison: the gold reward where the world has one, the reward model where there is one."""

from collections.abc import Sequence
from typing import Any

from rlhf import models
from rlhf.config import Settings
from rlhf.data import load
from rlhf.data.render import question
from rlhf.evaluation.answers import Answers
from rlhf.evaluation.calibration import Bin, preference_probabilities, reliability
from rlhf.evaluation.comparison import score
from rlhf.rewards import RewardFunction, RewardModel
from rlhf.run import Run


def score_all(
    settings: Settings, run: Run, answers: dict[str, Answers], prompts: list, gold: RewardFunction | None, notes: list
) -> list[Bin]:
    """Score every answer by every reward; returns how reliable the reward model is on held-out pairs."""
    rewards: dict[str, RewardFunction] = {} if gold is None else {"gold": gold}
    bins: list[Bin] = []
    if "reward" in run.parents:
        rewards["reward"] = scorer = reward_model(settings, run)
        bins = reliability_of(scorer, held_out_pairs(settings, run))
        trained = [name for name in answers if trained_on(run, name)]
        if trained:
            notes.append(f"Wins by the reward model say little of those trained on it: {', '.join(trained)}.")
    elif settings.stage.reward is not None:
        notes.append(f"No response is scored by a reward model: {settings.stage.reward} is not there.")
    for name, reward in rewards.items():
        for found in answers.values():
            score(found, name, reward, prompts)
    return bins


def reward_model(settings: Settings, run: Run) -> RewardModel:
    stage, parent = settings.stage, run["reward"]
    tokenizer = models.load_tokenizer(parent, settings.model)
    model = models.load_reward_model(parent, settings.model, tokenizer).to(models.device(settings.hardware))
    return RewardModel(model, tokenizer, max_length=stage.max_prompt_length + stage.max_response_length)


def trained_on(run: Run, name: str) -> bool:
    """Whether a column was trained on the reward model that scores here."""
    parents = (run[name].manifest or {"parents": {}})["parents"]
    return parents.get("reward", {}).get("digest") == run["reward"].digest


def held_out_pairs(settings: Settings, run: Run) -> Sequence[dict[str, Any]]:
    """Up to ``stage.pairs`` of the test split's preference pairs; none where the data has none."""
    data, most = settings.data, settings.stage.pairs
    if not most or data.path is not None or data.preferences.path is None:  # one file of prompts has no pairs
        return []
    pairs = load(data, "preferences", "test", settings.seed)
    pairs = pairs.shuffle(seed=settings.seed).select(range(min(most, len(pairs))))
    run.record_data("preferences", "test", pairs)
    return list(pairs)


def reliability_of(scorer: RewardFunction, pairs: Sequence[dict[str, Any]]) -> list[Bin]:
    """How often the response that the reward model prefers is the chosen one, by how sure it is of that."""
    if not pairs:
        return []
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (scorer(prompts, [question(pair[side]) for pair in pairs]) for side in ("chosen", "rejected"))
    right = preference_probabilities(chosen, rejected)
    return reliability([max(p, 1 - p) for p in right], [float(p > 0.5) + 0.5 * (p == 0.5) for p in right])
