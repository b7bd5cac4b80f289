"""A sequence classifier with one output, as a RewardFunction."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from rlhf.console import console
from rlhf.data import render
from rlhf.data.render import Prompt
from rlhf.errors import ModelError
from rlhf.modeling.decoding import READ_AT_ONCE, groups
from rlhf.modeling.foreign import positions
from rlhf.rewards import shared


def encode(tokenizer: Any, prompt: Prompt, completion: str, max_length: int | None) -> list[int]:
    """Return prompt and completion as token ids, rendered like the training pairs of stage=reward.

    Uses the tokenizer's chat template, or joins the texts and appends the end-of-sequence token; an encoder's tokenizer
    adds its special tokens ([CLS] ... [SEP]). Only the last ``max_length`` tokens are kept; None keeps all.

    Raises:
        ModelError: the prompt is a conversation and the tokenizer has no chat template.
    """
    whole = completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
    [ids] = render.encode(tokenizer, [prompt], [whole])
    if max_length is None or len(ids) <= max_length:
        return ids
    first = ids[:1] if render.is_framed(tokenizer) else []
    return first + ids[len(ids) - max_length + len(first) :]


class RewardModel:
    """A sequence classifier with one output, with its own tokenizer and chat template, as a RewardFunction.

    The classifier chooses the token at which it reads the score; a causal model reads the last one. Longer texts are
    truncated on the left to ``max_length`` tokens, so that the response is kept; None uses all positions of the model.
    A prompt of several responses is computed once, unless ``shared_prefix`` is false or the architecture does not
    support it, which is printed once.

    Raises:
        ModelError: the classifier has more than one output.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_length: int | None, batch_size: int = 64, shared_prefix: bool = True
    ):
        if model.config.num_labels != 1:
            raise ModelError(
                f"{model.config.name_or_path or 'the reward model'} has {model.config.num_labels} outputs instead of "
                "one: use a classifier that was trained with num_labels=1"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        limits = [limit for limit in (max_length, positions(model)) if limit is not None]
        self.max_length = min(limits, default=None)
        self.batch_size, self.shared_prefix = batch_size, shared_prefix
        self.obstacle = shared.obstacle(model, self.max_length) if shared_prefix else None
        # Disable transformers' cache of keys and values, which nothing reads. For a role on a shared base, the
        # underlying model takes the argument.
        takes = inspect.signature(type(getattr(model, "view", model)).forward).parameters
        self.options = {"use_cache": False} if "use_cache" in takes else {}

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Return the token ids that are scored."""
        return encode(self.tokenizer, prompt, completion, self.max_length)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.score([self.encode(*row) for row in zip(prompts, completions, strict=True)])

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each row of token ids; rows of similar length, or with a common prefix, are batched."""
        found = self._shared(rows) if self.shared_prefix else None
        return self._padded(rows) if found is None else found

    def _shared(self, rows: Sequence[Sequence[int]]) -> list[float] | None:
        """Return the scores with common prefixes computed once; None if that is not possible or saves little."""
        order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
        ids = [numpy.array(rows[i], numpy.int64) for i in order]
        if not shared.saves(ids):
            return None
        if self.obstacle is not None:
            message = f"rewards: each prompt is computed again for every response, since {self.obstacle}"
            console.print(message, highlight=False, markup=False, soft_wrap=True)
            self.shared_prefix = False
            return None
        scores = [0.0] * len(rows)
        for places in shared.batches(ids, READ_AT_ONCE, self.batch_size):
            for place, score in zip(places, shared.scores(self.model, [ids[i] for i in places]), strict=True):
                scores[order[place]] = score
        return scores

    def _padded(self, rows: Sequence[Sequence[int]]) -> list[float]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        parts = groups([len(rows[i]) for i in order], READ_AT_ONCE)
        size = self.batch_size
        for places in (part[at : at + size] for part in parts for at in range(0, len(part), size)):
            chosen = [order[i] for i in places]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, padding_side="right", return_tensors="pt"
            )
            logits = self.model(**batch.to(self.model.device), **self.options).logits[:, 0].float().tolist()
            for i, score in zip(chosen, logits, strict=True):
                scores[i] = score
        return scores


class AdaptedRewardModel(RewardModel):
    """One of several adapters and heads on a shared base (``loading.load_adapted``)."""

    def __init__(self, model: Any, adapter: str, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        self.adapter = adapter

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each row of token ids with this adapter and head."""
        self.model.set_adapter(self.adapter)
        return super().score(rows)
