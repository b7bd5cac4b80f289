"""A new model: a tokenizer trained on the given text, and random weights."""

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
    """Train a byte-level BPE on ``texts``, with different tokens for padding and end of sequence.

    With ``pad == eos`` a mask made from the padding token hides every end of sequence, and the model does not learn
    to stop. A space is put before each segment, so that a word has the same token in every position.

    Raises:
        ConfigError: the vocabulary is too small for all bytes.
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
    """Return a Llama with random weights, drawn from torch's global generator.

    Raises:
        ConfigError: ``architecture`` has a name that LlamaConfig does not know, or a value that transformers rejects.
    """
    known = LlamaConfig().to_dict()
    given = {key: value for key, value in architecture.items() if key != "vocabulary"}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"model.architecture.{key} is not an argument of LlamaConfig: remove it or correct its name"
            )
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
    """Check the numbers of heads, which LlamaConfig does not; the first forward pass would fail."""
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if shared is not None and heads % shared:
        raise ConfigError(
            f"model.architecture.num_attention_heads={heads} is not divisible by "
            f"model.architecture.num_key_value_heads={shared}: set the same number, or a divisor"
        )
