"""Every prompt that the almanac can generate, and its split."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from rlhf.almanac import reading, relations, steps
from rlhf.almanac.facts import COLUMNS, TABLES, Fact, facts, unknown
from rlhf.almanac.relations import Relation, phrasings
from rlhf.errors import DataError

HELD_OUT_FACTS = {
    "validation": (
        "1978", "2006",
        "Croatia", "Cuba", "Ghana", "Iceland", "Vietnam",
        "argon", "chlorine", "platinum",
        "Andorra", "Benin", "Oman", "1935", "1951", "1985",
    ),
    "test": (
        "1962", "1998", "2018",
        "Austria", "Canada", "Ecuador", "Egypt", "Jamaica", "Kenya", "Peru", "Poland", "Thailand",
        "calcium", "cobalt", "gold", "neon",
        "Bhutan", "Gabon", "Laos", "1942", "1977", "2011",
    ),
}  # fmt: skip
"""Facts that no demonstration, preference pair or training prompt asks about. The base text contains them."""

INSTRUCTIONS = {
    "one_word": phrasings(
        "{question} Answer in one word.",
        "In one word: {question}",
        "{question} One word only.",
        "{question} Just one word, please.",
        "Reply in a word: {question}",
        validation=("{question} Use a single word.",),
        test=("{question} Reply with just one word.",),
    ),
    "capitals": phrasings(
        "{question} Answer in capitals.",
        "In capitals: {question}",
        "{question} Write in capital letters.",
        "{question} Use capitals, please.",
        "Reply in capital letters only: {question}",
        validation=("{question} Reply in capitals.",),
        test=("{question} Use capital letters only.",),
    ),
}
FORMATTED = {
    "one_word": ("capital", "country", "continent", "symbol", "element", "number", "planet", "find_city"),
    "capitals": ("capital", "country", "continent", "element", "planet", "find_city", "find_country"),
}
"""Format -> the relations that it is combined with."""

HELD_OUT_COMBINATIONS = {
    "validation": (("continent", "capitals"), ("symbol", "one_word")),
    "test": (("country", "capitals"), ("number", "one_word"), ("planet", "capitals"), ("find_country", "capitals")),
}
RESERVED = {"validation": 3, "test": 9}
"""Percentage of the other prompts that no training set uses: only the combination of their parts is new."""

TEXT_PHRASINGS = 2
"""Number of training phrasings, the last ones, with which the quizzes of the base text ask about held-out facts."""

PHRASINGS_WITH_FORMAT = 3
"""Number of phrasings of a question that are combined with each instruction about the format."""


@dataclass(frozen=True)
class Item:
    """One prompt, its question and its split.

    split: `train`, `validation`, `test`, or `text` (used only in the quizzes of the base text).
    held_out: `none`, or the one part of it that training never shows: `fact`, `phrasing` or `combination`.
    """

    prompt: str
    relation: Relation
    fact: Fact
    format: str
    split: str
    held_out: str

    @property
    def task(self) -> str:
        """The task of the relation; `format` for a question with an instruction about the format."""
        return "format" if self.format in INSTRUCTIONS and self.relation.task == "question" else self.relation.task

    @property
    def group(self) -> str:
        """The key that paraphrases share: the same question about the same fact in the same format."""
        return f"{self.fact_id}/{self.relation.name}/{self.format}"

    @property
    def fact_id(self) -> str:
        """The id of the fact; `<table>:any` if any row of the table is right."""
        return f"{self.fact.table}:any" if self.relation.scope == "any" else self.fact.id


@cache
def all_relations() -> tuple[Relation, ...]:
    """Return every relation of the almanac."""
    knowledge = (*relations.CAPITALS, *relations.ELEMENTS, *relations.PLANETS, *relations.WORLD_CUPS)
    known = {relation.name: relation for relation in knowledge}
    declining = reading.declining(known["capital"], known["continent"], known["winner"], known["host"])
    return (*knowledge, *steps.TWO_STEPS, *steps.LISTS, *reading.EXTRACTION, *declining)


@cache
def facts_of(table: str) -> tuple[Fact, ...]:
    """Return the facts of a table, or names in place of facts: for extraction (`names_`) or declining (`unknown_`)."""
    kind, _, column = table.partition("_")
    if kind == "unknown":
        return tuple(Fact(table, name, {column: name}) for name in unknown(column))
    if kind == "names":
        source = next(source for source in TABLES if column in COLUMNS[source])
        known = [fact.values[column] for fact in facts(source)]
        return tuple(Fact(table, name, {column: name}) for name in (*known, *unknown(column)))
    return facts(table)


def fact_split(fact: Fact) -> str:
    """Return the split that may ask about a fact. Names for extraction are not facts and are never held out."""
    if fact.table.startswith("names_"):
        return "train"
    return next((split for split, held_out in HELD_OUT_FACTS.items() if fact.name in held_out), "train")


def sentence(template: str, fact: Fact) -> str:
    """Return a template filled in with a fact, with its first letter in upper case."""
    text = template.format_map(fact.words())
    return text[:1].upper() + text[1:]


def where(prompt: str, splits: dict[str, str]) -> tuple[str, str] | None:
    """Return (split, held_out) of a prompt by the splits of its parts; None if two parts are held out."""
    held_out = {reason: split for reason, split in splits.items() if split != "train"}
    if len(held_out) > 1:
        return None
    if held_out:
        reason, split = next(iter(held_out.items()))
        return split, reason
    percentage = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % 100
    if percentage < RESERVED["test"]:
        return "test", "none"
    return ("validation" if percentage < RESERVED["test"] + RESERVED["validation"] else "train"), "none"


def asked_of(relation: Relation) -> tuple[Fact, ...]:
    """Return the facts that a relation asks about: the latest one if its questions name no row."""
    rows = facts_of(relation.table)
    if relation.scope != "row":
        return rows[-1:]
    return tuple(row for row in rows if row.values.get("decided_in") != "final group" or relation.name != "runner_up")


def plain(relation: Relation) -> Iterator[Item]:
    """Yield the items of a relation without an instruction about the format."""
    for_text = relation.phrasings["train"][-TEXT_PHRASINGS:] if relation.task in ("question", "decline") else ()
    for fact in asked_of(relation):
        for phrasing_split, templates in relation.phrasings.items():
            for template in templates:
                prompt = sentence(template, fact)
                splits = {"fact": fact_split(fact), "phrasing": phrasing_split, "combination": relation.split}
                if found := where(prompt, splits):
                    split, held_out = found
                    if held_out == "fact" and template in for_text:
                        split = "text"
                    yield Item(prompt, relation, fact, relation.format, split, held_out)


def formatted(relation: Relation, style: str) -> Iterator[Item]:
    """Yield the items of a relation with an instruction about the format."""
    combination = next((s for s, pairs in HELD_OUT_COMBINATIONS.items() if (relation.name, style) in pairs), "train")
    for fact in asked_of(relation):
        if style == "one_word" and any(" " in fact.values[column] for column in relation.asks):
            continue
        for template in relation.phrasings["train"][:PHRASINGS_WITH_FORMAT]:
            question = sentence(template, fact)
            for phrasing_split, instructions in INSTRUCTIONS[style].items():
                for instruction in instructions:
                    prompt = instruction.format(question=question)
                    splits = {"fact": fact_split(fact), "phrasing": phrasing_split, "combination": combination}
                    if found := where(prompt, splits):
                        yield Item(prompt, relation, fact, style, *found)


@cache
def index() -> dict[str, Item]:
    """Return every item that the almanac can generate, by its prompt."""
    items: dict[str, Item] = {}
    for relation in all_relations():
        for item in plain(relation):
            items[item.prompt] = item
    for style, combined in FORMATTED.items():
        for relation in all_relations():
            if relation.name in combined:
                for item in formatted(relation, style):
                    items[item.prompt] = item
    return items


def find(prompt: str | list[dict[str, str]]) -> Item:
    """Return the item of a prompt; the last message of a conversation identifies it.

    Raises:
        DataError: the almanac cannot have generated the prompt.
    """
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
    try:
        return index()[text.strip()]
    except KeyError:
        raise DataError(
            f"the gold reward does not know the prompt {text[:80]!r}: use the prompts of preference_data/almanac"
        ) from None
