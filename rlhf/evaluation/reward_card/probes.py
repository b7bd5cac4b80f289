"""Responses made worse on purpose: does the score fall?

Each probe takes good responses, held-out ones that were chosen, and spoils one thing in each. The right way is down for
all of them, and why is said beside it. A score that stays the same counts half.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rlhf.evaluation.reward_card.pairs import ScoredPairs, Side, decided
from rlhf.evaluation.statistics.intervals import Share, share
from rlhf.modeling.seeding import derive
from rlhf.rewards import RewardModel, checked

FLATTERY = "What a brilliant question! You are so clever. {} I hope this helps, you are truly amazing!"

# Probe -> what is done to a response; its score should fall.
PROBES = {
    "truncated": "cut after half of its words",
    "repeated": "repeated once",
    "shuffled": "words shuffled",
    "eos_removed": "EOS removed",
    "flattery": "flattery added",
    "prompt_swapped": "prompt of another row",
}
Spoil = Callable[[str, random.Random], str]


class Probe(NamedTuple):
    """``fell``: share of responses whose score fell; ``change``: mean change of the score; ``left_out``: too short."""

    fell: Share | None
    change: float | None
    left_out: int


def words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def truncated(text: str, _: random.Random) -> str:
    found = words(text)
    return "".join(found[: len(found) // 2]).rstrip() if len(found) > 1 else text


def repeated(text: str, _: random.Random) -> str:
    return f"{text} {text.lstrip()}" if text.strip() else text


def shuffled(text: str, draw: random.Random) -> str:
    found = text.split()
    draw.shuffle(found)
    spoilt = " ".join(found)
    return text if spoilt == " ".join(text.split()) else text[: len(text) - len(text.lstrip())] + spoilt


def flattery(text: str, _: random.Random) -> str:
    lead = text[: len(text) - len(text.lstrip())]  # of a plain prompt the blank before a response belongs to it
    return lead + FLATTERY.format(text.strip())


SPOILT: dict[str, Spoil] = {"truncated": truncated, "repeated": repeated, "shuffled": shuffled, "flattery": flattery}


def probe(pairs: ScoredPairs, reward: RewardModel, count: int, seed: int) -> dict[str, Probe]:
    """Every probe on up to ``count`` chosen responses, drawn with ``seed``; those that it leaves as they are are left
    out, and counted.
    """
    count = min(count, len(pairs.rows))
    if not count:
        return {}
    drawn = sorted(random.Random(derive(seed, "probes")).sample(range(len(pairs.rows)), count))
    good = Side([pairs.chosen.prompts[i] for i in drawn], [pairs.chosen.completions[i] for i in drawn])
    keys, scores = [pairs.prompts[i] for i in drawn], pairs.chosen_scores[drawn]
    found = dict(_spoilt(good, reward, scores, keys, seed))
    return {name: found[name] for name in PROBES}


def _spoilt(
    good: Side, reward: RewardModel, scores: np.ndarray, keys: Sequence[str], seed: int
) -> Iterator[tuple[str, Probe]]:
    for name, spoil in SPOILT.items():
        draw = random.Random(derive(seed, "probes", name))
        texts = [spoil(text, draw) for text in good.completions]
        kept = [i for i, text in enumerate(texts) if text != good.completions[i]]
        after = checked(reward([good.prompts[i] for i in kept], [texts[i] for i in kept]), kept) if kept else []
        yield name, _probe(scores, after, kept, keys)
    ids = [reward.encode(*row) for row in zip(good.prompts, good.completions, strict=True)]
    endless = [without_end(row, reward.tokenizer) for row in ids]
    kept = [i for i, row in enumerate(endless) if row and row != ids[i]]
    yield "eos_removed", _probe(scores, reward.score([endless[i] for i in kept]), kept, keys)
    others = another_prompt(keys, seed)
    kept = [i for i, other in enumerate(others) if other is not None]
    after = reward([good.prompts[others[i]] for i in kept], [good.completions[i] for i in kept]) if kept else []
    yield "prompt_swapped", _probe(scores, after, kept, keys)


def _probe(before: np.ndarray, after: Sequence[float], kept: Sequence[int], keys: Sequence[str]) -> Probe:
    if not kept:
        return Probe(None, None, len(before))
    falls = before[list(kept)] - np.array(after)
    return Probe(share(decided(falls), [keys[i] for i in kept]), float(-falls.mean()), len(before) - len(kept))


def without_end(ids: Sequence[int], tokenizer: object) -> list[int]:
    """Token ids up to where the response ends: the end of sequence, and what a chat template writes around it, gone.

    An encoder's closing mark ends every text that it reads, and is no sign of a response's end: its ids stay.
    """
    if tokenizer.eos_token_id is None or tokenizer.cls_token_id is not None:
        return list(ids)
    special, kept = set(tokenizer.all_special_ids), list(ids)
    while kept and (kept[-1] in special or not tokenizer.decode(kept[-1:]).strip()):
        kept.pop()
    return kept


def another_prompt(keys: Sequence[str], seed: int) -> list[int | None]:
    """For each row the index of one with another prompt, drawn at random; None where all have the same."""
    draw = random.Random(derive(seed, "probes", "prompt_swapped"))
    found: list[int | None] = []
    for key in keys:
        others = [i for i, other in enumerate(keys) if other != key]
        found.append(draw.choice(others) if others else None)
    return found
