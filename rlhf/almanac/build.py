"""Build the files under preference_data/almanac from the facts: the same code and CSV files give the same bytes."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from rlhf.almanac import facts as world
from rlhf.almanac.gold import gold
from rlhf.almanac.items import Item, index
from rlhf.almanac.preferences import prefers_first
from rlhf.almanac.responses import KINDS, applies
from rlhf.almanac.text import texts

Row = dict[str, Any]

SEED = 2022
DEMONSTRATION_MIXTURE = {
    "good": 0.15,
    "terse": 0.07,
    "vague": 0.14,
    "wrong": 0.04,
    "format_ignored": 0.10,
    "rambling": 0.14,
    "repeating": 0.11,
    "rude": 0.17,
    "made_up": 0.08,
}
"""Shares of the kinds of response that demonstrators write, without the kinds that an item does not have."""
NO_YEAR_DEMONSTRATION_MIXTURE = {**DEMONSTRATION_MIXTURE, "vague": 0.40, "rude": 0.05}
"""The same for questions about the World Cup without a year: demonstrators who are not sure which is meant say so."""
PAIR_MIXTURE = {
    "good": 0.55,
    "terse": 0.06,
    "vague": 0.10,
    "wrong": 0.012,
    "format_ignored": 0.08,
    "rambling": 0.07,
    "repeating": 0.05,
    "rude": 0.05,
    "made_up": 0.028,
}
"""Shares of the kinds of response in a pair, which always has two different kinds."""
NO_YEAR_PAIR_MIXTURE = {**PAIR_MIXTURE, "wrong": 0.15}
"""The same for pairs about the World Cup without a year: one list of winners shows whether an answer is wrong."""

TASK_SHARES = {"question": 0.43, "format": 0.16, "two_steps": 0.10, "extraction": 0.17, "decline": 0.14}
HELD_OUT_SHARES = {"none": 0.35, "fact": 0.20, "phrasing": 0.30, "combination": 0.15}
ROWS = {
    "demonstrations": {"train": 8000, "validation": 200},
    "preferences": {"train": 5000, "validation": 200, "test": 1200},
    "prompts": {"train": 800, "validation": 100, "test": 180},
}
NO_YEAR_SHARE = 0.06
"""Share of demonstrations and pairs about the World Cup without a year: few prompts, so each occurs often."""
PARAPHRASED_GROUPS = 20
TEST_QUESTIONS = ("Who won the World Cup?", "Who won the World Cup in 2018?")
"""Always among the test prompts."""


def message(role: str, content: str) -> list[dict[str, str]]:
    """Return a conversation of one message."""
    return [{"role": role, "content": content}]


def about(item: Item) -> Row:
    """Return the columns that describe the question of a row."""
    return {"task": item.task, "fact": item.fact_id, "held_out": item.held_out}


def items_of(split: str) -> list[Item]:
    """Return the items of a split."""
    return [item for item in index().values() if item.split == split]


def draw_items(items: list[Item], count: int, random: Random) -> Iterator[Item]:
    """Yield items in the proportions of `TASK_SHARES`, the relations of a task by the square root of their size."""
    pools: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        pools.setdefault(item.task, {}).setdefault(item.relation.name, []).append(item)
    tasks = [task for task in TASK_SHARES if task in pools]
    without_year = [item for item in items if item.relation.scope != "row"]
    for _ in range(count):
        if without_year and random.random() < NO_YEAR_SHARE:
            yield random.choice(without_year)
            continue
        relations = pools[random.choices(tasks, [TASK_SHARES[task] for task in tasks])[0]]
        name = random.choices(list(relations), [len(group) ** 0.5 for group in relations.values()])[0]
        yield random.choice(relations[name])


def draw_held_out(split: str, count: int, random: Random) -> Iterator[Item]:
    """Yield items of a validation or test split in the proportions of `HELD_OUT_SHARES`."""
    for reason, share in HELD_OUT_SHARES.items():
        yield from draw_items([i for i in items_of(split) if i.held_out == reason], round(count * share), random)


def draw_kind(item: Item, mixture: dict[str, float], random: Random, without: str = "") -> str:
    """Return a kind of response that applies to an item, in the proportions of ``mixture`` and not ``without``."""
    kinds = [kind for kind in mixture if kind != without and applies(kind, item)]
    return random.choices(kinds, [mixture[kind] for kind in kinds])[0]


def demonstrations(split: str) -> Iterator[Row]:
    """Yield prompts with a completion by a demonstrator of varying care."""
    random = Random(f"{SEED} demonstrations {split}")
    count = ROWS["demonstrations"][split]
    drawn = draw_items(items_of(split), count, random) if split == "train" else draw_held_out(split, count, random)
    for item in drawn:
        mixture = DEMONSTRATION_MIXTURE if item.relation.scope == "row" else NO_YEAR_DEMONSTRATION_MIXTURE
        kind = draw_kind(item, mixture, random)
        completion = KINDS[kind](item, random)
        yield {
            "prompt": message("user", item.prompt),
            "completion": message("assistant", completion),
            **about(item),
            "kind": kind,
        }


def preferences(split: str) -> Iterator[Row]:
    """Yield pairs of responses of different kinds, labeled with Bradley-Terry noise from the gold reward."""
    random = Random(f"{SEED} preferences {split}")
    count = ROWS["preferences"][split]
    drawn = draw_items(items_of(split), count, random) if split == "train" else draw_held_out(split, count, random)
    for item in drawn:
        mixture = PAIR_MIXTURE if item.relation.scope == "row" else NO_YEAR_PAIR_MIXTURE
        first = draw_kind(item, mixture, random)
        second = draw_kind(item, mixture, random, without=first)
        texts_of = [KINDS[first](item, random), KINDS[second](item, random)]
        if texts_of[0] == texts_of[1]:
            continue
        first_gold, second_gold = gold([item.prompt] * 2, texts_of)
        chosen = 0 if prefers_first(first_gold, second_gold, random) else 1
        yield {
            "prompt": message("user", item.prompt),
            "chosen": message("assistant", texts_of[chosen]),
            "rejected": message("assistant", texts_of[1 - chosen]),
            **about(item),
            "chosen_kind": (first, second)[chosen],
            "rejected_kind": (first, second)[1 - chosen],
        }


def prompts(split: str) -> Iterator[Row]:
    """Yield prompts to sample from; the test split also has paraphrases of the same questions."""
    random = Random(f"{SEED} prompts {split}")
    count = ROWS["prompts"][split]
    if split == "train":
        drawn = list(draw_items(items_of(split), count, random))
    else:
        drawn = list(draw_held_out(split, count, random))
    if split == "test":
        drawn += [index()[question] for question in TEST_QUESTIONS] + paraphrases(random)
    for item in dict.fromkeys(drawn):
        yield {
            "prompt": message("user", item.prompt),
            **about(item),
            "relation": item.relation.name,
            "format": item.format,
            "group": item.group,
        }


def paraphrases(random: Random) -> list[Item]:
    """Return two or three phrasings of some questions, about facts that training asks about and held-out ones."""
    groups: dict[str, list[Item]] = {}
    for item in items_of("test"):
        if item.task == "question":
            groups.setdefault(item.group, []).append(item)
    chosen = random.sample([group for group in groups.values() if len(group) >= 2], PARAPHRASED_GROUPS)
    return [item for group in chosen for item in random.sample(group, min(3, len(group)))]


def files() -> dict[str, Iterable[Row]]:
    """Return the rows of every file, by its path below preference_data/almanac."""
    train = texts(SEED)
    validation = [text for text in texts(SEED + 1, share=0.1) if text not in train]
    built: dict[str, Iterable[Row]] = {
        "text/train.jsonl": [{"text": text} for text in train],
        "text/validation.jsonl": [{"text": text} for text in validation],
    }
    for name, rows in (("demonstrations", demonstrations), ("preferences", preferences), ("prompts", prompts)):
        for split in ROWS[name]:
            built[f"{name}/{split}.jsonl"] = rows(split)
    return built


def distinct(rows: Iterable[Row]) -> Iterator[str]:
    """Yield rows as lines of JSON, without duplicate texts."""
    seen = set()
    for row in rows:
        key = json.dumps([row.get(column) for column in ("text", "prompt", "completion", "chosen", "rejected")])
        if key not in seen:
            seen.add(key)
            yield json.dumps(row, ensure_ascii=False)


def write(directory: Path | None = None) -> list[Path]:
    """Write every file below a directory (preference_data/almanac by default) and return their paths."""
    directory = directory or world.directory()
    written = []
    for name, rows in files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in distinct(rows)), encoding="utf-8", newline="\n")
        written.append(path)
    return written
