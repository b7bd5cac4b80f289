"""Questions about the facts of the almanac, their phrasings, and the answers of a careful person.

A phrasing is a template over the columns of a fact. Each relation has phrasings for training and others that only
validation or test uses, so that generalization to a new phrasing can be measured.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Relation:
    """One kind of question about the facts of one table.

    asks: columns asked for, in the order asked. names: columns that a specific answer names as well.
    scope: `row` (the question names its fact), `latest` (the last row is meant), `any` (any row is right).
    split: the split that may use this relation, other than `train` for a held-out combination of steps.
    pretence: a made-up answer to a question that the almanac cannot answer.
    """

    name: str
    table: str
    asks: tuple[str, ...]
    names: tuple[str, ...]
    phrasings: dict[str, tuple[str, ...]] = field(hash=False)
    answer: str
    vague: tuple[str, ...]
    task: str = "question"
    format: str = "sentence"
    scope: str = "row"
    split: str = "train"
    pretence: str = ""

    @property
    def declines(self) -> bool:
        """Whether the almanac has no answer, so that the right response declines."""
        return not self.asks

    @property
    def bare(self) -> str:
        """The template of an answer that has only the values."""
        return " and ".join(f"{{{column}}}" for column in self.asks) + "."


def phrasings(*train: str, validation: tuple[str, ...] = (), test: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Return phrasings by split."""
    return {"train": train, "validation": validation, "test": test}


CITY = ("It is a well known city.", "It is a large city with many people.")
PLACE = ("It is somewhere far away.", "It is one of the countries of the world.")
SCIENCE = ("It is in the table of elements.", "It can be looked up in a table.")
SKY = ("It is somewhere in the sky.", "It goes around the Sun.")
FOOTBALL = ("There have been multiple winners.", "It was a good team.")

CAPITALS = (
    Relation(
        "capital", "capitals", ("capital",), ("country",),
        phrasings(
            "What is the capital of {country}?",
            "Which city is the capital of {country}?",
            "Name the capital of {country}.",
            "Tell me the capital of {country}.",
            "What city is {country}'s capital?",
            "I want to know the capital of {country}.",
            "Can you give the capital of {country}?",
            validation=("Give the capital of {country}.",),
            test=("Please name the capital of {country}.", "What is the capital city of {country}?"),
        ),
        "The capital of {country} is {capital}.", CITY,
    ),
    Relation(
        "country", "capitals", ("country",), ("capital",),
        phrasings(
            "Which country has {capital} as its capital?",
            "{capital} is the capital of which country?",
            "Can you say which country has {capital} as its capital?",
            "Name the country whose capital is {capital}.",
            "What country is {capital} the capital of?",
            validation=("Can you say which country {capital} is the capital of?",),
            test=("I want to know whose capital {capital} is.", "Which country's capital is {capital}?"),
        ),
        "The country with the capital {capital} is {country}.", PLACE,
    ),
    Relation(
        "continent", "capitals", ("continent",), ("country",),
        phrasings(
            "On which continent is {country}?",
            "Which continent is {country} on?",
            "Name the continent of {country}.",
            "Tell me which continent {country} is on.",
            "Please say which continent {country} is on.",
            validation=("Can you give the continent of {country}?",),
            test=("I want to know the continent of {country}.", "What continent does {country} lie on?"),
        ),
        "The continent of {country} is {continent}.", PLACE,
    ),
)  # fmt: skip

ELEMENTS = (
    Relation(
        "symbol", "elements", ("symbol",), ("name",),
        phrasings(
            "What is the symbol of {name}?",
            "Which symbol stands for {name}?",
            "Name the symbol of {name}.",
            "Tell me the chemical symbol of {name}.",
            "I want to know the symbol of {name}.",
            "Please name the symbol of {name}.",
            validation=("Can you give the symbol of {name}?",),
            test=("Give the symbol of {name}.", "What is the chemical symbol of {name}?"),
        ),
        "The symbol of {name} is {symbol}.", SCIENCE,
    ),
    Relation(
        "element", "elements", ("name",), ("symbol",),
        phrasings(
            "Which element has the symbol {symbol}?",
            "What does the symbol {symbol} stand for?",
            "Name the element with the symbol {symbol}.",
            "Tell me which element {symbol} stands for.",
            validation=("Can you name the element {symbol}?",),
            test=("I want to know which element is written {symbol}.", "{symbol} is the symbol of which element?"),
        ),
        "The symbol {symbol} stands for {name}.", SCIENCE,
    ),
    Relation(
        "number", "elements", ("number",), ("name",),
        phrasings(
            "What is the atomic number of {name}?",
            "Which atomic number does {name} have?",
            "Give the atomic number of {name}.",
            "Please give the atomic number of {name}.",
            "Tell me the atomic number of {name}.",
            validation=("Can you give the atomic number of {name}?",),
            test=("I want to know the atomic number of {name}.", "{name} has which atomic number?"),
        ),
        "The atomic number of {name} is {number}.", SCIENCE,
    ),
)  # fmt: skip

PLANETS = (
    Relation(
        "planet", "planets", ("planet",), ("position",),
        phrasings(
            "Which planet is {position} from the Sun?",
            "What is the {position} planet from the Sun?",
            "Name the {position} planet.",
            "Tell me which planet is {position} from the Sun.",
            "I want to know which planet is {position}.",
            validation=("Can you name the {position} planet?",),
            test=("I want to know the {position} planet from the Sun.", "Which is the {position} planet?"),
        ),
        "The {position} planet from the Sun is {planet}.", SKY,
    ),
    Relation(
        "type", "planets", ("type",), ("planet",),
        phrasings(
            "What type of planet is {planet}?",
            "What kind of planet is {planet}?",
            "Name the type of {planet}.",
            "Tell me which type of planet {planet} is.",
            validation=("Can you give the type of {planet}?",),
            test=("I want to know what kind of planet {planet} is.", "Which type of planet is {planet}?"),
        ),
        "The planet {planet} is {a_type}.", SKY,
    ),
)  # fmt: skip

CUP_ANSWER = "{winner} won the FIFA World Cup in {year}, defeating {runner_up} in the {match}."
WORLD_CUPS = (
    Relation(
        "winner", "world_cups", ("winner",), ("year", "runner_up"),
        phrasings(
            "Who won the World Cup in {year}?",
            "Which team won the {year} World Cup?",
            "Name the winner of the World Cup in {year}.",
            "Tell me who won the World Cup in {year}.",
            "Which country won the World Cup in {year}?",
            "I want to know who won the World Cup in {year}.",
            validation=("Can you name the winner of the {year} World Cup?",),
            test=("Please say who won the World Cup in {year}.", "Who was the winner of the {year} World Cup?"),
        ),
        CUP_ANSWER, FOOTBALL,
    ),
    Relation(
        "runner_up", "world_cups", ("runner_up",), ("year",),
        phrasings(
            "Who finished second in the World Cup in {year}?",
            "Which team was second in the {year} World Cup?",
            "Name the runner-up of the World Cup in {year}.",
            "Tell me who was second in the World Cup in {year}.",
            validation=("Can you name the runner-up of the {year} World Cup?",),
            test=("I want to know who was second in {year}.", "Who was the runner-up of the {year} World Cup?"),
        ),
        "The runner-up of the World Cup in {year} was {runner_up}.", ("Many teams have been second.", FOOTBALL[1]),
    ),
    Relation(
        "host", "world_cups", ("host",), ("year",),
        phrasings(
            "Where was the World Cup played in {year}?",
            "Who hosted the World Cup in {year}?",
            "Name the host of the {year} World Cup.",
            "Tell me where the World Cup was played in {year}.",
            "Please name the host of the World Cup in {year}.",
            validation=("Can you name the host of the World Cup in {year}?",),
            test=("I want to know who hosted the World Cup in {year}.", "Where was the {year} World Cup held?"),
        ),
        "The World Cup in {year} was played in {host}.", PLACE,
    ),
    Relation(
        "latest_winner", "world_cups", ("winner",), ("year", "runner_up"),
        phrasings(
            "Who won the most recent World Cup?",
            "Which team won the latest World Cup?",
            "Which country won the last World Cup?",
            "Name the winner of the last World Cup.",
            "Tell me who won the last World Cup.",
            "Tell me which team won the most recent World Cup.",
            "Who are the latest winners of the World Cup?",
            validation=("Who won the last World Cup?",),
            test=("Which team won the most recent World Cup?",),
        ),
        CUP_ANSWER, FOOTBALL, scope="latest",
    ),
    Relation(
        "any_winner", "world_cups", ("winner",), ("year", "runner_up"),
        phrasings(
            "Who has won the World Cup?",
            "Which country won the World Cup?",
            "Name a winner of the World Cup.",
            "Tell me who won the World Cup.",
            "Who won a World Cup?",
            "Which nation has won the World Cup?",
            "Tell me a team that has won the World Cup.",
            "Tell me which country won the World Cup.",
            "Can you say who has won the World Cup?",
            validation=("Name a team that won the World Cup.",),
            test=("Who won the World Cup?", "Which team won the World Cup?", "Who won the FIFA World Cup?"),
        ),
        CUP_ANSWER, FOOTBALL, scope="any",
    ),
)  # fmt: skip
