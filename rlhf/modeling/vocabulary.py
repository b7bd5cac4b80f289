"""Vocabulary of tokenizer and model: padding, additional tokens, tied embeddings.

docs/models.md lists the rules.
"""

import hashlib
import itertools
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.data import templates

PAD = "<|pad|>"
# Special tokens for padding that some tokenizers contain but do not declare.
FREE = ("<|finetune_right_pad_id|>", "<|padding|>", "<|endofpad|>", "<pad>", "[PAD]", "<|fim_pad|>", "<|vision_pad|>")

PART, FEW = 512, 128  # for `logits_in_parts`: tokens of the vocabulary in one matrix product, and rows


def set_padding(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Set a padding token that does not add a row to a model of ``rows`` embeddings.

    An additional row would take an arbitrary share of the probability, since logits are defined up to a constant. The
    padding token is, in this order: the tokenizer's own, unless it begins or ends a text; an unused special token; a
    spare row after the last token, which some models have; the beginning of sequence; the end of sequence. All masks
    are made from lengths. A classifier reads the last token that is not padding: if padding is the end of sequence, it
    reads the token before.
    """
    taken = (None, tokenizer.eos_token, tokenizer.bos_token)
    if tokenizer.pad_token not in taken:
        return
    vocabulary = tokenizer.get_vocab()
    free = [token for token in (tokenizer.unk_token, *FREE) if token not in taken and token in vocabulary]
    if free:
        tokenizer.pad_token = free[0]
    elif len(tokenizer) < rows:
        tokenizer.add_special_tokens({"pad_token": PAD})
    else:
        tokenizer.pad_token = tokenizer.bos_token or tokenizer.eos_token


def add_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add a row to the model for each additional token of the tokenizer.

    A new row is drawn from N(m, s^2), with mean m and standard deviation s of the other rows in each dimension, so that
    its logits are distributed like theirs. The token's text is the seed, so that an adapter trained with such rows
    finds the same rows when it is loaded. ``new_rows`` counts them.
    """
    embeddings: Any = model.get_input_embeddings()
    before, size = embeddings.num_embeddings, len(tokenizer)
    if size <= before:
        return
    with torch.random.fork_rng():  # transformers also draws them
        model.resize_token_embeddings(size, mean_resizing=False)
    texts = tokenizer.convert_ids_to_tokens(list(range(before, size)))
    seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:15], 16) for text in texts]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    layers: list[Any] = [model.get_input_embeddings(), *([] if is_tied(model) else [model.get_output_embeddings()])]
    with torch.no_grad():
        for layer in (layer for layer in layers if layer is not None):
            known = layer.weight[:before]
            mean, spread = known.mean(0, dtype=torch.float32), known.std(0).float()
            noise = torch.stack([torch.randn(len(mean), generator=draw) for draw in draws]).to(mean.device)
            layer.weight[before:] = mean + spread * noise
            if getattr(layer, "bias", None) is not None:
                layer.bias[before:] = layer.bias[:before].mean()
    model.new_rows = size - before
    model.name_or_path = ""  # otherwise peft would write whole embeddings into each checkpoint of an adapter


def new_rows(model: Any) -> int:
    """Return how many rows ``add_rows`` added to ``model``."""
    return getattr(model, "new_rows", 0)


def untie(model: PreTrainedModel) -> None:
    """Mark a model with a separate output head as untied; resizing or saving would tie it otherwise."""
    output = model.get_output_embeddings()
    if output is not None and not is_tied(model):
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether the output head is the embedding matrix."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


@contextmanager
def logits_in_parts(model: Any) -> Generator[None]:
    """Within the context, compute the logits of few tokens on a CPU for ``PART`` tokens of the vocabulary at a time.

    MKL multiplies the few rows of a decoding step by the matrix of a large vocabulary at half of its usual rate.
    """
    output = model.get_output_embeddings()
    if type(output) is not torch.nn.Linear or output.out_features < 2 * PART:
        yield
        return

    def forward(hidden: Tensor) -> Tensor:
        if hidden.device.type != "cpu" or hidden[..., 0].numel() > FEW:
            return linear(hidden, output.weight, output.bias)
        biases = itertools.repeat(None) if output.bias is None else output.bias.split(PART)
        return torch.cat([linear(hidden, *part) for part in zip(output.weight.split(PART), biases, strict=False)], -1)

    output.forward = forward
    try:
        yield
    finally:
        del output.forward


def name_of(model: PreTrainedModel, layer: torch.nn.Module) -> str:
    """Return the name of ``layer`` in ``model``."""
    return next(name for name, module in model.named_modules() if module is layer)


def match(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the model's vocabulary size and special tokens to the tokenizer's."""
    add_rows(model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        # An id from another vocabulary, such as LlamaConfig's default 2, would end a response within a word.
        added = set(tokenizer.added_tokens_decoder) - {tokenizer.bos_token_id, tokenizer.pad_token_id}
        ends = [id for id in templates.end_ids(model, tokenizer) if id in added or id == tokenizer.eos_token_id]
        model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
