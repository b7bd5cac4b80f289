"""The metrics as modules of Hugging Face Evaluate, for whoever measures with ``evaluate.combine`` or an evaluator.

They are classes and not scripts on the Hub: nothing is downloaded, and nothing is written to its cache.
"""

import json
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Value

from rlhf.evaluation.judges.votes import Compared, length_matched
from rlhf.evaluation.responses.instructions import followed
from rlhf.evaluation.statistics import metrics
from rlhf.evaluation.statistics.calibration import calibration_error, reliability


class Module(evaluate.Metric):
    """A metric that keeps what it is given in memory. ``columns`` are those of its arguments."""

    columns: ClassVar[dict[str, Value]]

    def __init__(self, **options: Any):
        with TemporaryDirectory() as unused:  # Evaluate makes a folder even where it writes nothing
            super().__init__(keep_in_memory=True, cache_dir=unused, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=Features(self.columns)
        )


class Distinct(Module):
    """``predictions``: texts. ``distinct``: distinct n-grams of words as a share of all."""

    columns: ClassVar = {"predictions": Value("string")}

    def _compute(self, predictions: Sequence[str], n: int = 2) -> dict[str, float]:
        return {"distinct": metrics.distinct(predictions, n)}


class WinRate(Module):
    """``predictions``, ``references``: a score of each side for every prompt. ``win_rate`` with its 95 % interval."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float], draws: int = 2000, seed: int = 0
    ) -> dict[str, float]:
        found = metrics.win_rate([[a] for a in predictions], [[b] for b in references], draws, seed)
        if found is None:
            raise ValueError("every response is longer than the other, or every one shorter: no lengths can be matched")
        return {"win_rate": found.mean, "low": found.low, "high": found.high}


class Perplexity(Module):
    """``predictions``: Σ -log p of texts in nats; ``references``: their numbers of tokens. ``perplexity`` of all."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("int64")}

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        return {"perplexity": metrics.perplexity(sum(predictions), sum(references))}


class LengthControlledWinRate(Module):
    """``predictions``: how much each response is preferred to the other, in [0, 1]; ``references``: by how much it is
    longer. ``win_rate`` if both were equally long, with its 95 % interval: AlpacaEval 2's regression in its minimal
    form, without the difficulty of each instruction.

    Raises:
        ValueError: every response is longer than the other, or every one shorter.
    """

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float], draws: int = 2000, seed: int = 0
    ) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        found = length_matched([Compared(np.array([p]), np.array([d])) for p, d in pairs], draws, seed)
        if found is None:
            raise ValueError("every response is longer than the other, or every one shorter: no lengths can be matched")
        return {"win_rate": found.mean, "low": found.low, "high": found.high}


class InstructionFollowing(Module):
    """``predictions``: responses; ``references``: the instructions of each prompt as JSON, ``{"instruction_id_list":
    [...], "kwargs": [...]}``. ``prompts``: the share that follows all of its own; ``instructions``: the share followed.
    """

    columns: ClassVar = {"predictions": Value("string"), "references": Value("string")}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        verdicts = [followed(json.loads(reference), text) for text, reference in pairs]
        flat = [verdict for of_prompt in verdicts for verdict in of_prompt]
        return {"prompts": sum(map(all, verdicts)) / len(verdicts), "instructions": sum(flat) / len(flat)}


class CalibrationError(Module):
    """``predictions``: probabilities; ``references``: 1 where what they predict happened. ``calibration_error``."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(self, predictions: Sequence[float], references: Sequence[float], bins: int = 10) -> dict[str, float]:
        return {"calibration_error": calibration_error(reliability(predictions, references, bins))}
