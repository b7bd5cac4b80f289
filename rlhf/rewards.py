"""Rewards as functions of text: ``(prompts, completions) -> one score per completion``.

Text in, numbers out, so that a reward model may have a tokenizer of its own and a test may pass a function of two
lines. A prompt is a string or a list of messages; a completion is always a string.
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from rlhf.data.render import Prompt, encode
from rlhf.errors import ConfigError, TrainingError


class RewardFunction(Protocol):
    """Anything that scores completions."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]: ...


class RewardModel:
    """A sequence classifier with one output, as a RewardFunction.

    A text is rendered as the reward stage rendered its training pairs: by the tokenizer's chat template, or as the
    prompt, the completion and the end of sequence; the score is read at the last token. Of what is longer than
    ``max_length`` tokens the end is kept, as of a policy's prompt: the response is what is scored. None: all is kept.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int | None, batch_size: int = 64):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        whole = completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
        [ids] = encode(self.tokenizer, [prompt], [whole])
        return ids if self.max_length is None else ids[-self.max_length :]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        rows = [self.encode(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        for start in range(0, len(rows), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, padding_side="right", return_tensors="pt"
            )
            logits = self.model(**batch.to(self.model.device)).logits[:, 0].float().tolist()
            for i, score in zip(chosen, logits, strict=True):
                scores[i] = score
        return scores


def function(path: str) -> RewardFunction:
    """The RewardFunction that ``package.module:name`` points to.

    Raises:
        ConfigError: there is no such module or no such name in it.
    """
    module, colon, name = path.partition(":")
    if not colon:
        raise ConfigError(f"the reward {path!r} must have the form package.module:function")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the reward {path!r} cannot be imported: {error}") from error


def checked(scores: Sequence[float], completions: Sequence[str]) -> list[float]:
    """``scores``, if there is one finite number for each completion.

    Raises:
        TrainingError: there are more or fewer, or one is not a finite number.
    """
    if len(scores) != len(completions):
        raise TrainingError(f"the reward returned {len(scores)} scores for {len(completions)} completions")
    for score, completion in zip(scores, completions, strict=True):
        if not math.isfinite(score):
            raise TrainingError(f"the reward scored {completion[:80]!r} as {score}: scores must be finite numbers")
    return [float(score) for score in scores]
