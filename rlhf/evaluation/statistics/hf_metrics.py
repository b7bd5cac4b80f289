"""The metrics as modules of Hugging Face Evaluate, for ``evaluate.combine`` and evaluators.

They are classes instead of scripts on the Hub: nothing is downloaded or written to a cache.
"""

import json
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Value

from rlhf.evaluation.judges.votes import Compared, length_matched
from rlhf.evaluation.statistics import metrics
from rlhf.evaluation.statistics.calibration import calibration_error, reliability
from rlhf.rewards.instructions import followed


class Module(evaluate.Metric):
    """A metric that keeps its inputs in memory. ``columns``: argument of `compute` -> type.

    Subclasses name the arguments of ``_compute``, as Evaluate's own metrics do, although it declares ``**kwargs``.
    """

    columns: ClassVar[dict[str, Value]]

    def __init__(self, **options: Any):
        with TemporaryDirectory() as unused:  # Evaluate creates a folder even if it writes nothing
            super().__init__(keep_in_memory=True, cache_dir=unused, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=Features(self.columns)
        )


class Distinct(Module):
    """Distinct n-grams of words as a share of all (``distinct``). ``predictions``: texts."""

    columns: ClassVar = {"predictions": Value("string")}

    def _compute(self, predictions: Sequence[str], n: int = 2) -> dict[str, float]:  # ty: ignore[incompatible-method-override]
        return {"distinct": metrics.distinct(predictions, n)}


class WinRate(Module):
    """Win rate with its 95 % interval. ``predictions``, ``references``: one score per prompt for each side."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(  # ty: ignore[incompatible-method-override]
        self, predictions: Sequence[float], references: Sequence[float], draws: int = 2000, seed: int = 0
    ) -> dict[str, float]:
        found = metrics.win_rate([[a] for a in predictions], [[b] for b in references], draws, seed)
        return {"win_rate": found.mean, "low": found.low, "high": found.high}


class Perplexity(Module):
    """Perplexity per token. ``predictions``: Σ -log p of each text, in nats; ``references``: its number of tokens."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("int64")}

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:  # ty: ignore[incompatible-method-override]
        return {"perplexity": metrics.perplexity(sum(predictions), sum(references))}


class LengthControlledWinRate(Module):
    """Length-matched win rate with its 95 % interval, see `rlhf.evaluation.judges.votes.length_matched`.

    ``predictions``: how strongly each response is preferred over the other side's, in [0, 1]; ``references``: the
    difference in length.

    Raises:
        ValueError: every response is longer than the other, or every one shorter.
    """

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(  # ty: ignore[incompatible-method-override]
        self, predictions: Sequence[float], references: Sequence[float], draws: int = 2000, seed: int = 0
    ) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        found = length_matched([Compared(np.array([p]), np.array([d])) for p, d in pairs], draws, seed)
        if found is None:
            raise ValueError("no lengths can be matched: every response is longer than the other, or every one shorter")
        return {"win_rate": found.mean, "low": found.low, "high": found.high}


class InstructionFollowing(Module):
    """Instructions followed: the share of responses that follow all (``prompts``), and of ``instructions`` followed.

    ``predictions``: responses; ``references``: JSON of ``{"instruction_id_list": [...], "kwargs": [...]}`` per prompt.
    """

    columns: ClassVar = {"predictions": Value("string"), "references": Value("string")}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:  # ty: ignore[incompatible-method-override]
        pairs = zip(predictions, references, strict=True)
        verdicts = [followed(json.loads(reference), text) for text, reference in pairs]
        flat = [verdict for of_prompt in verdicts for verdict in of_prompt]
        return {"prompts": sum(map(all, verdicts)) / len(verdicts), "instructions": sum(flat) / len(flat)}


class CalibrationError(Module):
    """Expected calibration error. ``predictions``: probabilities; ``references``: 1 if the prediction was right."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(self, predictions: Sequence[float], references: Sequence[float], bins: int = 10) -> dict[str, float]:  # ty: ignore[incompatible-method-override]
        return {"calibration_error": calibration_error(reliability(predictions, references, bins))}
