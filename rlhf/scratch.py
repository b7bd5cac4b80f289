"""A model from nothing: a tokenizer trained on the text at hand, and random weights."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.errors import ConfigError

PAD, END = "<|pad|>", "<|end|>"
SPECIAL_TOKENS = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")


def new_tokenizer(texts: Iterable[str], vocabulary: int, chat_template: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts``, where padding and the end of a text are different tokens.

    With ``pad == eos`` a mask made from the padding token hides every end of sequence, and a model that is never
    shown one never learns to stop. A word has one token wherever it stands: a space is put before each segment.
    """
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
        ConfigError: ``architecture`` holds a name that LlamaConfig does not know.
    """
    known = LlamaConfig().to_dict()
    unknown = [key for key in architecture if key not in known and key != "vocabulary"]
    if unknown:
        raise ConfigError(
            f"model.architecture.{unknown[0]} is no argument of LlamaConfig: remove it or correct its name"
        )
    config = LlamaConfig(
        **{key: value for key, value in architecture.items() if key != "vocabulary"},
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
