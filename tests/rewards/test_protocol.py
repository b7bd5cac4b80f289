import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.rewards import checked, function
from rlhf.rewards.protocol import checked_or_none, guarded

MODULE = """
class Mine:
    score = staticmethod(lambda prompts, completions: [1.0] * len(prompts))

NUMBER = 3
"""


def test_a_function_by_its_path() -> None:
    assert function("math:sqrt") is math.sqrt
    for path in ("math", "math:", ":sqrt", "math:no_such_name", "no_such_module:f"):
        with pytest.raises(ConfigError, match="the reward"):
            function(path)


def test_a_module_of_the_current_directory_is_found_after_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console script does not add the current directory to the path, unlike ``python -m``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    Path("reward_of_this_test.py").write_text(MODULE)
    Path("statistics.py").write_text("raise RuntimeError('hidden')\n")
    assert function("reward_of_this_test:Mine.score")(["p"], ["c"]) == [1.0]
    assert function("statistics:fmean")([1.0, 2.0]) == 1.5


def test_a_function_in_a_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MODULE)
    assert function(f"{tmp_path}/my.py:Mine.score")(["p"], ["c"]) == [1.0]
    with pytest.raises(ConfigError, match="not callable but of type int"):
        function(f"{tmp_path}/my.py:NUMBER")
    (tmp_path / "broken.py").write_text("def score(:\n")
    for path in ("broken.py:score", "absent.py:score"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            function(f"{tmp_path}/{path}")


def test_exceptions_of_a_users_function_are_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "from rlhf.errors import DataError\n"
        "def score(prompts, completions):\n    return [len(text) / 0 for text in completions]\n"
        "def ours(prompts, completions):\n    raise DataError('reported already')\n"
    )
    with pytest.raises(TrainingError, match=r"^stage\.x=my\.py:score.*2 completions.*ZeroDivisionError: "):
        guarded(function(f"{tmp_path}/my.py:score"), "stage.x=my.py:score")(["p", "p"], ["a", "b"])
    with pytest.raises(DataError, match="^reported already$"):
        guarded(function(f"{tmp_path}/my.py:ours"), "x")(["p"], ["a"])


@pytest.mark.parametrize("bad", range(7))
def test_the_first_row_that_fails_is_named_without_its_control_characters(bad: int) -> None:
    def fails(prompts: list[str], completions: list[str]) -> list[float]:
        return [1 / (text != "\x1b[31mbad") for text in completions]

    texts = ["good"] * bad + ["\x1b[31mbad"] + ["\x1b[31mbad"] * (6 - bad)
    with pytest.raises(TrainingError, match=rf"7 completions, first on row {bad} \(' \[31mbad'\) \(ZeroDivisionError"):
        guarded(fails, "mine")(["p"] * 7, texts)


def test_a_failure_of_the_batch_as_a_whole_names_no_row() -> None:
    def small_only(prompts: list[str], completions: list[str]) -> list[float]:
        assert len(completions) < 3
        return [0.0] * len(completions)

    with pytest.raises(TrainingError, match=r"^mine failed on a batch of 3 completions \(AssertionError"):
        guarded(small_only, "mine")(["p"] * 3, ["a"] * 3)


def test_a_call_that_takes_too_long_is_interrupted_in_the_same_thread() -> None:
    threads = []

    def waits(prompts: list[str], completions: list[str]) -> list[float]:
        threads.append(threading.current_thread())
        try:
            threading.Event().wait(30)
        except Exception:  # of a single row
            return [0.0] * len(completions)
        return [1.0] * len(completions)

    told = r"^mine took more than timeout=0.05 seconds for "
    with pytest.raises(TrainingError, match=rf"{told}1 completion, row 0 \('a'\): fix it"):
        guarded(waits, "mine", timeout=0.05)(["p"], ["a"])
    with pytest.raises(TrainingError, match=rf"{told}3 completions, rows 0 \('a'\) to 2 \('c'\): fix it"):
        guarded(waits, "mine", timeout=0.05)(["p"] * 3, ["a", "b", "c"])
    assert threads == [threading.current_thread()] * 2
    assert guarded(lambda prompts, completions: [2.0], "mine", timeout=30)(["p"], ["a"]) == [2.0]

    def times_out(prompts: list[str], completions: list[str]) -> list[float]:
        raise TimeoutError("the user's own")

    with pytest.raises(TrainingError, match="mine failed.*the user's own"):
        guarded(times_out, "mine", timeout=30)(["p"], ["a"])


def test_a_function_with_its_own_alarm_works_and_is_limited_too() -> None:
    """As verifiers of mathematics do, which fail in other threads; their alarm replaces that of the limit."""

    def own_alarm(prompts: list[str], completions: list[str]) -> list[float]:
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(5)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        time.sleep(0.1 * len(completions))
        return [1.0] * len(completions)

    reward = guarded(own_alarm, "mine", timeout=0.3)
    assert reward(["p"], ["a"]) == [1.0]
    with pytest.raises(TrainingError, match=r"^mine took more than timeout=0.3 seconds for 4 completions"):
        reward(["p"] * 4, ["a"] * 4)


@pytest.mark.parametrize(
    "scores",
    [
        [1.0], [1.0, math.nan], [math.inf, 0.0], None, 3, [1.0, "x"], [1.0, None], {0: 0.9, 1: 0.2}, "12", b"12",
        ["1", "2"], {0.5, 1.5}, iter([1.0, 2.0]), [[1.0], [2.0]], np.array(["1", "2"]), np.ones((2, 1)), 10**400,
        [10**400, 1], [1j, 2j],
    ],
)  # fmt: skip
def test_scores_that_are_not_numbers_are_refused(scores: list[float]) -> None:
    with pytest.raises(TrainingError, match="^mine "):
        checked(scores, ["a", "b"], "mine")


def test_the_first_row_without_a_number_is_named() -> None:
    texts = ["a", "b\x07c" + "d" * 100, "e"]
    shown = re.escape(repr("b c" + "d" * 57))
    for score, said in ((math.nan, "nan"), (math.inf, "inf"), ("x", "returned 'x'"), (None, "returned None")):
        with pytest.raises(TrainingError, match=rf"row 1 \({shown}\)") as raised:
            checked([1.0, score, score], texts, "mine")
        assert said in str(raised.value)
    assert checked_or_none([1, None, True], texts, "mine") == [1.0, None, 1.0]
    with pytest.raises(TrainingError, match="row 2"):
        checked_or_none([1, None, math.nan], texts, "mine")


@pytest.mark.parametrize(
    "scores",
    [(1, 2.0), np.array([1, 2]), torch.tensor([1.0, 2.0]), [np.float32(1), torch.tensor(2.0)], [True, 2]],
    ids=["tuple", "array", "tensor", "scalars", "bool"],
)
def test_lists_tuples_and_arrays_of_numbers_are_scores(scores: Any) -> None:
    assert checked(scores, ["a", "b"]) == [1.0, 2.0]


def test_any_callable_on_text_is_a_reward_function() -> None:
    length: Callable = lambda prompts, completions: [len(text) for text in completions]  # noqa: E731
    assert checked(length(["p", "p"], ["a", "bb"]), ["a", "bb"]) == [1.0, 2.0]
