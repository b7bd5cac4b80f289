"""Responses by another engine than the policy's own code: it has a copy of the weights, which falls behind.

The distance between its log-probabilities and the policy's is logged as ``val/sampler_gap`` and corrected by
``stage.importance_cap``.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from rlhf.errors import TrainingError
from rlhf.modeling.decoding import Sampled
from rlhf.modeling.generation import cut


class Copy(Protocol):
    """What trl.generation.VLLMGeneration is here: a copy of the policy that answers tokens with tokens."""

    def sync_weights(self) -> None:
        """Take over the policy's weights as they are now."""

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        """(prompts, responses, log-probabilities (B, T, 1) of their tokens at the temperature, and whose they are)."""


class Copied:
    """``copy`` as a Sampler; temperature, length and the ends of responses are what it was made with.

    Raises:
        TrainingError: it gave no log-probability for a token, or another number of responses than was asked for.
    """

    def __init__(self, copy: Copy):
        self.copy = copy

    def synchronise(self) -> None:
        self.copy.sync_weights()

    def __call__(
        self, policy: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
    ) -> list[Sampled]:
        _, responses, logprobs, _ = self.copy.generate([list(row) for row in rows], None, 1)
        if len(responses) != len(rows):
            raise TrainingError(f"the rollout's engine gave {len(responses)} responses to {len(rows)} prompts")
        if logprobs is None:
            raise TrainingError(
                "the rollout's engine gives no log-probabilities: let it, they correct for its distance"
            )
        return [self._sampled(*pair, ends, length) for pair in zip(responses, logprobs, strict=True)]

    def _sampled(self, ids: list[int], logprobs: list[list[float | None]], ends: set[int], length: int) -> Sampled:
        kept = cut(list(ids)[:length], ends)
        found = [each[0] for each in logprobs[: len(kept)]]
        if not kept or len(found) < len(kept) or None in found:
            raise TrainingError(
                "the rollout's engine gave a response without tokens, or a token without log-probability"
            )
        return Sampled(kept, found)
