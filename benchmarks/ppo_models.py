"""Weights, tokenizer and prompts of benchmarks.ppo and benchmarks.rollout; every side makes the same from a spec.

Imports only torch and transformers, because a peer's environment has no rlhf. With random weights, words are ids (w12
is 12), so that a text has the tokens that it was decoded from, and EOS has a nearly constant logit: the lengths of
responses are geometric, bounded by ``spec["length"]``, on every side.
"""

import os
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

PAD, EOS = 0, 1
STORY = """Once upon a time there was a little girl called Lily who lived near the forest with her mother and a small
dog that liked to play in the garden every day until one morning something strange"""
SHAPES = {
    "256x4": {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 4},
    "tiny": {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2},
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "1B": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
}  # fmt: skip


def folder() -> Path:
    """Return the folder of stories15M."""
    return Path(os.environ.get("RLHF_TEST_MODELS", "nowhere"), "stories15M")


def config(spec: dict[str, Any], **more: Any) -> LlamaConfig:
    special = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    return LlamaConfig(**SHAPES[spec["shape"]], **special, max_position_embeddings=2048, **more)


def policy(spec: dict[str, Any]) -> Any:
    """Return the policy, with the same weights at every call; the reference is a second call."""
    if spec["shape"] == "stories15M":
        found = AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32)
        found.config.pad_token_id = PAD  # the unknown token; the model has no padding token
    else:
        torch.manual_seed(0)
        with torch.device(spec.get("device", "cpu")):
            found = LlamaForCausalLM(config(spec, attn_implementation=spec.get("attention", "sdpa")))
        ending(found, spec)
    found.generation_config.eos_token_id = found.config.eos_token_id
    return found


def ending(model: Any, spec: dict[str, Any]) -> None:
    """Give EOS a probability of about 1 / ``spec["mean_length"]`` at every step.

    The embeddings set the first coordinate of every hidden state to a large value, so that after the last norm it is
    about the square root of the width. The row of the head for EOS reads only this coordinate.
    """
    with torch.no_grad():
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        others = table.shape[0] - 1
        if head is table:  # the first coordinate adds the same to all logits, which cancels
            table[:, 0] = 5.0
            table[EOS, 0] = 5.0
        else:
            table[:, 0] = 5.0
        head[EOS] *= 0
        # The other logits are about equal; after division by the temperature, that of EOS is this much larger.
        logit = spec["temperature"] * torch.log(torch.tensor(others / (spec["mean_length"] - 1)))
        width = table.shape[1] ** 0.5
        head[EOS, 0] = (5.0 if head is table else 0.0) + logit / width


def classifier(spec: dict[str, Any]) -> Any:
    """Return a reward model, or a critic with the same initial weights."""
    torch.manual_seed(1)
    if spec["shape"] == "stories15M":
        found = AutoModelForSequenceClassification.from_pretrained(folder(), num_labels=1, dtype=torch.float32)
        found.config.pad_token_id = PAD
        return found
    with torch.device(spec.get("device", "cpu")):
        return LlamaForSequenceClassification(config(spec, num_labels=1))


def tokenizer(spec: dict[str, Any]) -> Any:
    if spec["shape"] == "stories15M":
        found = AutoTokenizer.from_pretrained(folder())
        found.pad_token = found.unk_token
        return found
    words = {f"w{number}": number for number in range(SHAPES[spec["shape"]]["vocab_size"])}
    words = {{PAD: "<pad>", EOS: "<eos>"}.get(number, word): number for word, number in words.items()}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def prompts(spec: dict[str, Any]) -> list[str]:
    """Return ``spec["rows"]`` prompts; lengths are uniform between the two of ``spec["prompt"]``, in tokens."""
    draw = random.Random(0)
    lengths = [draw.randint(*spec["prompt"]) for _ in range(spec["rows"])]
    if spec["shape"] == "stories15M":
        return [" ".join(draw.choices(STORY.split(), k=length)) for length in lengths]
    vocabulary = SHAPES[spec["shape"]]["vocab_size"]
    return [" ".join(f"w{draw.randrange(2, vocabulary)}" for _ in range(length)) for length in lengths]


def letters(prompts: list[str], completions: list[str]) -> list[float]:
    """Return a reward that costs nothing to compute and differs between responses."""
    return [sum(map(ord, text)) % 97 / 97 for text in completions]
