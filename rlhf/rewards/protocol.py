"""The interface of rewards: ``(prompts, completions) -> one score per completion``, text in, numbers out.

None instead of a score means that the reward does not apply to the completion; only a term of a sum may return it.
"""

import importlib
import importlib.util
import math
import operator
import sys
import time
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from rlhf.config.library_errors import first_sentence
from rlhf.console import plural
from rlhf.data.bounds import time_limit
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, RlhfError, TrainingError
from rlhf.rewards.columns import shown

FORM = "a list, tuple or array of numbers, one per completion"


class RewardFunction(Protocol):
    """A callable that scores completions."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]: ...


def detailed(
    reward: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[str]
) -> tuple[Any, dict[str, list[float]]]:
    """Return the scores, and further numbers per response, by name, of a reward that has a method ``detailed``."""
    method = getattr(reward, "detailed", None)
    return (reward(prompts, completions), {}) if method is None else method(prompts, completions)


def function(path: str) -> RewardFunction:
    """Return the RewardFunction at ``package.module:name`` or ``file.py:name``.

    Modules are searched among the installed ones first, then in the current directory.

    Raises:
        ConfigError: the module or the name in it does not exist, or the object is not callable.
    """
    module, colon, name = path.rpartition(":")
    if not (module and colon and name):
        raise ConfigError(f"the reward {path!r} must have the form package.module:function or file.py:function")
    try:
        found = operator.attrgetter(name)(_file(Path(module)) if module.endswith(".py") else _module(module))
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(f"the reward {path!r} cannot be imported: {first_sentence(error)}") from error
    if not callable(found):
        raise ConfigError(f"the reward {path!r} is not callable but of type {type(found).__name__}")
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # at the end, so that files of this directory do not hide installed modules
        sys.path.append(here)
    return importlib.import_module(name)


def _file(path: Path) -> ModuleType:
    name = f"rlhf_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look up their annotations here
    spec.loader.exec_module(module)
    return module


class OverdueError(BaseException):
    """A call takes too long; not an Exception, so that a function does not catch it as the failure of one row."""


def guarded(own: RewardFunction, name: str, timeout: float | None = None) -> RewardFunction:
    """Return a user's function as a RewardFunction that raises only RlhfErrors; ``name`` is its setting and path.

    An exception is raised as a TrainingError with the first row on which the function fails. A call of more than
    ``timeout`` seconds is interrupted, and raised as one with its rows. Calls are made in the thread of the caller,
    since connections, CUDA devices and alarms of a function may belong to it; only the main thread is interrupted.
    """

    def call(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        if timeout is None:
            return own(prompts, completions)
        begun = time.monotonic()
        with time_limit(timeout, OverdueError):
            found = own(prompts, completions)
        if time.monotonic() - begun > timeout:  # it has caught the error, or replaced the alarm
            raise OverdueError
        return found

    def reward(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        try:
            return call(prompts, completions)
        except RlhfError:
            raise
        except OverdueError:
            raise TrainingError(
                f"{name} took more than timeout={timeout:g} seconds for {_rows(completions)}: fix it, or set a longer "
                "timeout"
            ) from None
        except Exception as error:
            row = _first_failure(call, prompts, completions)
            raise TrainingError(
                f"{name} failed on a batch of {plural(len(completions), 'completion')}{row} "
                f"({type(error).__name__}: {first_sentence(error)}): fix it, HYDRA_FULL_ERROR=1 shows the traceback"
            ) from error

    return reward


def _rows(completions: Sequence[str]) -> str:
    """Return the number of completions with the first and the last one, for a message."""
    last = len(completions) - 1
    to = f" to {last} ({shown(completions[last])})" if last else ""
    return f"{plural(len(completions), 'completion')}, row{'s' if last else ''} 0 ({shown(completions[0])}){to}"


def _first_failure(own: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[str]) -> str:
    """Return the first completion on which ``own`` fails, found by bisection, as a clause; empty if no half fails."""
    first, end = 0, len(completions)
    while end - first > 1:
        middle = (first + end) // 2
        for half in (slice(first, middle), slice(middle, end)):
            try:
                own(prompts[half], completions[half])
            except (Exception, OverdueError):
                first, end = half.start, half.stop
                break
        else:
            return ""
    return f", first on row {first} ({shown(completions[first])})"


def checked(scores: Sequence[float], completions: Sequence[str], name: str = "the reward") -> list[float]:
    """Return ``scores`` as floats if they are a list, tuple or array with one finite number per completion.

    Other iterables are rejected: those of a mapping would be its keys, those of a string its characters.

    Args:
        scores: (N,), numbers or 0-dimensional arrays.
        completions: (N,), the scored completions.
        name: the reward, for the message.

    Raises:
        TrainingError: there is not one finite number per completion; the message has the first row without one.
    """
    return [_number(score, row, completions, name) for row, score in enumerate(_listed(scores, completions, name))]


def checked_or_none(scores: Sequence[float | None], completions: Sequence[str], name: str) -> list[float | None]:
    """Return ``checked`` scores, in which None is kept: the reward does not apply to that completion."""
    given = enumerate(_listed(scores, completions, name))
    return [None if score is None else _number(score, row, completions, name) for row, score in given]


def _listed(scores: Any, completions: Sequence[str], name: str) -> list:
    """Return ``scores``, one per completion, as a list."""
    listed = scores.tolist() if hasattr(scores, "tolist") else scores  # an array or a tensor
    if not isinstance(listed, list | tuple):
        raise TrainingError(f"{name} returned {repr(scores)[:80]}: it must return {FORM}")
    if len(listed) != len(completions):
        counts = f"{plural(len(listed), 'score')} for {plural(len(completions), 'completion')}"
        raise TrainingError(f"{name} returned {counts}: it must return {FORM}")
    return [score.item() if getattr(score, "shape", None) == () else score for score in listed]


def _number(given: Any, row: int, completions: Sequence[str], name: str) -> float:
    at = f"row {row} ({shown(completions[row])})"
    if not isinstance(given, Real):
        raise TrainingError(f"{name} returned {repr(given)[:80]} for {at}: it must return {FORM}")
    score: Any = given
    number = math.inf if isinstance(score, int) and abs(score) > 10**300 else float(score)
    if not math.isfinite(number):
        raise TrainingError(f"{name} scored {at} as {number}: scores must be finite numbers")
    return number
