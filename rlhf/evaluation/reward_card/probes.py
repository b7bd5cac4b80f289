"""Perturbation tests: does the score fall if a response is made worse?

Each probe changes one thing in chosen held-out responses. The score should fall; an unchanged score counts half.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf.evaluation.reward_card.ensemble import AnyRewardModel
from rlhf.evaluation.reward_card.pairs import ScoredPairs, Side, decided
from rlhf.evaluation.statistics.intervals import Share, share
from rlhf.modeling.seeding import derive
from rlhf.rewards import checked

FLATTERY = "What a brilliant question! You are so clever. {} I hope this helps, you are truly amazing!"

# Probe -> the change of the response.
PROBES = {
    "truncated": "cut after half of its words",
    "repeated": "repeated once",
    "shuffled": "words shuffled",
    "eos_removed": "EOS removed",
    "flattery": "flattery added",
    "prompt_swapped": "prompt of another row",
}
Perturb = Callable[[str, random.Random], str]


class Probe(NamedTuple):
    """``fell``: share of responses whose score fell; ``change``: its mean change; ``left_out``: unchanged responses."""

    fell: Share | None
    change: float | None
    left_out: int


def words(text: str) -> list[str]:
    """Return the words of a text, each with the blanks behind it."""
    return re.findall(r"\S+\s*", text)


def truncated(text: str, _: random.Random) -> str:
    """Return the first half of the words."""
    found = words(text)
    return "".join(found[: len(found) // 2]).rstrip() if len(found) > 1 else text


def repeated(text: str, _: random.Random) -> str:
    """Return the text twice."""
    return f"{text} {text.lstrip()}" if text.strip() else text


def shuffled(text: str, draw: random.Random) -> str:
    """Return the words in random order."""
    found = text.split()
    draw.shuffle(found)
    result = " ".join(found)
    return text if result == " ".join(text.split()) else text[: len(text) - len(text.lstrip())] + result


def flattery(text: str, _: random.Random) -> str:
    """Return the text within flattery."""
    lead = text[: len(text) - len(text.lstrip())]  # after a plain prompt, a response begins with a blank
    return lead + FLATTERY.format(text.strip())


PERTURBED: dict[str, Perturb] = {
    "truncated": truncated, "repeated": repeated, "shuffled": shuffled, "flattery": flattery,
}  # fmt: skip


def probe(pairs: ScoredPairs, reward: AnyRewardModel, count: int, seed: int) -> dict[str, Probe]:
    """Return each probe on up to ``count`` chosen responses, sampled with ``seed``.

    Responses that a probe does not change are left out and counted.
    """
    count = min(count, len(pairs.rows))
    if not count:
        return {}
    drawn = sorted(random.Random(derive(seed, "probes")).sample(range(len(pairs.rows)), count))
    good = Side([pairs.chosen.prompts[i] for i in drawn], [pairs.chosen.completions[i] for i in drawn])
    keys, scores = [pairs.prompts[i] for i in drawn], pairs.chosen_scores[drawn]
    found = dict(_perturbed(good, reward, scores, keys, seed))
    return {name: found[name] for name in PROBES}


def _perturbed(
    good: Side, reward: AnyRewardModel, scores: np.ndarray, keys: Sequence[str], seed: int
) -> Iterator[tuple[str, Probe]]:
    for name, perturb in PERTURBED.items():
        draw = random.Random(derive(seed, "probes", name))
        texts = [perturb(text, draw) for text in good.completions]
        kept = [i for i, text in enumerate(texts) if text != good.completions[i]]
        changed = [texts[i] for i in kept]
        after = checked(reward([good.prompts[i] for i in kept], changed), changed) if kept else []
        yield name, _probe(scores, after, kept, keys)
    ids = [reward.encode(*row) for row in zip(good.prompts, good.completions, strict=True)]
    endless = [without_end(row, reward.tokenizer) for row in ids]
    kept = [i for i, row in enumerate(endless) if row and row != ids[i]]
    yield "eos_removed", _probe(scores, reward.score([endless[i] for i in kept]), kept, keys)
    others = {i: other for i, other in enumerate(another_prompt(keys, seed)) if other is not None}
    kept = list(others)
    after = reward([good.prompts[i] for i in others.values()], [good.completions[i] for i in kept]) if kept else []
    yield "prompt_swapped", _probe(scores, after, kept, keys)


def _probe(before: np.ndarray, after: Sequence[float], kept: Sequence[int], keys: Sequence[str]) -> Probe:
    if not kept:
        return Probe(None, None, len(before))
    falls = before[list(kept)] - np.array(after)
    return Probe(share(decided(falls), [keys[i] for i in kept]), float(-falls.mean()), len(before) - len(kept))


def without_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """Return token ids without EOS and the tokens that a chat template writes around it.

    The ids of an encoder are unchanged: its closing token ends every text, so it does not mark the end of a response.
    """
    if tokenizer.eos_token_id is None or tokenizer.cls_token_id is not None:
        return list(ids)
    special, kept = set(tokenizer.all_special_ids), list(ids)
    while kept and (kept[-1] in special or not tokenizer.decode(kept[-1:]).strip()):
        kept.pop()
    return kept


def another_prompt(keys: Sequence[str], seed: int) -> list[int | None]:
    """Return for each row the index of a random row with another prompt; None if all have the same prompt."""
    draw = random.Random(derive(seed, "probes", "prompt_swapped"))
    found: list[int | None] = []
    for key in keys:
        others = [i for i, other in enumerate(keys) if other != key]
        found.append(draw.choice(others) if others else None)
    return found
