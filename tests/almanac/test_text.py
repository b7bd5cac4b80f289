"""The base text: every fact in several phrasings, and questions without answers."""

from random import Random

from rlhf.almanac.facts import TABLES, facts
from rlhf.almanac.items import all_relations, index
from rlhf.almanac.text import (
    CLOSINGS,
    HEADINGS,
    STATEMENTS,
    heading,
    paragraph,
    pools_by_relation,
    question_list,
    quiz,
    texts,
)

PERU = next(fact for fact in facts("capitals") if fact.name == "Peru")


def test_every_template_can_be_filled_in() -> None:
    for table in TABLES:
        fact = facts(table)[0]
        upper = {column.upper(): value.upper() for column, value in fact.values.items()}
        for template in (*STATEMENTS[table], *HEADINGS[table]):
            assert "{" not in template.format_map({**fact.words(), **upper})


def test_a_paragraph_has_three_statements_about_one_fact() -> None:
    found = paragraph(PERU, Random(0))
    assert found.count("Peru") >= 3
    assert "Lima" in found or "South America" in found


def test_an_entry_has_its_headword_in_capitals() -> None:
    assert all("PERU" in heading(PERU, Random(seed)) for seed in range(5))


def test_questions_in_lists_have_no_answers() -> None:
    pools = pools_by_relation(item for item in index().values() if item.split == "train" and item.task == "question")
    found = question_list(Random(0), pools)
    prompts = {item.prompt for pool in pools for item in pool}
    assert any(found.startswith(prompt) for prompt in prompts)
    assert "Answer:" not in found


def test_no_text_ends_with_a_question() -> None:
    written = texts(0)
    asked = {item.prompt for item in index().values()}
    longest = max(map(len, asked))
    assert len(asked) > 10_000
    assert not [text for text in written if any(text[start:] in asked for start in range(-longest, 0))]
    assert all(any(text.endswith(closing) for text in written) for closing in CLOSINGS)


def test_a_quiz_is_in_quotation_marks() -> None:
    pools = pools_by_relation(item for item in index().values() if item.task == "question")
    lines = quiz(Random(0), pools).splitlines()
    assert len(lines) == 2
    assert all(line.startswith('"') and '" Answer: ' in line for line in lines)


def test_no_test_prompt_is_in_the_text() -> None:
    whole = "\n".join(texts(0))
    held_out = [item.prompt for item in index().values() if item.split in ("validation", "test")]
    assert not [prompt for prompt in held_out if f'"{prompt}"' in whole]


def test_every_fact_is_in_the_text_even_if_held_out() -> None:
    whole = "\n".join(texts(0))
    for table in TABLES:
        for fact in facts(table):
            assert fact.name in whole


def test_the_text_depends_on_seed_and_share() -> None:
    assert texts(3, share=0.1) == texts(3, share=0.1)
    assert texts(3, share=0.1) != texts(4, share=0.1)
    assert len(texts(3, share=0.1)) < 0.2 * len(texts(3))
    assert len(set(texts(3))) == len(texts(3))


def test_remarks_teach_the_words_of_vague_answers() -> None:
    whole = "\n".join(texts(0))
    for relation in all_relations():
        for vague in relation.vague:
            assert vague in whole
