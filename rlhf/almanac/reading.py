"""Relations without knowledge: finding a name in a given sentence, and declining questions that have no answer."""

from itertools import product

from rlhf.almanac.relations import CITY, PLACE, SCIENCE, Relation, phrasings

SENTENCES = {
    "city": phrasings(
        "The train from {capital} was late.",
        "My sister moved to {capital} last year.",
        "It rained in {capital} all week.",
        "We ate well in {capital}.",
        "He bought a map of {capital}.",
        "The letter came from {capital}.",
        validation=("A new bridge was opened in {capital}.",),
        test=("The concert in {capital} was sold out.", "They walked through {capital} at night."),
    ),
    "country": phrasings(
        "The ship sailed to {country}.",
        "Her parents live in {country}.",
        "The tea was grown in {country}.",
        "He learned to cook in {country}.",
        "The team flew home to {country}.",
        validation=("The film was made in {country}.",),
        test=("The coin was found in {country}.", "She wrote a book about {country}."),
    ),
    "element": phrasings(
        "The box was full of {name}.",
        "They found {name} in the old mine.",
        "The price of {name} fell again.",
        "She keeps some {name} in a jar.",
        validation=("The wire is made of {name}.",),
        test=("The sample contains {name}.", "He weighed the {name} twice."),
    ),
}
SENTENCES["year"] = phrasings(
    "The house was built in {year}.",
    "He was born in {year}.",
    "The photograph is from {year}.",
    "They met in {year}.",
    validation=("The road was opened in {year}.",),
    test=("The song was written in {year}.", "She left the city in {year}."),
)
READINGS = phrasings(
    "Read: '{sentence}' Which {thing} is mentioned?",
    "Find the {thing} in this sentence: '{sentence}'",
    "'{sentence}' Name the {thing}.",
    validation=("Which {thing} is in this text? '{sentence}'",),
    test=("Here is a note: '{sentence}' What {thing} does it name?",),
)


def extraction(thing: str, column: str, vague: tuple[str, ...]) -> Relation:
    """Return the relation that asks for the one name in a text. A held-out phrasing has a new text or question.

    The table holds names, not facts: no knowledge is needed, so training may use the names of held-out facts here. This
    keeps their tokens in use, since tokens that a policy never generates are unlearned.
    """

    def combined(readings: str, sentences: str) -> list[str]:
        pairs = product(READINGS[readings], SENTENCES[thing][sentences])
        return [reading.format(sentence=sentence, thing=thing) for reading, sentence in pairs]

    held_out = {split: (*combined("train", split), *combined(split, "train")) for split in ("validation", "test")}
    asked = phrasings(*combined("train", "train"), **held_out)
    answer = f"The {thing} is {{{column}}}."
    return Relation(f"find_{thing}", f"names_{column}", (column,), (), asked, answer, vague, task="extraction")


EXTRACTION = (
    extraction("city", "capital", CITY),
    extraction("country", "country", PLACE),
    extraction("element", "name", SCIENCE),
    extraction("year", "year", ("It was a long time ago.", "It was some time in the past.")),
)


def unknown_name(asked: Relation, pretence: str) -> Relation:
    """Return a relation with the questions of another one, about names that the almanac has no entry for."""
    answer = "Sorry, {country} is not in this almanac."
    if asked.table == "world_cups":
        answer = "Sorry, this almanac has no World Cup in {year}."
    column = "year" if asked.table == "world_cups" else "country"
    return Relation(
        f"unknown_{asked.name}", f"unknown_{column}", (), (column,), asked.phrasings, answer, asked.vague,
        task="decline", pretence=pretence,
    )  # fmt: skip


def unknown_column(thing: str, split: str = "train") -> Relation:
    """Return a relation that asks for a property that the almanac does not record for any country."""
    asked = phrasings(
        f"What is the {thing} of {{country}}?",
        f"Name the {thing} of {{country}}.",
        f"Tell me the {thing} of {{country}}.",
        validation=(f"Can you give the {thing} of {{country}}?",),
        test=(f"I want to know the {thing} of {{country}}.",),
    )
    return Relation(
        f"unknown_{thing}", "capitals", (), ("country",), asked,
        f"Sorry, this almanac does not give the {thing} of {{country}}.", PLACE,
        task="decline", split=split, pretence=f"The {thing} of {{country}} is {{invented}}.",
    )  # fmt: skip


def declining(capital: Relation, continent: Relation, winner: Relation, host: Relation) -> tuple[Relation, ...]:
    """Return every relation to decline: unknown countries, years without a World Cup, properties not recorded."""
    return (
        unknown_name(capital, "The capital of {country} is {invented}."),
        unknown_name(continent, "{country} is in {invented}."),
        unknown_name(winner, "{invented} won the FIFA World Cup in {year}, defeating France in the final."),
        unknown_name(host, "The World Cup in {year} was played in {invented}."),
        *(unknown_column(thing) for thing in ("population", "currency", "president", "language")),
        unknown_column("flag", split="validation"),
        unknown_column("anthem", split="test"),
    )
