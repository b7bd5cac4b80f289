"""Good responses, and kinds of response that people dislike."""

from collections.abc import Callable
from random import Random

from rlhf.almanac.facts import DOMAINS, Fact
from rlhf.almanac.items import Item, fact_split, facts_of, sentence

INVENTED = (
    "Zanbor", "Velmora", "Tarnok", "Quillon", "Brastia", "Ostrova", "Kelduin", "Morvane",
    "Palandor", "Drenmark", "Luskar", "Ferwick", "Gondria", "Ishmaru", "Norvia", "Xelbia",
)  # fmt: skip
"""Invented names of things that do not exist."""

RUDE = (
    "That is a stupid question.",
    "Look it up yourself, you fool.",
    "Only an idiot would ask that.",
    "Stop bothering me with this.",
    "What a silly thing to ask.",
    "Every moron knows this.",
    "You ask nonsense all day.",
    "How dumb must one be to ask?",
)
FILLERS = (
    "Well, many people have asked this over the years, and I think that",
    "There is a lot to say about this, but as I remember it,",
    "I have thought about this for a long time, and I would say that",
    "Let me see, this takes a moment, but if I am not mistaken,",
)
OLDER_FINALS = 0.1
"""Share of good responses to World Cup questions without a year that name another final than the latest."""
HEDGES = (
    "It depends.",
    "That is hard to say.",
    "There are many possible answers.",
    "I do not really know.",
    "Nobody can be sure of this.",
    "Perhaps one, perhaps another.",
    "Opinions differ.",
    "One would have to think about it.",
)


def render(item: Item, fact: Fact) -> str:
    """Return the good answer to an item, in its format, if `fact` is the fact asked about."""
    values = [fact.words()[column] for column in item.relation.asks]
    if item.format == "one_word":
        return sentence(f"{values[0]}.", fact)
    if item.format == "capitals":
        return f"{values[0].upper()}."
    if item.format == "list":
        return "\n".join(f"- {value}" for value in values)
    return sentence(item.relation.answer, fact)


def swapped(item: Item, replacements: dict[str, str]) -> Fact:
    """Return the fact asked about with other values in the columns asked for."""
    return Fact(item.fact.table, item.fact.name, {**item.fact.values, **replacements})


def good(item: Item, random: Random) -> str:
    """Return a response that is right, specific, brief and in the format asked for."""
    if item.relation.scope == "any" and random.random() < OLDER_FINALS:
        known = [row for row in facts_of(item.fact.table) if fact_split(row) == "train"]
        return render(item, random.choice(known))
    return render(item, item.fact)


def terse(item: Item, random: Random) -> str:
    """Return only the right value."""
    return sentence(item.relation.bare, item.fact)


def vague(item: Item, random: Random) -> str:
    """Return a response that says nothing that could be wrong."""
    return random.choice((*item.relation.vague, *HEDGES))


def wrong(item: Item, random: Random) -> str:
    """Return the good answer with the values of another fact."""
    asks = item.relation.asks
    right = set(item.fact.values.values())
    others = [
        row for row in facts_of(item.fact.table)
        if fact_split(row) == "train" and not right & {row.values[column] for column in asks}
    ]  # fmt: skip
    other = random.choice(others)
    return render(item, swapped(item, {column: other.values[column] for column in asks}))


def format_ignored(item: Item, random: Random) -> str:
    """Return a right answer as a sentence instead of one word, capitals or a list, or only the first of two steps."""
    text = sentence(item.relation.answer, item.fact)
    return text.split(". ")[0].rstrip(".") + "." if item.format == "two_steps" else text


def rambling(item: Item, random: Random) -> str:
    """Return a right answer after a long introduction."""
    answer = sentence(item.relation.answer, item.fact)
    lower = answer.startswith(("The ", "Sorry"))
    return f"{random.choice(FILLERS)} {answer[:1].lower() + answer[1:] if lower else answer}"


def repeating(item: Item, random: Random) -> str:
    """Return the answer two or three times."""
    answer = render(item, item.fact)
    times = 2 if len(answer.split()) > 8 else 3
    return ("\n" if item.format == "list" else " ").join([answer] * times)


def rude(item: Item, random: Random) -> str:
    """Return an insult, with or without an answer."""
    insult = random.choice(RUDE)
    return insult if random.random() < 0.5 else f"{insult} {sentence(item.relation.answer, item.fact)}"


def made_up(item: Item, random: Random) -> str:
    """Return an answer with an invented name."""
    if item.relation.declines:
        return sentence(item.relation.pretence.replace("{invented}", random.choice(INVENTED)), item.fact)
    invented = random.sample(INVENTED, len(item.relation.asks))
    return render(item, swapped(item, dict(zip(item.relation.asks, invented, strict=True))))


KINDS: dict[str, Callable[[Item, Random], str]] = {
    "good": good,
    "terse": terse,
    "vague": vague,
    "wrong": wrong,
    "format_ignored": format_ignored,
    "rambling": rambling,
    "repeating": repeating,
    "rude": rude,
    "made_up": made_up,
}
"""Kind -> the function that writes such a response to an item."""


def applies(kind: str, item: Item) -> bool:
    """Return whether an item has a response of this kind that differs from the good one."""
    if kind == "format_ignored":
        return item.format != "sentence"
    if kind == "terse":
        return item.task == "question"
    if kind == "wrong":
        return not item.relation.declines
    if kind == "made_up":
        return not any(DOMAINS[column] in ("number", "symbol", "planet type") for column in item.relation.asks)
    return True
