"""Rewards as functions of text: ``(prompts, completions) -> one score per completion``.

Text in, numbers out, so that a reward model can have a different tokenizer than the policy, and a test can pass a
function of two lines. A prompt is a string or a list of messages; a completion is always a string. A reward that reads
other columns of the row takes them as keyword lists.

    protocol        RewardFunction; a function by its path; the check of scores
    spending        questions to judges (rlhf/evaluation/judges) and their cost, counted and bounded
    columns         the row's other columns, looked up by the prompt
    model           a sequence classifier as a RewardFunction
    shared          a prompt computed once for the scores of its responses
    ensemble        several RewardFunctions: mean - k standard deviations, or the minimum
    remote          a RewardFunction behind HTTP
    terms           length and format
    verifiable      answers in a column: exact match, number, choice, JSON schema, IFEval's instructions
    instructions    the 25 checks of IFEval
    normalization   stored and running statistics
    composition     a weighted sum of named terms; a gold reward beside it
    build           all of these from settings
"""

from rlhf.rewards.columns import Rows, bound
from rlhf.rewards.composition import CompositeReward, RewardTerm, Scorer
from rlhf.rewards.ensemble import Ensemble
from rlhf.rewards.model import AdaptedRewardModel, RewardModel, encode
from rlhf.rewards.normalization import FixedNormalizer, RunningNormalizer
from rlhf.rewards.protocol import RewardFunction, checked, function
from rlhf.rewards.remote import RemoteReward
from rlhf.rewards.terms import FormatReward, LengthReward
from rlhf.rewards.verifiable import ChoiceReward, ExactReward, InstructionReward, NumberReward, SchemaReward

__all__ = [
    "AdaptedRewardModel",
    "ChoiceReward",
    "CompositeReward",
    "Ensemble",
    "ExactReward",
    "FixedNormalizer",
    "FormatReward",
    "InstructionReward",
    "LengthReward",
    "NumberReward",
    "RemoteReward",
    "RewardFunction",
    "RewardModel",
    "RewardTerm",
    "Rows",
    "RunningNormalizer",
    "SchemaReward",
    "Scorer",
    "bound",
    "checked",
    "encode",
    "function",
]
