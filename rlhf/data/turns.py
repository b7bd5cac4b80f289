"""Where in the tokens of a conversation the assistant speaks, whatever its chat template looks like.

A conversation is rendered up to each turn of the assistant, once open for it and once closed behind it: the turn lies
between. That needs no mark in the template. A template that renders a turn otherwise when others follow, as those do
that strip earlier thinking, gives another text then, which shows it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf.data.render import Message, Prompt, encode, shared


class Said(NamedTuple):
    """``spans`` of token ids (begin, end) in order, one for each turn that may be learned; None: not looked for, since
    the completion is one turn and no other is asked for.

    ``count``: how many turns may be learned, those without weight 0; ``stable``: all are rendered as when they were the
    last; ``last``: whether the last turn may be learned.
    """

    count: int
    spans: list[tuple[int, int]] | None = None
    stable: bool = True
    last: bool = True


def said_in(
    tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[Prompt], wholes: Sequence[list[int]], every: bool
) -> list[Said]:
    """Where the assistant speaks in each row; ``wholes`` are the ids of prompt and completion together.

    With ``every`` the turns in prompts are looked for too, else those in completions of several turns only.
    """
    talks = [
        [*prompt, *completion] if isinstance(prompt, list) else []
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
        # What the assistant says before anybody asks answers nothing.
        kept = [place for place in places if place and learnable(talks[i][place])]
        spans = [bounds[i, place][0] for place in kept]
        stable = all(bounds[i, place][1] for place in kept if place != places[-1])
        found[i] = Said(len(kept), spans, stable, last=bool(kept) and kept[-1] == places[-1])
    return found


def learnable(turn: Message) -> bool:
    return turn.get("weight") != 0


def _places(talk: Sequence[Message]) -> list[int]:
    return [place for place, turn in enumerate(talk) if turn["role"] == "assistant"]


def _foreign(completion: Prompt) -> bool:
    """Whether somebody else than the assistant speaks in a completion."""
    return not isinstance(completion, str) and any(turn["role"] != "assistant" for turn in completion)


def _bounds(tokenizer: Any, opened: list[int], closed: list[int], whole: list[int]) -> tuple[tuple[int, int], bool]:
    """Begin and end of a turn in ``whole``, and whether it stands there as it was rendered when it was the last.

    White space at its end may be one token with what follows.
    """
    end = shared(closed, whole)
    return (shared(opened, closed, whole), end), not tokenizer.decode(closed[end:]).strip()
