"""Responses, divergences and likelihoods, compared with enumeration and with loops without batches."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.config import CompareStage
from rlhf.data.render import prompt_ids
from rlhf.data.templates import chat_template
from rlhf.evaluation.responses.answers import Candidate, TextNLL, answer, by_prompt, divergences, text_nll
from rlhf.modeling.forward import sequence_logprobs
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.modeling.generation import generate
from tests.conftest import composed

PROMPTS = [[{"role": "user", "content": text}] for text in ("red cat", "green", "blue bird dog cat red")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return new_tokenizer(["red green blue cat dog bird"] * 4, 270, chat_template("almanac"))


def new_candidate(tokenizer: Any, seed: int = 0, name: str = "ours", plain: bool = False) -> Candidate:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), **shape, **special, initializer_range=0.3)
    return Candidate(name, LlamaForCausalLM(config).eval(), tokenizer, plain)


def stage(*overrides: str) -> CompareStage:
    small = ("prompts=3", "samples=2", "batch_size=4", "max_prompt_length=32", "max_response_length=5")
    return composed("stage=compare", *(f"stage.{item}" for item in (*small, *overrides))).stage


def test_samples_are_grouped_by_prompt(tokenizer: Any) -> None:
    found = answer(new_candidate(tokenizer), PROMPTS, stage(), seed=0, reference=None)
    for values in (found.texts, found.lengths, found.ended):
        assert [len(group) for group in values] == [2, 2, 2]
    assert all(1 <= length <= 5 for group in found.lengths for length in group)
    assert len(found.greedy) == 1
    assert found.kl is None
    assert by_prompt([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]


def test_a_model_that_always_ends_and_one_that_never_does(tokenizer: Any) -> None:
    for bias, ended, length in ((1e4, True, 1), (-1e4, False, 5)):
        one = new_candidate(tokenizer)
        head = torch.nn.Linear(16, len(tokenizer))
        with torch.no_grad():
            head.bias.zero_()[tokenizer.eos_token_id] = bias
        one.model.lm_head = head
        found = answer(one, PROMPTS, stage(), seed=0, reference=None)
        assert found.ended == [[ended] * 2] * 3
        assert found.lengths == [[length] * 2] * 3


def test_the_seed_and_the_name_decide_the_samples(tokenizer: Any) -> None:
    """Samples of two columns with the same weights are independent."""

    def texts(seed: int, name: str) -> list[list[str]]:
        return answer(new_candidate(tokenizer, name=name), PROMPTS, stage(), seed, None).texts

    assert texts(0, "a") == texts(0, "a")
    assert texts(0, "a") != texts(1, "a")
    assert texts(0, "a") != texts(0, "b")


def test_a_plain_model_is_prompted_without_a_chat_template(tokenizer: Any) -> None:
    plain, chat = new_candidate(tokenizer, plain=True), new_candidate(tokenizer)
    assert plain.prompt(PROMPTS[0]) == "red cat"
    assert chat.prompt(PROMPTS[0]) == PROMPTS[0]
    asked = stage("questions=[red cat]")
    greedy = [answer(one, PROMPTS, asked, 0, None).greedy for one in (plain, chat)]
    options = {"max_prompt_length": 32, "max_response_length": 5, "temperature": 0.0, "seed": 0, "batch_size": 1}
    assert greedy == [
        [response.text for response in generate(plain.model, tokenizer, prompts, **options)]
        for prompts in (["red cat"], PROMPTS[:1])
    ]
    assert greedy[0] != greedy[1]


def test_a_model_does_not_diverge_from_itself(tokenizer: Any) -> None:
    one = new_candidate(tokenizer)
    found = answer(one, PROMPTS, stage(), 0, one.model)
    assert found.kl == [[0.0, 0.0]] * 3


@torch.no_grad()
def exact_kl(policy: Any, reference: Any, prompt: list[int], temperature: float, end: int) -> float:
    """Return the KL of responses of at most two tokens, by the chain rule over all first tokens."""

    def logprobs(model: Any, rows: list[list[int]]) -> torch.Tensor:
        return torch.log_softmax(model(torch.tensor(rows)).logits[:, -1].double() / temperature, -1)

    def per_row(rows: list[list[int]]) -> torch.Tensor:
        ours, theirs = logprobs(policy, rows), logprobs(reference, rows)
        return (ours.exp() * (ours - theirs)).sum(-1)

    first = logprobs(policy, [prompt])[0].exp()
    continued = [token for token in range(len(first)) if token != end]
    second = per_row([[*prompt, token] for token in continued])
    return (per_row([prompt])[0] + (first[continued] * second).sum()).item()


def test_the_divergence_estimates_the_exact_one(tokenizer: Any) -> None:
    """1,000 responses per prompt: the estimate is within 4 standard errors, and the true KL is above 10 of them."""
    ours, theirs = new_candidate(tokenizer, 0), new_candidate(tokenizer, 1)
    settings = stage("samples=1000", "max_response_length=2", "temperature=0.7", "batch_size=512")
    found = answer(ours, PROMPTS, settings, 0, theirs.model).kl
    for prompt, values in zip(PROMPTS, found, strict=True):
        ids = prompt_ids(tokenizer, prompt)
        exact = exact_kl(ours.model, theirs.model, ids, 0.7, tokenizer.eos_token_id)
        drawn = torch.tensor(values, dtype=torch.float64)
        error = (drawn.std() / math.sqrt(len(values))).item()
        assert abs(drawn.mean().item() - exact) < 4 * error
        assert exact > 10 * error


@pytest.mark.parametrize("batch_size", [2, 16])
def test_divergences_do_not_depend_on_the_batch(tokenizer: Any, batch_size: int) -> None:
    ours, theirs = new_candidate(tokenizer, 0), new_candidate(tokenizer, 1)
    options = {"max_prompt_length": 32, "max_response_length": 5, "temperature": 0.7, "seed": 0, "batch_size": 4}
    whole = generate(ours.model, tokenizer, PROMPTS, **options)
    # Different lengths, so that batches have padding.
    responses = [response._replace(ids=response.ids[: 2 * i + 1]) for i, response in enumerate(whole)]
    expected = [divergences(ours, theirs.model, [p], [r], stage())[0] for p, r in zip(PROMPTS, responses, strict=True)]
    found = divergences(ours, theirs.model, PROMPTS, responses, stage(f"batch_size={batch_size}"))
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_divergence_of_equal_responses_is_computed_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = new_candidate(tokenizer, 0), new_candidate(tokenizer, 1)
    options = {"max_prompt_length": 32, "max_response_length": 5, "temperature": 0.7, "seed": 0, "batch_size": 4}
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(2)]
    one, other = generate(ours.model, tokenizer, PROMPTS[:2], **options)
    expected = divergences(ours, theirs.model, prompts[1:3], [one, other], stage())
    seen = []
    whole = sequence_logprobs
    monkeypatch.setattr(
        "rlhf.evaluation.responses.answers.sequence_logprobs",
        lambda model, before, after, temperature: seen.extend(before) or whole(model, before, after, temperature),
    )
    found = divergences(ours, theirs.model, prompts, [one, one, other, other], stage())
    assert found == [expected[0], expected[0], expected[1], expected[1]]
    assert len(seen) == 4


@torch.no_grad()
def test_text_nll_is_a_loop_over_tokens(tokenizer: Any) -> None:
    one = new_candidate(tokenizer)
    texts = ["red cat", "blue", "green dog bird über red red red"]
    expected, tokens = 0.0, 0
    for text in texts:
        ids = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
        for block in range(0, len(ids) - 1, 4):
            for i in range(block + 1, min(block + 5, len(ids))):
                expected -= torch.log_softmax(one.model(torch.tensor([ids[block:i]])).logits[0, -1], -1)[ids[i]].item()
                tokens += 1
    for batch_size in (1, 2, 8):
        each = text_nll(one, texts, block=4, batch_size=batch_size)
        assert each[1].bytes == 4
        assert each[1].nats == pytest.approx(text_nll(one, texts[1:2], block=4, batch_size=1)[0].nats, rel=1e-5)
        found = TextNLL.sum(each)
        assert found.nats == pytest.approx(expected, rel=1e-5)
        assert (found.tokens, found.bytes) == (tokens, 7 + 4 + 32)


def test_the_divergence_is_summed_over_a_response_and_at_the_temperature(tokenizer: Any) -> None:
    ours, theirs = new_candidate(tokenizer, 0), new_candidate(tokenizer, 1)
    options = {"max_prompt_length": 32, "max_response_length": 5, "temperature": 0.7, "seed": 0, "batch_size": 1}
    [response] = generate(ours.model, tokenizer, PROMPTS[:1], **options)
    assert len(response.ids) > 1
    ids = prompt_ids(tokenizer, PROMPTS[0]) + response.ids
    expected = 0.0
    with torch.no_grad():
        for sign, model in ((1, ours.model), (-1, theirs.model)):
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float() / 0.7, -1)
            start = len(ids) - len(response.ids)
            expected += sign * sum(logprobs[i - 1, ids[i]].item() for i in range(start, len(ids)))
    [found] = divergences(ours, theirs.model, PROMPTS[:1], [response], stage("temperature=0.7"))
    assert found == pytest.approx(expected, abs=1e-4)
