"""The metrics as modules of Hugging Face Evaluate, for whoever measures with ``evaluate.combine`` or an evaluator.

They are classes and not scripts on the Hub: nothing is downloaded, and nothing is written to its cache.
"""

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import evaluate
from datasets import Features, Value

from rlhf.evaluation import metrics


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
        return {"win_rate": found.mean, "low": found.low, "high": found.high}


class Perplexity(Module):
    """``predictions``: Σ -log p of texts in nats; ``references``: their numbers of tokens. ``perplexity`` of all."""

    columns: ClassVar = {"predictions": Value("float64"), "references": Value("int64")}

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        return {"perplexity": metrics.perplexity(sum(predictions), sum(references))}
