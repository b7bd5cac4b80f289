from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.evaluation.reward_card.baselines import Tfidf, log_probabilities, longer
from rlhf.evaluation.reward_card.pairs import Side


def sides(chosen: list[str], rejected: list[str]) -> tuple[Side, Side]:
    return Side(["q"] * len(chosen), chosen), Side(["q"] * len(rejected), rejected)


def test_the_longer_response() -> None:
    assert longer(*sides(["aaa", "a", "b"], ["a", "aa", "c"])).tolist() == [2, -1, 0]


def test_words_that_mark_the_chosen_response_are_found() -> None:
    names = [f"n{i}" for i in range(30)]
    train = sides([f"{name} is good" for name in names], [f"{name} is evil" for name in names])
    rule = Tfidf(train, train)
    unseen = sides(["so good", "very evil", "same"], ["so evil", "very good", "same"])
    first, second, third = rule(*unseen)
    assert first > 0 > second
    assert third == 0


def test_exchanging_the_sides_negates_the_difference() -> None:
    train = sides(["one two three", "yes", "b"], ["one", "no thanks", "a a a"])
    rule = Tfidf(train, train)
    chosen, rejected = sides(["yes one", "two"], ["no", "a thanks"])
    assert rule(chosen, rejected) == pytest.approx(-rule(rejected, chosen))


def test_responses_may_be_empty() -> None:
    train = sides(["", " "], [" ", ""])
    assert Tfidf(train, train)(*sides(["", "x"], ["", ""])).shape == (2,)


@pytest.mark.parametrize("prompt", ["Once upon", [{"role": "user", "content": "What is the capital of Peru?"}]])
def test_log_probabilities_row_by_row(chain: Path, prompt: str | list) -> None:
    """A second computation, token by token and without padding."""
    folder = chain / "almanac" / "sft" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [" Lima.", " It is the third planet from the Sun, as far as anybody knows.", " No"]
    found = log_probabilities(model, tokenizer, Side([prompt] * 3, texts), None, batch_size=2)
    for i, text in enumerate(texts):
        if isinstance(prompt, str):
            before, whole = prompt, prompt + text + tokenizer.eos_token
        else:
            before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": text}], tokenize=False)
        ids, start = tokenizer(whole)["input_ids"], len(tokenizer(before)["input_ids"])
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        by_hand = [logp[t - 1, ids[t]].item() for t in range(start, len(ids))]
        assert found.total[i] == pytest.approx(np.sum(by_hand), rel=1e-4)
        assert found.per_token[i] == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_the_end_of_a_long_response_counts(chain: Path) -> None:
    folder = chain / "almanac" / "sft" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = " It is the third planet from the Sun."
    whole = log_probabilities(model, tokenizer, Side(["Once"], [text]), None, 2)
    cut = log_probabilities(model, tokenizer, Side(["Once"], [text]), 4, 2)
    assert 0 > cut.total[0] > whole.total[0]
