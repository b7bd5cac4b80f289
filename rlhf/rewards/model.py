"""A sequence classifier with one output, as a RewardFunction."""

import inspect
from collections.abc import Iterator, Sequence
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
from rlhf.rewards.distance import Distance

AT_ONCE = 64  # rows that are rendered and tokenized together
Part = tuple[Sequence[int], list[float], torch.Tensor | None]  # places of rows, their scores, their hidden states


def encode(tokenizer: Any, prompt: Prompt, completion: str, max_length: int | None) -> list[int]:
    """Return prompt and completion as token ids, rendered like the training pairs of stage=reward.

    See `encode_rows`.
    """
    return encode_rows(tokenizer, [prompt], [completion], max_length)[0]


def encode_rows(
    tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str], max_length: int | None
) -> list[list[int]]:
    """Return the token ids of prompts, all strings or all conversations, and their completions.

    Uses the tokenizer's chat template, or joins the texts and appends the end-of-sequence token; an encoder's tokenizer
    adds its special tokens ([CLS] ... [SEP]). Only the last ``max_length`` tokens are kept; None keeps all.

    Raises:
        ModelError: the prompt is a conversation and the tokenizer has no chat template.
    """
    wholes = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, completions, strict=True)
    ]
    rows = render.encode(tokenizer, prompts, wholes)
    if max_length is None:
        return rows
    kept = int(render.is_framed(tokenizer))  # tokens at the beginning
    return [ids if len(ids) <= max_length else ids[:kept] + ids[len(ids) - max_length + kept :] for ids in rows]


class RewardModel:
    """A sequence classifier with one output, with its own tokenizer and chat template, as a RewardFunction.

    The classifier chooses the token at which it reads the score; a causal model reads the last one. Longer texts are
    truncated on the left to ``max_length`` tokens, so that the response is kept; None uses all positions of the model.
    A prompt of several responses is computed once, unless ``shared_prefix`` is false or the architecture does not
    support it, which is printed once. ``distance`` measures how far a response is from the training data, and
    ``penalty`` times the distance beyond its limit is subtracted from the score.

    Raises:
        ModelError: the classifier has more than one output.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int | None,
        batch_size: int = 64,
        shared_prefix: bool = True,
        distance: Distance | None = None,
        penalty: float = 0.0,
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
        self.distance, self.penalty = distance, penalty
        self.obstacle = shared.obstacle(model, self.max_length) if shared_prefix else None
        # Disable transformers' cache of keys and values, which nothing reads. For a role on a shared base, the
        # underlying model takes the argument.
        takes = inspect.signature(type(getattr(model, "view", model)).forward).parameters
        self.options = {"use_cache": False} if "use_cache" in takes else {}

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Return the token ids that are scored."""
        return encode(self.tokenizer, prompt, completion, self.max_length)

    def encoded(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of all rows; strings and conversations may be mixed."""
        size = AT_ONCE if len({isinstance(prompt, str) for prompt in prompts}) == 1 else 1
        parts = [slice(at, at + size) for at in range(0, len(prompts), size)]
        return [
            ids
            for part in parts
            for ids in encode_rows(self.tokenizer, prompts[part], completions[part], self.max_length)
        ]

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.detailed(prompts, completions)[0]

    def detailed(
        self, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """Return the scores, and with a ``distance`` further numbers per response: it, and whether it is far."""
        rows = self.encoded(prompts, completions)
        if self.distance is None:
            return self.score(rows), {}
        scores, hidden = self.read(rows)
        assert hidden is not None, "a distance is fitted on the hidden states of a head that reads the last token"
        found = self.distance(hidden)
        excess = (found - self.distance.limit).clamp(min=0)
        scores = (torch.tensor(scores) - self.penalty * excess).tolist() if self.penalty else scores
        return scores, {"distance": found.tolist(), "far": (excess > 0).float().tolist()}

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each row of token ids; rows of similar length, or with a common prefix, are batched."""
        return self.read(rows)[0]

    @torch.no_grad()
    def read(self, rows: Sequence[Sequence[int]]) -> tuple[list[float], torch.Tensor | None]:
        """Return the scores of rows of token ids, and the inputs (N, h) of a head that reads the last token, else None.

        The inputs are float32 and on the CPU.
        """
        scores, hidden = [0.0] * len(rows), [torch.empty(0)] * len(rows)
        for places, found, states in (self._shared(rows) if self.shared_prefix else None) or self._padded(rows):
            for number, place in enumerate(places):
                scores[place] = found[number]
                if states is not None:
                    hidden[place] = states[number].float().cpu()
        whole = bool(hidden) and all(len(state) for state in hidden)
        return scores, torch.stack(hidden) if whole else None

    @torch.no_grad()
    def running(self, ids: Sequence[int]) -> list[float]:
        """Return the score that the head reads at each token of a row, for a head that reads the last token."""
        found: list[torch.Tensor] = []
        head = shared.classifier_of(self.model).score
        handle = head.register_forward_hook(lambda module, given, output: found.append(output[0, :, 0]))
        try:
            self.model(input_ids=torch.tensor([list(ids)], device=self.model.device), **self.options)
        finally:
            handle.remove()
        return found[0].float().tolist()

    def _shared(self, rows: Sequence[Sequence[int]]) -> Iterator[Part] | None:
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
        batches = shared.batches(ids, READ_AT_ONCE, self.batch_size, self._enough())
        return (
            ([order[i] for i in places], *shared.scores(self.model, [ids[i] for i in places])) for places in batches
        )

    def _enough(self) -> int:
        """Return the tokens of a forward pass; a prompt of several responses may need more."""
        return shared.CACHED if self.model.device.type == "cpu" else READ_AT_ONCE

    def _padded(self, rows: Sequence[Sequence[int]]) -> Iterator[Part]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts = groups([len(rows[i]) for i in order], self._enough())
        size = self.batch_size
        for places in (part[at : at + size] for part in parts for at in range(0, len(part), size)):
            chosen = [order[i] for i in places]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, padding_side="right", return_tensors="pt"
            ).to(self.model.device)
            with shared.head_inputs(self.model, batch["input_ids"]) as states:
                scores = self.model(**batch, **self.options).logits[:, 0].float().tolist()
            yield chosen, scores, states[0] if states else None


class AdaptedRewardModel(RewardModel):
    """One of several adapters and heads on a shared base (``loading.load_adapted``)."""

    def __init__(self, model: Any, adapter: str, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        self.adapter = adapter

    def read(self, rows: Sequence[Sequence[int]]) -> tuple[list[float], torch.Tensor | None]:
        """Return the scores of rows of token ids with this adapter and head, and the inputs of the head."""
        self.model.set_adapter(self.adapter)
        return super().read(rows)
