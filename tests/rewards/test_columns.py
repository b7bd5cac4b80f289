"""Columns of the data reach the rewards that name them, by the prompt."""

import functools
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.data import load_rows
from rlhf.errors import DataError, TrainingError
from rlhf.rewards import NumberReward, Rows, bound
from rlhf.rewards.columns import Takes, reads_columns, takes

TALK = [{"role": "user", "content": "2+2?"}]


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Rows]:
    """Return a function that writes rows to a file and returns their Rows."""

    def of(*given: dict[str, Any], name: str = "train.jsonl") -> Rows:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        return Rows({"prompts": load_rows(str(path), "prompts", "validation", columns=True, holdout=1)})

    return of


class Own:
    def __call__(self, prompts: Any, completions: Any, answer: Any) -> list[float]:
        return [0.0]


def optional(prompts: Any, completions: Any, answer: Any, unit: Any = None) -> None: ...


def positional(a: Any, b: Any, /, answer: Any, *, level: Any) -> None: ...


def swapped(completions: Any, answer: Any, prompts: Any) -> None: ...


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (lambda prompts, completions: [], Takes({})),
        (lambda questions, completions: [], Takes({})),
        (lambda *texts: [], Takes({})),
        (math.sqrt, Takes({})),
        (dict.fromkeys, Takes({})),
        (optional, Takes({"answer": True, "unit": False})),
        (functools.partial(optional, unit=3), Takes({"answer": True, "unit": False})),
        (positional, Takes({"answer": True, "level": True})),
        (Own(), Takes({"answer": True})),
        (swapped, Takes({"answer": True}, False, ("prompts", "completions"))),
        (lambda completions, **kwargs: [], Takes({}, True, ("prompts", "completions"))),
        (lambda completions, answer: [], Takes({"answer": True}, False, ("completions",))),
        (lambda prompts, completions, **kwargs: [], Takes({}, True)),
        (NumberReward("answer"), Takes({"answer": True})),
    ],
)
def test_the_signature_says_what_a_reward_takes(reward: Callable, expected: Takes) -> None:
    assert takes(reward) == expected
    assert reads_columns(reward) == bool(expected.columns or expected.all)


def test_columns_follow_the_prompts_in_any_order_and_number(rows: Callable[..., Rows]) -> None:
    """K responses per prompt repeat the prompt, and so its columns, as in TRL."""
    table = rows(*({"prompt": f"question {n}", "answer": n, "tests": [{"in": n}, None]} for n in range(50)))
    seen: list[dict[str, Any]] = []

    def reward(prompts: Sequence[str], completions: Sequence[str], answer: list[int], tests: list) -> list[float]:
        seen.append({"prompts": prompts, "answer": answer, "tests": tests})
        return [float(n) for n in answer]

    order = [n for n in random.Random(0).sample(range(50), 50) for _ in range(3)]
    score = bound(reward, "mine", table)
    assert score([f"question {n}" for n in order], ["x"] * 150) == order
    assert seen[0]["tests"] == [[{"in": n}, None] for n in order]


def test_a_function_as_trl_has_them_is_called_by_name_with_all_columns(rows: Callable[..., Rows]) -> None:
    table = rows({"prompt": "a", "answer": "1", "prompts": "taken"}, {"prompt": "b", "level": 2.5})

    def reward(completions: list[str], **kwargs: Any) -> list[float]:
        assert completions == ["x", "y"]
        assert kwargs == {"prompts": ["b", "a"], "answer": [None, "1"], "level": [2.5, None], "prompt": ["b", "a"]}
        return [1.0, 2.0]

    assert bound(reward, "mine", table)(["b", "a"], ["x", "y"]) == [1.0, 2.0]
    assert bound(lambda completions, **kwargs: [3.0], "mine", None)(["p"], ["c"]) == [3.0]


def test_conversations_are_looked_up_too(rows: Callable[..., Rows]) -> None:
    table = rows({"prompt": TALK, "answer": 4}, {"prompt": [*TALK, *TALK], "answer": 5})
    assert table([[*TALK, *TALK], TALK], ["answer"]) == {"answer": [5, 4]}


def test_a_function_without_columns_is_unchanged(rows: Callable[..., Rows]) -> None:
    def plain(prompts: list[str], completions: list[str]) -> list[float]:
        return []

    assert bound(plain, "mine", rows({"prompt": "a"}, {"prompt": "b"})) is plain


def test_a_missing_column_is_refused_with_those_that_exist(rows: Callable[..., Rows]) -> None:
    table = rows({"prompt": "a", "solution": 1}, {"prompt": "b", "level": 2})
    with pytest.raises(DataError, match=r"^stage\.rewards\.x reads the column 'answer'.*prompt, solution, level$"):
        bound(Own(), "stage.rewards.x", table)
    with pytest.raises(DataError, match="reads the column 'answer'"):
        bound(Own(), "data.gold", None)
    default = bound(lambda prompts, completions, answer="none": [answer], "x", table)
    assert default(["a"], ["c"]) == ["none"]


def test_an_unknown_prompt_is_refused(rows: Callable[..., Rows]) -> None:
    table = rows({"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2})
    with pytest.raises(TrainingError, match="the prompt 'c d' has no row"):
        bound(Own(), "mine", table)(["c\nd"], ["x"])


def test_two_rows_of_one_prompt_must_agree_in_the_columns_that_are_read(rows: Callable[..., Rows]) -> None:
    one = rows({"prompt": "a", "answer": 1, "id": 1}, {"prompt": "b", "answer": 2}).splits["prompts"]
    other = rows({"prompt": "a", "answer": 3, "id": 2}, {"prompt": "c", "answer": 2}, name="b.jsonl").splits["prompts"]
    same = rows({"prompt": "a", "answer": 1, "id": 3}, {"prompt": "c", "answer": 2}, name="c.jsonl").splits["prompts"]
    with pytest.raises(DataError, match=r"^right row 1 has the prompt of left row 1.*'answer'"):
        bound(Own(), "mine", Rows({"left": one, "right": other}))
    table = Rows({"left": one, "right": same})
    bound(Own(), "mine", table)
    assert table(["a"], ["id"]) == {"id": [1]}


def test_answers_that_a_reward_cannot_use_are_refused_with_their_row(rows: Callable[..., Rows]) -> None:
    table = rows({"prompt": "a", "answer": "3"}, {"prompt": "b", "answer": None}, {"prompt": "c", "answer": "many"})
    with pytest.raises(DataError, match=r"^prompts row 3 cannot be scored by stage\.rewards\.n: .*'many'"):
        bound(NumberReward("answer"), "stage.rewards.n", table)
