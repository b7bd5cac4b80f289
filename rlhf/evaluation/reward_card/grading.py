"""The report card of a reward model from pairs, for stage=reward and stage=evaluate_reward."""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlhf.config.reward import CardStage
from rlhf.data.render import Prompt
from rlhf.errors import ModelError, TrainingError
from rlhf.evaluation.reward_card.autopsy import autopsies
from rlhf.evaluation.reward_card.card import Card, Limits, disagreement, measure, policy_rules, rules
from rlhf.evaluation.reward_card.ensemble import MeanModel
from rlhf.evaluation.reward_card.pairs import ScoredPairs, score_pairs, side
from rlhf.modeling.foreign import positions
from rlhf.modeling.generation import generate
from rlhf.modeling.seeding import derive
from rlhf.rewards import RewardModel
from rlhf.rewards.distance import Distance

if TYPE_CHECKING:
    from datasets import Dataset


class Policy(NamedTuple):
    """The policy whose log-probability is a baseline and whose responses PPO will score; ``path`` names it."""

    path: str
    model: Any
    tokenizer: Any


def grade(
    name: str,
    members: Sequence[RewardModel],
    pairs: Mapping[str, "Dataset"],
    policy: Policy | None,
    stage: CardStage,
    seed: int,
) -> Card:
    """Return the card of a reward model, or of the mean of several ``members``.

    ``pairs`` holds the splits validation, test and, for the TF-IDF baseline, train.
    """
    limits = Limits(stage.probe_rows, stage.calibration_bins, stage.bootstrap, seed)
    scored = {split: [score_pairs(pairs[split], member) for member in members] for split in ("validation", "test")}
    reward = members[0] if len(members) == 1 else MeanModel(members)
    train = pairs.get("train")
    if train is not None and len(train) > stage.tfidf_pairs:
        drawn = random.Random(derive(seed, "tfidf")).sample(range(len(train)), stage.tfidf_pairs)
        train = train.select(sorted(drawn))
    kept = pairs if train is None else {**pairs, "train": train}
    sides = {split: (side(rows, "chosen"), side(rows, "rejected")) for split, rows in kept.items()}
    differences = rules(sides.get("train"), sides["validation"], sides["test"])
    if policy is not None:
        lengths = [length for length in (members[0].max_length, positions(policy.model)) if length is not None]
        longest, batch = min(lengths, default=None), members[0].batch_size
        differences |= policy_rules(policy.model, policy.tokenizer, sides["test"], longest, batch)
    card = measure(name, reward, mean(scored["test"]), mean(scored["validation"]), differences, limits)
    if stage.autopsies and len(members) == 1 and train is not None:
        card.autopsies = autopsies(members[0], card.pairs, list(train), stage.autopsies, seed)
    if len(members) > 1:
        card.members = disagreement(scored["test"])
        card.notes.append(f"the score is the mean over {len(members)} members")
    if train is None:
        card.notes.append("no TF-IDF baseline, since there are no training pairs")
    if policy is None:
        card.notes.append(
            "without stage.policy, the log-probability baseline and the scores of the policy's responses are left out"
        )
    return card


def fit_distance(reward: RewardModel, pairs: Mapping[str, "Dataset"], rows: int, seed: int) -> Distance:
    """Return the distance of a response from ``rows`` training responses, drawn with ``seed``.

    Its limit is a quantile of as many validation responses.

    Raises:
        ModelError: the reward model has no head on the last position.
    """
    found = []
    for split in ("train", "validation"):
        sides = side(pairs[split], "chosen"), side(pairs[split], "rejected")
        every = [row for one in sides for row in zip(one.prompts, one.completions, strict=True)]
        drawn = random.Random(derive(seed, "distance", split)).sample(every, min(rows, len(every)))
        _, hidden = reward.read([reward.encode(*row) for row in drawn])
        if hidden is None:
            raise ModelError("stage.distance_rows needs a head on the last position: set stage.distance_rows=0")
        found.append(hidden)
    return Distance.fit(*found)


def mean(members: Sequence[ScoredPairs]) -> ScoredPairs:
    """Return the pairs with the mean of the members' scores."""
    return replace(
        members[0],
        chosen_scores=np.mean([member.chosen_scores for member in members], axis=0),
        rejected_scores=np.mean([member.rejected_scores for member in members], axis=0),
    )


def score_statistics(
    members: Sequence[RewardModel], policy: Policy, prompts: Sequence[Prompt], stage: Any, seed: int
) -> list[dict[str, float]]:
    """Return mean and standard deviation of each member's scores of the policy's responses, by which PPO normalizes.

    Raises:
        TrainingError: a member gives every response the same score.
    """
    prompts = list(prompts)[: stage.statistics_prompts]
    responses = generate(
        policy.model,
        policy.tokenizer,
        prompts,
        max_prompt_length=members[0].max_length,
        max_response_length=stage.sample_length,
        temperature=stage.statistics_temperature,
        seed=seed,
        batch_size=64,
    )
    texts = [response.text for response in responses]
    found = []
    for member in members:
        scores = member(prompts, texts)
        if len(set(scores)) == 1:
            raise TrainingError(
                f"the reward model gives every response of {policy.path} the score {scores[0]}: "
                "raise stage.trainer.learning_rate, or train on more pairs"
            )
        found.append({"scores/mean": statistics.fmean(scores), "scores/std": statistics.stdev(scores)})
    return found
