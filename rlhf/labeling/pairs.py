"""Which two responses meet: read from runs of stage=sample and drawn with the seed."""

import hashlib
import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.data.render import Message, Prompt
from rlhf.errors import DataError

RESPONSES = "responses.jsonl"


class Pair(NamedTuple):
    """Two responses to one prompt, and the titles of the runs that they are from."""

    prompt: Prompt
    first: str
    second: str
    titles: tuple[str, str]

    @property
    def id(self) -> str:
        """The same for the same texts in every process, so that an answer finds its pair again."""
        whole = json.dumps([self.prompt, self.first, self.second, self.titles], ensure_ascii=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


def read_responses(path: Path) -> list[dict[str, Any]]:
    """Rows {"prompt", "responses", ...} of a run of stage=sample.

    Raises:
        DataError: a line is no such row.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({"prompt": row["prompt"], "responses": list(row["responses"])})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number} holds no prompt with responses: run stage=sample again") from error
    return rows


def draw(
    samples: dict[str, list[dict[str, Any]]], per_prompt: int, limit: int | None, seed: int
) -> tuple[list[Pair], int]:
    """Up to ``per_prompt`` pairs of each prompt and ``limit`` in all, and how many were left out as equal texts.

    Of one run its responses meet each other; of several those of two different runs do. Nobody can prefer a text to
    itself, so two equal texts are no pair.
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
    for key, given in by_prompt.items():
        meetings = [(a, b) for a, b in combinations(given, 2) if len(samples) == 1 or a[0] != b[0]]
        equal += sum(a[1] == b[1] for a, b in meetings)
        # A policy says many things twice, and one comparison of two texts is enough.
        different = list({frozenset(two): two for two in meetings if two[0][1] != two[1][1]}.values())
        order = random.Random(f"{seed} {key}")
        for one, other in order.sample(different, min(per_prompt, len(different))):
            found.append(Pair(prompts[key], one[1], other[1], (one[0], other[0])))
    random.Random(f"{seed} order").shuffle(found)
    return found[:limit], equal


def preference(pair: Pair, first: float, source: str, **fields: Any) -> dict[str, Any]:
    """The pair as a row of preference data; ``first`` above ½ says that the first response is the chosen one."""
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
    """A text as a completion of the prompt's own type."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
