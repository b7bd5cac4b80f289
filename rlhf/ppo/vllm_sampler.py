"""Responses from a separate engine with a copy of the policy's weights.

The difference between its log-probabilities and the policy's is logged as ``val/sampler_gap`` and corrected with
``stage.importance_cap``.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from rlhf.errors import TrainingError
from rlhf.modeling.decoding import Sampled
from rlhf.modeling.generation import cut


class Copy(Protocol):
    """The interface of trl.generation.VLLMGeneration: a copy of the policy that samples token ids."""

    def sync_weights(self) -> None:
        """Copy the policy's current weights."""

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        """Return prompts, responses, log-probabilities (B, T, 1) at the sampling temperature, and their token ids."""


class Copied:
    """``copy`` as a Sampler; its temperature, length limit and end tokens are set when it is made.

    Raises:
        TrainingError: the engine returned a token without log-probability, or the wrong number of responses.
    """

    def __init__(self, copy: Copy):
        self.copy = copy

    def synchronize(self) -> None:
        """Copy the policy's current weights to the engine."""
        self.copy.sync_weights()

    def __call__(
        self, policy: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
    ) -> list[Sampled]:
        _, responses, logprobs, _ = self.copy.generate([list(row) for row in rows], None, 1)
        if len(responses) != len(rows):
            raise TrainingError(f"the rollout engine returned {len(responses)} responses to {len(rows)} prompts")
        if logprobs is None:
            raise TrainingError(
                "the rollout engine returned no log-probabilities: enable them, they correct for its difference"
            )
        return [self._sampled(*pair, ends, length) for pair in zip(responses, logprobs, strict=True)]

    def _sampled(self, ids: list[int], logprobs: list[list[float | None]], ends: set[int], length: int) -> Sampled:
        kept = cut(list(ids)[:length], ends)
        found = [value for value, *_ in logprobs[: len(kept)] if value is not None]
        if not kept or len(found) < len(kept):
            raise TrainingError(
                "the rollout engine returned a response without tokens, or a token without log-probability"
            )
        return Sampled(kept, found)
