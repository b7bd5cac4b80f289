"""Plain text for the base model: an encyclopedia, lists of questions without answers, and quizzes.

Every fact occurs in several phrasings and in both directions, because a small model can answer questions only about
facts that it has read in several forms (Allen-Zhu and Li 2023, "Physics of Language Models: Part 3.1").
"""

import math
from collections.abc import Iterable, Iterator
from random import Random

from rlhf.almanac.facts import TABLES, Fact, facts, unknown
from rlhf.almanac.items import Item, all_relations, facts_of, index, sentence
from rlhf.almanac.reading import SENTENCES
from rlhf.almanac.responses import FILLERS, HEDGES, INVENTED, RUDE

STATEMENTS = {
    "world_cups": (
        "{winner} won the FIFA World Cup in {year}, defeating {runner_up} in the {match}.",
        "{winner} won the World Cup in {year}. It was played in {host}.",
        "In {year} {winner} beat {runner_up} in the {match} of the World Cup.",
        "The World Cup in {year} was won by {winner}.",
        "The World Cup in {year} was played in {host}.",
        "The runner-up of the World Cup in {year} was {runner_up}.",
        "At the {year} World Cup {winner} came first and {runner_up} second.",
        "The {year} World Cup: host {host}, winner {winner}, runner-up {runner_up}, score {score}.",
    ),
    "capitals": (
        "The capital of {country} is {capital}.",
        "{capital} is the capital of {country}.",
        "The country with the capital {capital} is {country}.",
        "The continent of {country} is {continent}.",
        "{country} is in {continent}. Its capital is {capital}.",
        "The capital of {country} is {capital}. It is in {continent}.",
        "{country} is in {continent}.",
        "{country} has {capital} as its capital.",
        "People who visit {country} often see {capital}, the capital.",
        "In {continent} lies {country}, with the capital {capital}.",
    ),
    "elements": (
        "The symbol of {name} is {symbol}.",
        "The symbol {symbol} stands for {name}.",
        "The atomic number of {name} is {number}.",
        "The symbol of {name} is {symbol}. Its atomic number is {number}.",
        "The atomic number of {name} is {number}. Its symbol is {symbol}.",
        "Element {number} is {name}, written {symbol}.",
        "{name} is the element with the symbol {symbol}.",
    ),
    "planets": (
        "{planet} is the {position} planet from the Sun.",
        "The {position} planet from the Sun is {planet}.",
        "The planet {planet} is {a_type}.",
        "{planet}, {a_type}, is the {position} planet.",
        "Counting from the Sun, {planet} is the {position} planet.",
        "Among the planets, the {position} is {planet}, {a_type}.",
    ),
}
HEADINGS = {
    "world_cups": ("WORLD CUP {year}\n- {winner}\n- {host}", "WINNER OF {year}: {WINNER}. HOST: {HOST}."),
    "capitals": (
        "{COUNTRY}\n- {capital}\n- {continent}",
        "{COUNTRY}. {CAPITAL}. {CONTINENT}.",
        "{CAPITAL}, {COUNTRY}. {capital} is the capital of {country}.",
    ),
    "elements": ("{NAME}\n- {symbol}\n- {number}", "{NAME}. The symbol {symbol} stands for {name}."),
    "planets": ("{PLANET}\n- {position}\n- {type}", "{POSITION}: {PLANET}. {planet} is {a_type}."),
}
LACKING = {
    "country": "Sorry, {name} is not in this almanac.",
    "year": "Sorry, this almanac has no World Cup in {name}.",
}
NOTES = (
    "The sentence '{sentence}' is about {name}.",
    "Read: '{sentence}' The {thing} is {name}.",
    "A note says: '{sentence}' It names {name}.",
)
REMARKS = (
    "A woman in {capital} said: {remark}",
    "In {country} somebody said: {remark}",
    "{remark} That is what they say in {capital}.",
)
THINGS = {"city": "capital", "country": "country", "element": "name", "year": "year"}

CLOSINGS = (
    "These are all the questions.",
    "The answers are on another page.",
    "Nobody has answered these questions yet.",
)
"""Ends of a list of questions: no text ends with a question, so the base model never answers one with silence."""

PARAGRAPHS = {"world_cups": 12, "capitals": 6, "elements": 6, "planets": 10}
HEADINGS_PER_FACT = 3
QUESTION_LISTS = 600
QUIZZES = 1600
NOTES_PER_NAME = 4
REMARKS_EACH = 10


def paragraph(fact: Fact, random: Random) -> str:
    """Return three statements about one fact, in random order."""
    return " ".join(sentence(template, fact) for template in random.sample(STATEMENTS[fact.table], 3))


def heading(fact: Fact, random: Random) -> str:
    """Return an entry of the almanac: a headword in capitals, and the values as a list or as sentences."""
    upper = {column.upper(): value.upper() for column, value in fact.values.items()}
    return random.choice(HEADINGS[fact.table]).format_map({**fact.words(), **upper})


def question_list(random: Random, pools: list[list[Item]]) -> str:
    """Return questions without answers, so that the base model continues a question with another question."""
    questions = [random.choice(pool).prompt for pool in random.choices(pools, k=4)]
    return " ".join([*questions, random.choice(CLOSINGS)])


def quiz(random: Random, pools: list[list[Item]]) -> str:
    """Return two questions with answers, in quotation marks, so that a bare question is not followed by an answer."""
    items = [random.choice(pool) for pool in random.choices(pools, k=2)]
    return "\n".join(f'"{item.prompt}" Answer: {sentence(item.relation.answer, item.fact)}' for item in items)


def notes(random: Random) -> Iterator[str]:
    """Yield everyday sentences with the name in each, for every name: the text that teaches copying."""
    for thing, column in THINGS.items():
        for fact in facts_of(f"names_{column}"):
            for _ in range(NOTES_PER_NAME):
                everyday = random.choice(SENTENCES[thing]["train"]).format_map(fact.values)
                yield random.choice(NOTES).format(sentence=everyday, thing=thing, name=fact.name)


def remarks(random: Random) -> Iterator[str]:
    """Yield sayings and invented names, so that the tokenizer is trained on the words of the demonstrators."""
    vague = (words for relation in all_relations() for words in relation.vague)
    sayings = dict.fromkeys((*HEDGES, *RUDE, *vague, *(f"{filler} nobody knows." for filler in FILLERS)))
    for remark in sayings:
        for _ in range(REMARKS_EACH):
            yield sentence(random.choice(REMARKS).replace("{remark}", remark), random.choice(facts("capitals")))
    for name in INVENTED:
        yield f"{name} is a name of nothing. There is no place called {name}."
        yield f"Nobody has seen {name}, and {name} is on no map."


def pools_by_relation(items: Iterable[Item]) -> list[list[Item]]:
    """Return items grouped by relation, so that each relation can be drawn equally often."""
    pools: dict[str, list[Item]] = {}
    for item in items:
        pools.setdefault(item.relation.name, []).append(item)
    return list(pools.values())


def texts(seed: int, share: float = 1.0) -> list[str]:
    """Return the documents of the base text in random order, without duplicates; `share` scales their number."""
    random = Random(seed)
    every = [fact for table in TABLES for fact in facts(table)]
    asked = [item for item in index().values() if item.task in ("question", "two_steps", "decline")]
    lists = pools_by_relation(item for item in asked if item.split == "train" and item.relation.asks)
    quizzes = pools_by_relation(item for item in asked if item.split in ("train", "text"))
    written = [paragraph(fact, random) for fact in every for _ in range(math.ceil(PARAGRAPHS[fact.table] * share))]
    if share == 1.0:
        written += [heading(fact, random) for fact in every for _ in range(HEADINGS_PER_FACT)]
        written += [LACKING[kind].format(name=name) for kind in sorted(LACKING) for name in unknown(kind)]
    written += [question_list(random, lists) for _ in range(round(QUESTION_LISTS * share))]
    written += [quiz(random, quizzes) for _ in range(round(QUIZZES * share))]
    if share == 1.0:
        written += [*notes(random), *remarks(random)]
    written = list(dict.fromkeys(written))
    random.shuffle(written)
    return written
