"""Pairs of responses to compare: sampled with the seed from the responses of stage=sample runs."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from rlhf.data.render import Message, Prompt
from rlhf.errors import DataError
from rlhf.hardware import ranks
from rlhf.rewards import RewardFunction, checked

RESPONSES = "responses.jsonl"
BEST, RANDOM = "best.jsonl", "random.jsonl"  # demonstrations of one response per prompt


class Pair(NamedTuple):
    """Two responses to one prompt, with the titles of their runs."""

    prompt: Prompt
    first: str
    second: str
    titles: tuple[str, str]

    @property
    def id(self) -> str:
        """A hash of prompt, responses and titles, the same in every process, by which answers are stored."""
        whole = json.dumps([self.prompt, self.first, self.second, self.titles], ensure_ascii=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


Doubts = Callable[[Sequence[Pair]], Sequence[float]]  # of reward models about the order of each pair


def read_responses(path: Path, scored: bool = False) -> list[dict[str, Any]]:
    """Return prompt and responses of each line of a stage=sample run; if ``scored``, the scores, and gold if measured.

    Raises:
        DataError: a line is not such a row.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            found = {"prompt": row["prompt"], "responses": list(row["responses"])}
            scores = {"scores": row["scores"]} | ({"gold": row["gold"]} if "gold" in row else {}) if scored else {}
            rows.append(found | scores)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: the line lacks prompt or responses: run stage=sample again") from error
    return rows


def draw(
    samples: dict[str, list[dict[str, Any]]],
    per_prompt: int,
    limit: int | None,
    seed: int,
    doubts: Doubts | None = None,
) -> tuple[list[Pair], int]:
    """Sample up to ``per_prompt`` pairs of each prompt and ``limit`` in all; also return the number of equal pairs.

    With one run, its responses are compared with each other; with several, only responses of different runs. Pairs of
    equal texts are left out. With ``doubts``, the pairs with the largest ones are taken instead, in this order.

    Args:
        samples: title of a run -> rows of `read_responses`.
    """
    by_prompt: dict[str, list[tuple[str, str]]] = {}
    prompts: dict[str, Prompt] = {}
    for title, rows in samples.items():
        for row in rows:
            key = json.dumps(row["prompt"], ensure_ascii=True)
            prompts[key] = row["prompt"]
            by_prompt.setdefault(key, []).extend((title, text) for text in row["responses"])
    found: list[Pair] = []
    equal = 0
    for key, responses in by_prompt.items():
        candidates = [(a, b) for a, b in combinations(responses, 2) if len(samples) == 1 or a[0] != b[0]]
        equal += sum(a[1] == b[1] for a, b in candidates)
        # A policy often repeats itself; one comparison of two texts is enough.
        different = list({frozenset(pair): pair for pair in candidates if pair[0][1] != pair[1][1]}.values())
        generator = random.Random(f"{seed} {key}")
        most = len(different) if doubts else min(per_prompt, len(different))
        for a, b in generator.sample(different, most):
            found.append(Pair(prompts[key], a[1], b[1], (a[0], b[0])))
    random.Random(f"{seed} order").shuffle(found)
    if doubts:
        ranked = sorted(zip(doubts(found), found, strict=True), key=lambda one: -one[0])
        found, taken = [], Counter[str]()
        for _, pair in ranked:
            taken[key := json.dumps(pair.prompt, ensure_ascii=True)] += 1
            found += [pair] * (taken[key] <= per_prompt)
    return found[:limit], equal


def disagreement(rewards: Sequence[RewardFunction]) -> Doubts:
    """Return the doubts of reward models: the variance over them of σ(score of the first - score of the second).

    Christiano et al. 2017, https://arxiv.org/abs/1706.03741, section 2.2.4. The doubt of a single model is σ(1 - σ),
    which is largest for equal scores (Lewis and Gale 1994, https://arxiv.org/abs/cmp-lg/9407020).
    """

    def doubts(pairs: Sequence[Pair]) -> list[float]:
        prompts, texts = (
            [pair.prompt for pair in pairs] * 2,
            [text for n in (1, 2) for text in (pair[n] for pair in pairs)],
        )
        scores = np.array([checked(reward(prompts, texts), texts) for reward in rewards])
        first, second = np.split(scores, 2, axis=1)
        preferred = expit(first - second)
        return (preferred.var(axis=0) if len(rewards) > 1 else (preferred * (1 - preferred))[0]).tolist()

    return doubts


def preference(pair: Pair, first: float, source: str, **fields: Any) -> dict[str, Any]:
    """Return the pair as a row of preference data; the first response is the chosen one if ``first`` is above ½."""
    chosen, rejected = (0, 1) if first > 0.5 else (1, 0)
    texts = (pair.first, pair.second)
    row = {
        "prompt": pair.prompt,
        "chosen": preference_completion(pair.prompt, texts[chosen]),
        "rejected": preference_completion(pair.prompt, texts[rejected]),
        "source": source,
    }
    if pair.titles[0] != pair.titles[1]:
        row |= {"chosen_model": pair.titles[chosen], "rejected_model": pair.titles[rejected]}
    return row | fields


def preference_completion(prompt: Prompt, text: str) -> str | list[Message]:
    """Return a text as a completion of the prompt's type, a string or a message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def demonstration(prompt: Prompt, text: str) -> dict[str, Any]:
    """Return a response as a row of demonstrations."""
    return {"prompt": prompt, "completion": preference_completion(prompt, text)}


def labeled(path: Path) -> list[Pair]:
    """Return the pairs of a stage=label run, whose first response is the chosen one."""
    rows = [json.loads(line) for line in _lines(path)]
    texts = [[one if isinstance(one, str) else one[0]["content"] for one in (r["chosen"], r["rejected"])] for r in rows]
    return [Pair(row["prompt"], *both, ("chosen", "rejected")) for row, both in zip(rows, texts, strict=True)]


def scored_by_wins(pairs: Sequence[Pair], preferred: Sequence[float | None]) -> list[dict[str, Any]]:
    """Return each prompt with its responses and their scores: the mean preference over the responses compared with.

    ``preferred``: preference for the first response of each pair; None without a verdict. Responses without a verdict
    are left out.
    """
    wins: dict[str, dict[str, list[float]]] = {}
    prompts: dict[str, Prompt] = {}
    for pair, first in zip(pairs, preferred, strict=True):
        if first is not None:
            key = json.dumps(pair.prompt, ensure_ascii=True)
            prompts[key] = pair.prompt
            for text, share in ((pair.first, first), (pair.second, 1 - first)):
                wins.setdefault(key, {}).setdefault(text, []).append(share)
    return [
        {"prompt": prompts[key], "responses": list(found), "scores": [sum(one) / len(one) for one in found.values()]}
        for key, found in wins.items()
    ]


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; unlike for str.splitlines, U+2028 and the like in a text do not end one."""
    with path.open(encoding="utf-8") as file:
        return list(file)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, in the first process of a run."""
    if not ranks.is_main():
        return
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
