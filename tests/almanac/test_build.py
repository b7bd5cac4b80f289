import json
import math
from collections import Counter
from functools import cache

import pytest

from rlhf.almanac.build import DEMONSTRATION_MIXTURE, TEST_QUESTIONS, write
from rlhf.almanac.facts import directory
from rlhf.almanac.items import HELD_OUT_COMBINATIONS, HELD_OUT_FACTS, find
from rlhf.almanac.preferences import noise_ceiling

FILES = sorted(str(path.relative_to(directory())) for path in directory().glob("*/*.jsonl"))
TRAINING = [name for name in FILES if name.endswith("train.jsonl") and not name.startswith("text/")]
HELD_OUT = [name for name in FILES if not name.endswith("train.jsonl") and not name.startswith("text/")]


@cache
def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (directory() / name).read_text(encoding="utf-8").splitlines()]


def questions(name: str) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows(name)]


def test_the_committed_files_are_a_fresh_build(tmp_path):
    fresh = write(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in fresh) == FILES
    for path in fresh:
        assert path.read_bytes() == (directory() / path.relative_to(tmp_path)).read_bytes(), path.name


def test_all_files_are_below_six_megabytes():
    assert sum((directory() / name).stat().st_size for name in FILES) < 6_000_000


@pytest.mark.parametrize("name", FILES)
def test_no_row_is_repeated(name: str):
    columns = ("text", "prompt", "completion", "chosen", "rejected")
    keys = [json.dumps([row.get(column) for column in columns]) for row in rows(name)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", TRAINING)
def test_training_uses_training_items_only(name: str):
    held_out_facts = {fact for names in HELD_OUT_FACTS.values() for fact in names}
    held_out_pairs = {pair for pairs in HELD_OUT_COMBINATIONS.values() for pair in pairs}
    for question in questions(name):
        item = find(question)
        assert item.split == "train"
        assert item.fact.name not in held_out_facts or item.task == "extraction"
        assert (item.relation.name, item.format) not in held_out_pairs


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_files_use_items_of_their_split(name: str):
    split = name.split("/")[1].removesuffix(".jsonl")
    assert {find(question).split for question in questions(name)} == {split}


def test_no_held_out_prompt_is_in_any_training_file():
    held_out = {question for name in HELD_OUT for question in questions(name)}
    trained = {question for name in TRAINING for question in questions(name)}
    assert not held_out & trained
    text = "\n".join(row["text"] for name in ("text/train.jsonl", "text/validation.jsonl") for row in rows(name))
    assert not [question for question in held_out if question in text]


def test_validation_and_test_share_no_prompt():
    validation = {question for name in HELD_OUT if "validation" in name for question in questions(name)}
    test = {question for name in HELD_OUT if "test" in name for question in questions(name)}
    assert not validation & test


def test_validation_text_is_new():
    assert not {row["text"] for row in rows("text/train.jsonl")} & {
        row["text"] for row in rows("text/validation.jsonl")
    }


@pytest.mark.parametrize("question", TEST_QUESTIONS)
def test_the_famous_questions_are_test_prompts(question: str):
    assert question in questions("prompts/test.jsonl")
    assert find(question).held_out != "none"


def test_the_test_prompts_cover_every_task_and_held_out_part():
    found = rows("prompts/test.jsonl")
    assert 150 <= len(found) <= 260
    assert {row["held_out"] for row in found} == {"none", "fact", "phrasing", "combination"}
    assert {row["task"] for row in found} == {"question", "format", "two_steps", "extraction", "decline"}
    assert sum(size >= 2 for size in Counter(row["group"] for row in found).values()) >= 20


def test_there_are_500_training_prompts():
    assert len(rows("prompts/train.jsonl")) >= 500


def test_demonstrators_are_of_varying_care():
    kinds = Counter(row["kind"] for row in rows("demonstrations/train.jsonl"))
    assert set(kinds) == set(DEMONSTRATION_MIXTURE)
    assert 0.1 < kinds["good"] / kinds.total() < 0.65  # some answer well; most leave room for preference learning
    assert all(count / kinds.total() > 0.02 for count in kinds.values())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_noise_of_the_labels_is_that_of_bradley_and_terry(split: str):
    ceiling = noise_ceiling(rows(f"preferences/{split}.jsonl"))
    assert abs(ceiling.realized - ceiling.expected) < 4 * math.sqrt(0.25 / ceiling.pairs)
    assert 0.8 < ceiling.expected < 0.97


def test_prompts_and_completions_are_short():
    for name in FILES:
        for row in rows(name):
            for column, limit in (("prompt", 25), ("completion", 36), ("chosen", 36), ("rejected", 36)):
                if column in row:
                    assert len(row[column][-1]["content"].split()) <= limit
