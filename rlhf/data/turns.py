"""The places of the assistant's turns in the tokens of a conversation, for any chat template.

A conversation is rendered up to each turn of the assistant, once open before it and once closed after it: the turn lies
between. The template does not have to mark it. A template that renders a turn differently when others follow, such as
one that strips earlier thinking, is detected because the texts differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf.data.render import Message, Prompt, encode, shared


class Said(NamedTuple):
    """The assistant's turns in one row.

    ``count``: number of turns that may be learned, which do not have weight 0. ``spans``: token positions (begin, end)
    of each of them, in order; None if the completion is one turn and only that is wanted. ``stable``: every turn is
    rendered as if it were the last. ``last``: the last turn may be learned.
    """

    count: int
    spans: list[tuple[int, int]] | None = None
    stable: bool = True
    last: bool = True


def said_in(
    tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[Prompt], wholes: Sequence[list[int]], every: bool
) -> list[Said]:
    """Return the assistant's turns in each row; ``wholes`` are the ids of prompt and completion together.

    With ``every``, turns in prompts are located, too; otherwise only those in completions of several turns.
    """
    talks: list[list[Message]] = [
        [*prompt, *completion] if isinstance(prompt, list) and isinstance(completion, list) else []
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    places_in = [_places(talk) for talk in talks]
    several = {
        i: places for i, places in enumerate(places_in) if (every and len(places) > 1) or _foreign(completions[i])
    }
    found = [
        Said(sum(learnable(talk[place]) for place in places) if talk else 1, last=not talk or learnable(talk[-1]))
        for talk, places in zip(talks, places_in, strict=True)
    ]
    asked = [(i, place) for i, places in several.items() for place in places if place]
    before = [talks[i][:place] for i, place in asked]
    opened = encode(tokenizer, before)
    closed = encode(tokenizer, before, [[talks[i][place]] for i, place in asked])
    bounds = {key: _bounds(tokenizer, *ids, wholes[key[0]]) for key, *ids in zip(asked, opened, closed, strict=True)}
    for i, places in several.items():
        # A turn of the assistant before any question is not an answer.
        kept = [place for place in places if place and learnable(talks[i][place])]
        spans = [bounds[i, place][0] for place in kept]
        stable = all(bounds[i, place][1] for place in kept if place != places[-1])
        found[i] = Said(len(kept), spans, stable, last=bool(kept) and kept[-1] == places[-1])
    return found


def learnable(turn: Message) -> bool:
    """Return whether a turn may be learned: its weight is not 0."""
    return turn.get("weight") != 0


def _places(talk: Sequence[Message]) -> list[int]:
    return [place for place, turn in enumerate(talk) if turn["role"] == "assistant"]


def _foreign(completion: Prompt) -> bool:
    """Return whether another role than the assistant speaks in a completion."""
    return not isinstance(completion, str) and any(turn["role"] != "assistant" for turn in completion)


def _bounds(tokenizer: Any, opened: list[int], closed: list[int], whole: list[int]) -> tuple[tuple[int, int], bool]:
    """Return begin and end of a turn in ``whole``, and whether it is rendered there as if it were the last.

    White space at its end may be merged into the next token.
    """
    end = shared(closed, whole)
    return (shared(opened, closed, whole), end), not tokenizer.decode(closed[end:]).strip()
