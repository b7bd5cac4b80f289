import pytest

from rlhf.almanac.items import HELD_OUT_COMBINATIONS, HELD_OUT_FACTS, find, index, where
from rlhf.errors import DataError


def test_a_prompt_with_one_held_out_part_belongs_to_its_split():
    train = {"fact": "train", "phrasing": "train", "combination": "train"}
    assert where("x", {**train, "fact": "test"}) == ("test", "fact")
    assert where("x", {**train, "combination": "validation"}) == ("validation", "combination")


def test_a_prompt_with_two_held_out_parts_is_not_used():
    assert where("x", {"fact": "test", "phrasing": "validation", "combination": "train"}) is None


def test_every_held_out_part_occurs_in_every_split():
    found = {(item.split, item.held_out) for item in index().values()}
    reasons = ("none", "fact", "phrasing", "combination")
    assert found == {
        ("train", "none"), ("text", "fact"),
        *(("validation", reason) for reason in reasons), *(("test", reason) for reason in reasons),
    }  # fmt: skip


def test_training_items_do_not_ask_about_held_out_facts():
    held_out = {name for names in HELD_OUT_FACTS.values() for name in names}
    trained = (item for item in index().values() if item.split == "train" and item.task != "extraction")
    assert not [item.prompt for item in trained if item.fact.name in held_out]


def test_training_items_have_no_held_out_combination():
    held_out = {pair for pairs in HELD_OUT_COMBINATIONS.values() for pair in pairs}
    trained = {(item.relation.name, item.format) for item in index().values() if item.split == "train"}
    assert not held_out & trained


def test_phrasings_of_different_splits_never_coincide():
    for item in index().values():
        for split in ("validation", "test"):
            assert not set(item.relation.phrasings[split]) & set(item.relation.phrasings["train"])


def test_paraphrases_share_a_group():
    groups = {find(prompt).group for prompt in ("What is the capital of Peru?", "Name the capital of Peru.")}
    assert groups == {"capitals:Peru/capital/sentence"}


def test_a_conversation_is_identified_by_its_last_message():
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of Peru?"},
    ]
    assert find(conversation) is find("What is the capital of Peru?")


@pytest.mark.parametrize("prompt", ["What is love?", "", []])
def test_an_unknown_prompt_raises(prompt):
    with pytest.raises(DataError, match="does not know the prompt"):
        find(prompt)
