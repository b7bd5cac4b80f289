"""Whole dialogues: Anthropic's "Human: / Assistant:" text, and the prompt that two dialogues share."""

import itertools
import re
from typing import TypeGuard

from rlhf.data.render import Message
from rlhf.data.rows import RowError, assistant, user

SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLE = {"Human": "user", "Assistant": "assistant"}


def is_transcript(value: object) -> TypeGuard[str]:
    """Return whether a value is a text that starts with a speaker."""
    return isinstance(value, str) and SPEAKER.match(value.lstrip("\n")) is not None


def turns(transcript: str, field: str) -> list[Message]:
    """Return the messages of a transcript as released by Bai et al. 2022 (https://arxiv.org/abs/2204.05862).

    Every turn opens with a blank line and "Human:" or "Assistant:". The released files have empty turns and two turns
    of one speaker in a row, and both are kept.

    Raises:
        RowError: the text does not start with a speaker.
    """
    pieces = SPEAKER.split(transcript.lstrip("\n"))
    if len(pieces) == 1 or pieces[0].strip():
        raise RowError(field, "must be a transcript that starts with 'Human:' or 'Assistant:'")
    return [{"role": ROLE[pieces[i]], "content": pieces[i + 1].strip()} for i in range(1, len(pieces), 2)]


def prompt(transcript: str) -> list[Message]:
    """Return the messages of a prompt: a transcript without its empty turn for the answer, or a plain question."""
    if not is_transcript(transcript):
        return [user(transcript)]
    found = turns(transcript, "prompt")
    return found[:-1] if found[-1] == assistant("") else found


def split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return prompt and completions of two texts: the prompt is their common beginning, up to its last white space.

    TRL's implicit prompt can end within a word, so that the completions begin with half a word; this one cannot.
    """
    same = itertools.takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False))
    shared = "".join(letter for letter, _ in same)
    blank = max((i for i, letter in enumerate(shared) if letter.isspace()), default=0)
    end = len(shared[:blank].rstrip())
    return shared[:end], chosen[end:], rejected[end:]


def split_at_divergence(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Return prompt and completions of two dialogues: the prompt is their longest common prefix of whole turns.

    Each completion keeps at least its last turn, even if one dialogue continues the other, and opens with an
    assistant's turn if the dialogues first differ in one.
    """
    shared, most = 0, min(len(chosen), len(rejected)) - 1
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]
