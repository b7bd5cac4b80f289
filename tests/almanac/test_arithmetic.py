"""Sums with a verifiable answer."""

import json
from pathlib import Path

import pytest

from rlhf.almanac.arithmetic import ROWS, carries, slipped, sums, write
from rlhf.rewards import NumberReward
from rlhf.storage.paths import bundled

DIRECTORY = bundled("preference_data") / "arithmetic"


def rows(kind: str, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DIRECTORY / kind / f"{split}.jsonl").read_text().splitlines()]


def numbers(prompt: str) -> tuple[int, int]:
    a, b = prompt.removeprefix("What is ").removesuffix("?").split(" + ")
    return int(a), int(b)


def test_the_committed_files_are_a_fresh_build(tmp_path: Path) -> None:
    fresh = write(tmp_path)
    assert sorted(path.relative_to(tmp_path) for path in fresh) == sorted(
        path.relative_to(DIRECTORY) for path in DIRECTORY.glob("*/*.jsonl")
    )
    for path in fresh:
        assert path.read_bytes() == (DIRECTORY / path.relative_to(tmp_path)).read_bytes(), path.name


def test_no_sum_is_in_two_splits_in_either_order() -> None:
    parts = {split: {frozenset(pair) for pair in found} for split, found in sums().items()}
    assert sum(map(len, parts.values())) == len(frozenset.union(*map(frozenset, parts.values()))) == 100 * 101 / 2
    for kind in ("demonstrations", "prompts"):
        for split in ROWS[kind]:
            asked = [numbers(row["prompt"]) for row in rows(kind, split)]
            assert len(set(asked)) == len(asked) == ROWS[kind][split]
            assert {frozenset(pair) for pair in asked} <= parts[split]


def test_the_answers_are_right_and_a_reward_reads_them() -> None:
    for split in ROWS["prompts"]:
        for row in rows("prompts", split):
            assert sum(numbers(row["prompt"])) == int(row["answer"])
    for line in "\n".join(row["text"] for row in rows("text", "train")).splitlines():
        left, right = line.partition("? ")[2].split(" = ")
        assert sum(map(int, left.split(" + "))) == int(right)
    one = rows("prompts", "test")[0]
    assert NumberReward("answer")(
        [one["prompt"]], [f"{one['prompt']} It is {one['answer']}."], answer=[one["answer"]]
    ) == [1]


@pytest.mark.parametrize(("a", "b", "carried", "said"), [(27, 45, True, 62), (20, 45, False, 65), (99, 1, True, 90)])
def test_a_slip_is_a_forgotten_carry(a: int, b: int, carried: bool, said: int) -> None:
    assert (carries(a, b), slipped(a, b)) == (carried, said)


def test_demonstrators_slip_in_half_of_the_sums_with_a_carry() -> None:
    hard = [row for row in rows("demonstrations", "train") if carries(*numbers(row["prompt"]))]
    slips = 0
    for row in rows("demonstrations", "train"):
        a, b = numbers(row["prompt"])
        said = int(row["completion"].removeprefix(f"{a} + {b} = "))
        assert said in (a + b, slipped(a, b))
        slips += said != a + b
    assert slips / len(hard) == pytest.approx(0.5, abs=0.05)
