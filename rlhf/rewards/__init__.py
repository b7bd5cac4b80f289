"""Rewards as functions of text: ``(prompts, completions) -> one score per completion``.

Text in, numbers out, so that a reward model can have a different tokenizer than the policy, and a test can pass a
function of two lines. A prompt is a string or a list of messages; a completion is always a string.

    protocol        RewardFunction; a function by its path; the check of scores
    model           a sequence classifier as a RewardFunction
    ensemble        several RewardFunctions: mean - k standard deviations
    remote          a RewardFunction behind HTTP
    terms           length and format
    normalization   stored and running statistics
    composition     a weighted sum of named terms; a gold reward beside it
    build           all of these from settings
"""

from rlhf.rewards.composition import CompositeReward, RewardTerm, Scorer
from rlhf.rewards.ensemble import Ensemble
from rlhf.rewards.model import AdaptedRewardModel, RewardModel, encode
from rlhf.rewards.normalization import FixedNormalizer, RunningNormalizer
from rlhf.rewards.protocol import RewardFunction, checked, function
from rlhf.rewards.remote import RemoteReward
from rlhf.rewards.terms import FormatReward, LengthReward

__all__ = [
    "AdaptedRewardModel",
    "CompositeReward",
    "Ensemble",
    "FixedNormalizer",
    "FormatReward",
    "LengthReward",
    "RemoteReward",
    "RewardFunction",
    "RewardModel",
    "RewardTerm",
    "RunningNormalizer",
    "Scorer",
    "checked",
    "encode",
    "function",
]
