"""Tokens and the rows of a model that they stand for: padding, tokens that a tokenizer has more, tied embeddings.

docs/models.md has the rules, one by one.
"""

import hashlib
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD = "<|pad|>"
# Special tokens that some tokenizers bring for padding and name as such nowhere.
FREE = ("<|finetune_right_pad_id|>", "<|padding|>", "<|endofpad|>", "<pad>", "[PAD]", "<|fim_pad|>", "<|vision_pad|>")


def set_padding(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Give the tokenizer a padding token that needs no new row in a model of ``rows`` embeddings.

    A row more would take a share of the probability of all others, of any size: logits are only given up to a constant.
    So padding is, in this order: the tokenizer's own, unless that begins or ends a text; a special token that nothing
    else uses; a row behind the last token, which some models have; the beginning of a text, if it is not its end; the
    end. All masks are made from lengths. A classifier reads the last token that is no padding, so that one whose
    padding is the end of sequence reads the token before that.
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
    """Give the model a row for each token of the tokenizer.

    A new row is drawn from N(m, s^2), m and s being mean and standard deviation of the others in each dimension, so
    that its logit is distributed as theirs are, and by the token's text: an adapter that is trained beside such rows
    finds the same ones wherever it is loaded. ``new_rows`` counts them.
    """
    before, size = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if size <= before:
        return
    with torch.random.fork_rng():  # transformers draws them, too
        model.resize_token_embeddings(size, mean_resizing=False)
    texts = tokenizer.convert_ids_to_tokens(range(before, size))
    seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:15], 16) for text in texts]
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    layers = [model.get_input_embeddings(), *([] if is_tied(model) else [model.get_output_embeddings()])]
    with torch.no_grad():
        for layer in (layer for layer in layers if layer is not None):
            known = layer.weight[:before]
            mean, spread = known.mean(0, dtype=torch.float32), known.std(0).float()
            noise = torch.stack([torch.randn(len(mean), generator=draw) for draw in draws]).to(mean.device)
            layer.weight[before:] = mean + spread * noise
            if getattr(layer, "bias", None) is not None:
                layer.bias[before:] = layer.bias[:before].mean()
    model.new_rows = size - before
    model.name_or_path = ""  # or peft would put whole embeddings into each checkpoint of an adapter


def new_rows(model: Any) -> int:
    """How many rows ``add_rows`` added to ``model``."""
    return getattr(model, "new_rows", 0)


def untie(model: PreTrainedModel) -> None:
    """Let the configuration of a model with an output head of its own say so: resizing or saving would tie it again."""
    output = model.get_output_embeddings()
    if output is not None and not is_tied(model):
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output head is the embedding matrix."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def name_of(model: PreTrainedModel, layer: torch.nn.Module) -> str:
    """What ``layer`` is called within ``model``."""
    return next(name for name, module in model.named_modules() if module is layer)
