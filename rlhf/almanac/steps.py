"""Relations that ask for two values: one after the other, or as a list."""

from rlhf.almanac.relations import CITY, FOOTBALL, SCIENCE, Relation, phrasings

TWO_STEPS = (
    Relation(
        "capital_then_continent", "capitals", ("capital", "continent"), ("country",),
        phrasings(
            "Name the capital of {country}, then say which continent it is on.",
            "First give the capital of {country}, then its continent.",
            "Say what the capital of {country} is, then name the continent.",
            "Tell me the capital of {country}, and also its continent.",
            validation=("Give the capital of {country} and after that the continent.",),
            test=("What is the capital of {country}, and which continent is it on?",),
        ),
        "The capital of {country} is {capital}. It is in {continent}.", CITY, task="two_steps", format="two_steps",
    ),
    Relation(
        "symbol_then_number", "elements", ("symbol", "number"), ("name",),
        phrasings(
            "Name the symbol of {name}, then give its atomic number.",
            "First give the symbol of {name}, then its atomic number.",
            "Tell me the symbol of {name}, and also its atomic number.",
            "Say what the symbol of {name} is, then give the atomic number.",
            validation=("Give the symbol of {name} and after that the atomic number.",),
            test=("What is the symbol of {name}, and what is its atomic number?",),
        ),
        "The symbol of {name} is {symbol}. Its atomic number is {number}.", SCIENCE,
        task="two_steps", format="two_steps",
    ),
    Relation(
        "winner_then_host", "world_cups", ("winner", "host"), ("year",),
        phrasings(
            "Name the winner of the World Cup in {year}, then say where it was played.",
            "First say who won the World Cup in {year}, then who hosted it.",
            "Tell me who won the World Cup in {year}, and also who hosted it.",
            validation=("Say who won in {year} and after that who hosted.",),
            test=("Who won the World Cup in {year}, and where was it played?",),
        ),
        "{winner} won the World Cup in {year}. It was played in {host}.", FOOTBALL,
        task="two_steps", format="two_steps",
    ),
    Relation(
        "number_then_symbol", "elements", ("number", "symbol"), ("name",),
        phrasings("First give the atomic number of {name}, then its symbol."),
        "The atomic number of {name} is {number}. Its symbol is {symbol}.", SCIENCE,
        task="two_steps", format="two_steps", split="test",
    ),
    Relation(
        "continent_then_capital", "capitals", ("continent", "capital"), ("country",),
        phrasings("First give the continent of {country}, then its capital."),
        "The continent of {country} is {continent}. Its capital is {capital}.", CITY,
        task="two_steps", format="two_steps", split="validation",
    ),
)  # fmt: skip

LISTS = (
    Relation(
        "capital_and_continent", "capitals", ("capital", "continent"), (),
        phrasings(
            "As a list, give the capital and the continent of {country}.",
            "List the capital and the continent of {country}.",
            validation=("Make a list: capital and continent of {country}.",),
            test=("Write the capital and the continent of {country} as a list.",),
        ),
        "The capital of {country} is {capital}. It is in {continent}.", CITY, task="format", format="list",
    ),
    Relation(
        "symbol_and_number", "elements", ("symbol", "number"), (),
        phrasings(
            "As a list, give the symbol and the atomic number of {name}.",
            "List the symbol and the atomic number of {name}.",
            validation=("Make a list: symbol and atomic number of {name}.",),
            test=("Write the symbol and the atomic number of {name} as a list.",),
        ),
        "The symbol of {name} is {symbol}. Its atomic number is {number}.", SCIENCE, task="format", format="list",
    ),
    Relation(
        "winner_and_host", "world_cups", ("winner", "host"), (),
        phrasings("List the winner and the host of the World Cup in {year}."),
        "{winner} won the World Cup in {year}. It was played in {host}.", FOOTBALL,
        task="format", format="list", split="test",
    ),
)  # fmt: skip
