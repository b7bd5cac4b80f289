"""A model from nothing: a tokenizer trained on the text at hand, and random weights."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.config.library_errors import blame
from rlhf.config.rules import require
from rlhf.errors import ConfigError

PAD, END = "<|pad|>", "<|end|>"
SPECIAL_TOKENS = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
SMALLEST = 256 + len(SPECIAL_TOKENS)  # a token for each byte
OF_THE_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def new_tokenizer(texts: Iterable[str], vocabulary: int, chat_template: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts``, where padding and the end of a text are different tokens.

    With ``pad == eos`` a mask made from the padding token hides every end of sequence, and a model that is never
    shown one never learns to stop. A word has one token wherever it stands: a space is put before each segment.

    Raises:
        ConfigError: a vocabulary of this size does not hold every byte.
    """
    require(vocabulary >= SMALLEST, "model.architecture.vocabulary", vocabulary, f"be at least {SMALLEST} tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=list(SPECIAL_TOKENS[2:]),
        padding_side="right",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def new_policy(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights, drawn from torch's global generator.

    Raises:
        ConfigError: ``architecture`` holds a name that LlamaConfig does not know, or values that it or a model refuses.
    """
    known = LlamaConfig().to_dict()
    given = {key: value for key, value in architecture.items() if key != "vocabulary"}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"model.architecture.{key} is no argument of LlamaConfig: remove it or correct its name")
        if key in OF_THE_TOKENIZER:
            raise ConfigError(f"model.architecture.{key} is the tokenizer's: set model.architecture.vocabulary instead")
        size = type(known[key]) is int and type(value) is int
        require(not size or value > 0, f"model.architecture.{key}", value, "be positive")
    with blame("model.architecture"):
        config = LlamaConfig(
            **given,
            vocab_size=len(tokenizer),
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        _check_heads(config)
        return LlamaForCausalLM(config)


def _check_heads(config: LlamaConfig) -> None:
    """LlamaConfig does not; the first forward pass would fail."""
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if heads % shared:
        raise ConfigError(
            f"model.architecture.num_attention_heads={heads} is not divisible by "
            f"model.architecture.num_key_value_heads={shared}: give as many, or a divisor"
        )
