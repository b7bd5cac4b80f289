"""A sequence classifier with one output, as a RewardFunction."""

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.data.render import Prompt
from rlhf.errors import ModelError


class RewardModel:
    """A sequence classifier with one output, as a RewardFunction, with the tokenizer and the chat template of its own.

    A text is rendered as the reward stage rendered its training pairs: by the tokenizer's chat template, or as the
    prompt, the completion and the end of sequence; the score is read where the classifier reads it, of a causal model
    at the last token. An encoder's tokenizer frames the text in its own marks ([CLS] ... [SEP]). Of what is longer than
    ``max_length`` tokens the end is kept, as of a policy's prompt: the response is what is scored. None: all is kept.

    Raises:
        ModelError: the classifier has more than one output.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int | None, batch_size: int = 64):
        if model.config.num_labels != 1:
            raise ModelError(
                f"{model.config.name_or_path or 'the reward model'} has {model.config.num_labels} outputs and a reward "
                "model has one: give one that was trained with num_labels=1"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        framed = self.tokenizer.cls_token_id is not None
        if isinstance(prompt, str):
            end = self.tokenizer.eos_token or ""
            text = prompt + completion + ("" if completion.endswith(end) else end)
            ids = self.tokenizer(text)["input_ids"]
        else:
            messages = [*prompt, {"role": "assistant", "content": completion}]
            if framed:  # no chat template writes an encoder's marks
                ids = self.tokenizer(self._template(messages, tokenize=False))["input_ids"]
            else:
                ids = self._template(messages, tokenize=True, return_dict=True)["input_ids"]
        if self.max_length is None or len(ids) <= self.max_length:
            return ids
        first = ids[:1] if framed else []
        return first + ids[len(ids) - self.max_length + len(first) :]

    def _template(self, messages: Sequence[dict[str, str]], **options: Any) -> Any:
        if self.tokenizer.chat_template is None:
            raise ModelError(
                "the prompt is a conversation and the reward model's tokenizer has no chat template: give one with "
                "model.chat_template=plain or model.chat_template=<file>.jinja"
            )
        return self.tokenizer.apply_chat_template(messages, **options)

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


class AdaptedRewardModel(RewardModel):
    """One of several adapters and heads on a base that they share (``models.load_adapted``)."""

    def __init__(self, model: Any, adapter: str, tokenizer: Any, **options: Any):
        super().__init__(model, tokenizer, **options)
        self.adapter = adapter

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        self.model.set_adapter(self.adapter)
        return super().__call__(prompts, completions)
