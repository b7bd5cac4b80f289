"""The interface of rewards: ``(prompts, completions) -> one score per completion``, text in, numbers out."""

import importlib
import importlib.util
import math
import operator
import sys
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from rlhf.config.library_errors import first_sentence
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, RlhfError, TrainingError


class RewardFunction(Protocol):
    """A callable that scores completions."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]: ...


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


def called(path: str) -> RewardFunction:
    """Return ``function(path)`` as a RewardFunction that raises its exceptions as a TrainingError with its path.

    Raises:
        ConfigError: see ``function``.
    """
    own = function(path)

    def reward(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        try:
            return own(prompts, completions)
        except RlhfError:
            raise
        except Exception as error:
            raise TrainingError(
                f"the reward {path!r} failed on a batch of {len(completions)} completions "
                f"({type(error).__name__}: {first_sentence(error)}): fix it, HYDRA_FULL_ERROR=1 shows the traceback"
            ) from error

    return reward


def checked(scores: Sequence[float], completions: Sequence[str], name: str = "the reward") -> list[float]:
    """Return ``scores`` as floats if they are a list, tuple or array with one finite number per completion.

    Other iterables are rejected: those of a mapping would be its keys, those of a string its characters.

    Args:
        scores: (N,), numbers or 0-dimensional arrays.
        completions: (N,), the scored completions.
        name: the reward, for the message.

    Raises:
        TrainingError: there is not one finite number per completion.
    """
    given: Any = scores
    listed = given.tolist() if hasattr(given, "tolist") else given  # an array or a tensor
    scalars = [_scalar(score) for score in listed] if isinstance(listed, list | tuple) else [None]
    if not all(isinstance(score, Real) for score in scalars):
        raise TrainingError(
            f"{name} returned {repr(scores)[:80]}: it must return a list, tuple or array of numbers, one per completion"
        )
    numbers = [math.inf if isinstance(score, int) and abs(score) > 10**300 else float(score) for score in scalars]
    if len(numbers) != len(completions):
        raise TrainingError(f"{name} returned {len(numbers)} scores for {len(completions)} completions")
    for score, completion in zip(numbers, completions, strict=True):
        if not math.isfinite(score):
            raise TrainingError(f"{name} scored {completion[:80]!r} as {score}: scores must be finite numbers")
    return numbers


def _scalar(score: Any) -> Any:
    """Return the number in a 0-dimensional array; anything else unchanged."""
    return score.item() if getattr(score, "shape", None) == () else score
