"""Responses as the policy gives them: greedy and sampled, whatever the batch, the padding and the model's defaults."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation import configuration_utils

from rlhf.data.render import prompt_ids
from rlhf.data.templates import chat_template
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.modeling.generation import Response, cut, end_ids, generate, response_text, sample, sample_ids, seeded, stream

PROMPTS = ["red cat", "green", "blue bird dog cat red", "bird dog"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return new_tokenizer(["red green blue cat dog bird"] * 4, 280, chat_template("almanac"))


@pytest.fixture
def model(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def answers(model: Any, tokenizer: Any, prompts: list[Any] = PROMPTS, **options: Any) -> list[Response]:
    plain = {"max_prompt_length": 16, "max_response_length": 8, "temperature": 1.0, "seed": 0, "batch_size": 4}
    return generate(model, tokenizer, prompts, **plain | options)


@torch.no_grad()
def by_hand(model: Any, ids: list[int], end: int, length: int) -> list[int]:
    """Greedy decoding without cache, batch or padding."""
    response: list[int] = []
    while len(response) < length and end not in response:
        response.append(int(model(torch.tensor([ids + response])).logits[0, -1].argmax()))
    return response


def test_greedy_decoding_is_a_loop_of_argmax(model: Any, tokenizer: Any) -> None:
    found = answers(model, tokenizer, temperature=0.0)
    for prompt, response in zip(PROMPTS, found, strict=True):
        assert response.ids == by_hand(model.eval(), prompt_ids(tokenizer, prompt), tokenizer.eos_token_id, 8)
        assert response.text == response_text(tokenizer, prompt, response.ids)


def test_a_blank_before_a_response_belongs_to_a_string_and_not_to_a_conversation(tokenizer: Any) -> None:
    ids = tokenizer(" one two")["input_ids"]
    assert tokenizer.decode(ids) == " one two"
    assert response_text(tokenizer, "zero", ids) == " one two"
    assert response_text(tokenizer, [{"role": "user", "content": "zero"}], ids) == "one two"
    assert response_text(tokenizer, "zero", [*ids, tokenizer.eos_token_id]) == " one two"


def test_the_blank_is_kept_if_the_decoder_drops_one_at_the_beginning() -> None:
    words = {word: place for place, word in enumerate(["?", "▁a", "▁cat", "▁sat", "."])}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")
    ids = [words["▁sat"], words["."]]
    assert tokenizer.decode(ids) == "sat."
    assert response_text(tokenizer, "a cat", ids) == " sat."
    assert response_text(tokenizer, "a cat sat", ids[1:]) == "."


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_greedy_responses_depend_neither_on_the_batch_nor_on_the_order(
    model: Any, tokenizer: Any, batch_size: int
) -> None:
    expected = answers(model, tokenizer, temperature=0.0)
    assert answers(model, tokenizer, temperature=0.0, batch_size=batch_size) == expected
    assert answers(model, tokenizer, PROMPTS[::-1], temperature=0.0, batch_size=batch_size) == expected[::-1]
    assert len({tuple(response.ids) for response in expected}) > 1  # else the order could not be checked


def test_a_response_ends_with_its_first_end_of_sequence(model: Any, tokenizer: Any) -> None:
    [expected] = answers(model, tokenizer, PROMPTS[:1], temperature=0.0)
    third = expected.ids[2]
    assert third not in expected.ids[:2]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, third]
    [found] = answers(model, tokenizer, PROMPTS[:1], temperature=0.0)
    assert found.ids == expected.ids[:3]
    assert found.ended
    assert not expected.ended
    assert len(expected.ids) == 8


def test_cut_keeps_the_end() -> None:
    assert cut([5, 1, 0, 0], {1}) == [5, 1]
    assert cut([5, 6], {1}) == [5, 6]
    assert cut([], {1}) == []


def test_the_ends_are_those_of_the_tokenizer_and_of_the_model(model: Any, tokenizer: Any) -> None:
    own = tokenizer.eos_token_id
    for given, expected in ((None, {own}), (7, {own, 7}), ([7, 8], {own, 7, 8})):
        model.generation_config.eos_token_id = given
        assert end_ids(model, tokenizer) == expected


def test_the_seed_alone_decides(model: Any, tokenizer: Any) -> None:
    first = answers(model, tokenizer, seed=3)
    torch.rand(5)
    assert answers(model, tokenizer, seed=3) == first
    assert answers(model, tokenizer, seed=4) != first


def test_a_stream_is_the_response_in_pieces_of_whole_characters(model: Any, tokenizer: Any) -> None:
    plain = {"max_prompt_length": 16, "max_response_length": 40, "temperature": 1.0, "seed": 5}
    [expected] = generate(model, tokenizer, PROMPTS[:1], batch_size=1, **plain)
    assert "\N{REPLACEMENT CHARACTER}" in expected.text  # bytes that are not a character, some of them followed by one
    pieces: list[str] = []
    assert stream(model, tokenizer, PROMPTS[0], pieces.append, **plain) == expected
    assert "".join(pieces) == expected.text
    assert len(pieces) > 3
    assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces[:-1])


def test_random_numbers_of_the_caller_are_unchanged(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    answers(model, tokenizer)
    with seeded(5):
        torch.rand(9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_also_after_an_error(
    model: Any, tokenizer: Any, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.train(training)
    answers(model, tokenizer)
    assert model.training is training
    monkeypatch.setattr(model, "forward", lambda cache, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answers(model, tokenizer)
    assert model.training is training


def opinionated(model: Any) -> Any:
    """A model whose own generation config would change every response."""
    own = model.generation_config
    own.do_sample, own.top_k, own.top_p, own.temperature = True, 2, 0.3, 0.2
    own.repetition_penalty, own.no_repeat_ngram_size, own.min_new_tokens = 5.0, 1, 7
    own.suppress_tokens = list(range(0, 280, 2))
    return model


def adapted(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.mark.parametrize("wrap", [lambda model: model, adapted], ids=["plain", "adapted"])
def test_the_models_own_generation_config_has_no_say(model: Any, tokenizer: Any, wrap: Any) -> None:
    sampled, greedy = answers(model, tokenizer), answers(model, tokenizer, temperature=0.0)
    model = wrap(opinionated(model))
    before = model.generation_config.to_dict()
    assert answers(model, tokenizer) == sampled
    assert answers(model, tokenizer, temperature=0.0) == greedy
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_from_the_softmax_of_divided_logits(model: Any, tokenizer: Any, temperature: float) -> None:
    """Chi-square over the tokens expected at least five times, the others together.

    With k cells its mean is k - 1 and its standard deviation √(2(k - 1)); five of these is far less than one chance
    in ten thousand, and the seed is fixed. A top-k of 50 or a temperature that is ignored is off by hundreds.
    """
    ids = prompt_ids(tokenizer, PROMPTS[0])
    draws = 4000
    with seeded(0):
        rows = sample_ids(opinionated(model.eval()), [ids] * draws, {1}, 0, 1, temperature)
    counts = torch.bincount(torch.tensor(rows)[:, 0], minlength=len(tokenizer)).double()
    with torch.no_grad():
        expected = draws * torch.softmax(model(torch.tensor([ids])).logits[0, -1].double() / temperature, -1)
    often = expected >= 5
    cells = torch.cat([expected[often], expected[~often].sum()[None]])
    found = torch.cat([counts[often], counts[~often].sum()[None]])
    chi_square = ((found - cells) ** 2 / cells).sum().item()
    freedom = len(cells) - 1
    assert freedom > 20
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_transformers_has_nothing_to_warn_about(
    model: Any, tokenizer: Any, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(configuration_utils.logger, "warning_once", said.append)
    monkeypatch.setattr("transformers.generation.utils.logger.warning_once", said.append)
    monkeypatch.setattr("transformers.generation.utils.logger.warning", said.append)
    answers(opinionated(model), tokenizer, temperature=temperature)
    assert said == []


def test_a_conversation_is_rendered_by_the_chat_template(model: Any, tokenizer: Any) -> None:
    conversation = [{"role": "user", "content": "red cat"}]
    [response] = answers(model, tokenizer, [conversation], temperature=0.0)
    assert response.ids == by_hand(model.eval(), prompt_ids(tokenizer, conversation), tokenizer.eos_token_id, 8)


def test_the_end_of_a_long_prompt_is_kept(model: Any, tokenizer: Any) -> None:
    long = "red green blue cat dog bird red green"
    [response] = answers(model, tokenizer, [long], max_prompt_length=3, temperature=0.0)
    assert response.ids == by_hand(model.eval(), prompt_ids(tokenizer, long)[-3:], tokenizer.eos_token_id, 8)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_sampled_token_comes_with_its_logprob(model: Any, tokenizer: Any, temperature: float) -> None:
    """A second implementation: no batch, no cache."""
    rows = [prompt_ids(tokenizer, prompt) for prompt in ("red cat", "green", "blue bird dog")]
    with seeded(0):
        found = sample(model.eval(), rows, {tokenizer.eos_token_id}, tokenizer.pad_token_id, 7, temperature)
    assert max(len(response.ids) for response in found) > 4
    for row, (ids, logprobs, _) in zip(rows, found, strict=True):
        assert len(ids) == len(logprobs)
        for t, token in enumerate(ids):
            logits = model(torch.tensor([[*row, *ids[:t]]])).logits[0, -1] / temperature
            assert logprobs[t] == pytest.approx(torch.log_softmax(logits, -1)[token].item(), abs=1e-5)


def test_prompts_that_are_cut_are_counted(model: Any, tokenizer: Any, capsys: pytest.CaptureFixture) -> None:
    answers(model, tokenizer, max_prompt_length=3)
    assert "prompts are longer than 3 tokens, cut at their beginning" in capsys.readouterr().out
    answers(model, tokenizer, max_prompt_length=None)
    assert "longer" not in capsys.readouterr().out


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_processes_that_share_the_batches_sample_what_one_samples(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    given = {"max_prompt_length": None, "max_response_length": 5, "temperature": temperature, "seed": 0}

    def sampled(**more: Any) -> list[Response]:
        return generate(model, tokenizer, [*PROMPTS, *PROMPTS[:3]], batch_size=2, **given, **more)

    whole = dict(enumerate(sampled()))
    parts: list[dict[int, Response]] = []
    monkeypatch.setattr("rlhf.hardware.ranks.size", lambda: 2)
    monkeypatch.setattr("rlhf.hardware.ranks.gathered", lambda own: parts.append(own) or [whole])
    for rank in range(2):
        monkeypatch.setattr("rlhf.hardware.ranks.rank", lambda rank=rank: rank)
        assert sampled(shared=True) == list(whole.values())
    assert [len(part) for part in parts] == [4, 3]
    assert parts[0] | parts[1] == whole
