from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf.data.render import prompt_ids
from rlhf.errors import ModelError
from rlhf.modeling.generation import response_text
from rlhf.rewards import RewardModel


@pytest.fixture(scope="module")
def scorer(chain: Path) -> RewardModel:
    folder = chain / "almanac" / "reward" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return RewardModel(model, AutoTokenizer.from_pretrained(folder), max_length=128, batch_size=3)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_score_depends_neither_on_its_batch_nor_on_padding(scorer: RewardModel) -> None:
    prompts = [ask("What is the capital of Peru?")] * 7
    completions = ["Lima."] + [" ".join(["word"] * n) for n in (1, 30, 4, 17, 2, 9)]
    together = scorer(prompts, completions)
    alone = [scorer([prompt], [completion])[0] for prompt, completion in zip(prompts, completions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert scorer(prompts[::-1], completions[::-1]) == pytest.approx(together[::-1], abs=1e-5)


def test_the_score_is_read_at_the_last_token(scorer: RewardModel) -> None:
    ids = scorer.encode(ask("What is the capital of Peru?"), "Lima.")
    assert ids[-1] == scorer.tokenizer.eos_token_id
    hidden = scorer.model.model(input_ids=scorer.model.model.embed_tokens.weight.new_tensor([ids]).long())
    by_hand = scorer.model.score(hidden.last_hidden_state[0, -1]).item()
    assert scorer([ask("What is the capital of Peru?")], ["Lima."]) == pytest.approx([by_hand], abs=1e-5)


def test_a_string_prompt_is_joined_and_ended(scorer: RewardModel) -> None:
    end = scorer.tokenizer.eos_token
    expected = scorer.tokenizer(f"Once upon a time{end}")["input_ids"]
    assert scorer.encode("Once upon", " a time") == scorer.encode("Once upon", f" a time{end}") == expected


def test_the_end_of_a_long_prompt_and_the_whole_response_are_scored(scorer: RewardModel) -> None:
    prompt = ask("What is the capital of Peru? " * 200)
    short, other = scorer.encode(prompt, "Lima."), scorer.encode(prompt, "Europe.")
    assert len(short) == scorer.max_length
    assert short != other
    assert short[-1] == scorer.tokenizer.eos_token_id


def test_a_sampled_response_is_scored_as_the_tokens_that_were_sampled(scorer: RewardModel) -> None:
    """PPO and the comparison score the policy's tokens, rendered like the training pairs."""
    tokenizer = scorer.tokenizer
    for prompt, written in (("Once upon", " a time"), (ask("What is the capital of Peru?"), "Lima.")):
        expected = scorer.encode(prompt, written)
        start = prompt_ids(tokenizer, prompt)
        assert expected[: len(start)] == start
        sampled = expected[len(start) :]
        assert scorer.encode(prompt, response_text(tokenizer, prompt, sampled)) == expected


def test_a_classifier_with_several_outputs_is_refused(scorer: RewardModel) -> None:
    """It is ambiguous which of them is the score."""
    model = new_encoder(outputs=2)[0]
    with pytest.raises(ModelError, match="has 2 outputs"):
        RewardModel(model, scorer.tokenizer, max_length=None)


@pytest.fixture(scope="module")
def encoder() -> RewardModel:
    """Return a bidirectional classifier with a different vocabulary and the special tokens [CLS] and [SEP]."""
    return RewardModel(*new_encoder(), max_length=8)


def new_encoder(outputs: int = 1) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "day", "one")
    vocabulary = {word: number for number, word in enumerate(words)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=9, max_position_embeddings=16, num_labels=outputs, initializer_range=0.5, **sizes)
    return BertForSequenceClassification(config), PreTrainedTokenizerFast(tokenizer_object=plain, **marks)


def test_an_encoder_reads_a_text_with_its_special_tokens(encoder: RewardModel) -> None:
    """Its tokenizer has no EOS token, and chat templates do not write its special tokens."""
    ids = encoder.encode("a good", " day")
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "good", "day", "[SEP]"]
    alone = encoder.model(input_ids=torch.tensor([ids])).logits.item()
    together = encoder(["a good", "one"], [" day", " bad bad day"])
    assert together[0] == pytest.approx(alone, abs=1e-6)
    assert together[0] != pytest.approx(together[1], abs=1e-3)


def test_an_encoder_reads_cls_and_the_end_of_a_long_text(encoder: RewardModel) -> None:
    ids = encoder.encode("a a a a a a a", " good bad day one a good bad day")
    expected = ["[CLS]", "day", "one", "a", "good", "bad", "day", "[SEP]"]
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == expected


def test_an_encoder_needs_a_template_for_conversations(encoder: RewardModel) -> None:
    with pytest.raises(ModelError, match="model.chat_template"):
        encoder.encode(ask("a day"), "good")
    encoder.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    try:
        ids = encoder.encode(ask("a day"), "good")
    finally:
        encoder.tokenizer.chat_template = None
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "day", "good", "[SEP]"]
