"""What a reward is: ``(prompts, completions) -> one score per completion``, text in, numbers out."""

import importlib
import importlib.util
import math
import operator
import sys
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Protocol

from rlhf.config.library_errors import first_sentence
from rlhf.data.render import Prompt
from rlhf.errors import ConfigError, RlhfError, TrainingError


class RewardFunction(Protocol):
    """Anything that scores completions."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]: ...


def function(path: str) -> RewardFunction:
    """The RewardFunction that ``package.module:name`` or ``file.py:name`` points to.

    A module is looked for among the installed ones and then in the current directory, whichever way Python was started.

    Raises:
        ConfigError: there is no such module or no such name in it, or what it names cannot be called.
    """
    module, colon, name = path.rpartition(":")
    if not (module and colon and name):
        raise ConfigError(f"the reward {path!r} must have the form package.module:function or file.py:function")
    try:
        found = operator.attrgetter(name)(_file(Path(module)) if module.endswith(".py") else _module(module))
    except Exception as error:  # a module of the user's own may raise anything
        raise ConfigError(f"the reward {path!r} cannot be imported: {first_sentence(error)}") from error
    if not callable(found):
        raise ConfigError(f"the reward {path!r} is no function but a {type(found).__name__}")
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # last, so that no file of this directory hides an installed module
        sys.path.append(here)
    return importlib.import_module(name)


def _file(path: Path) -> ModuleType:
    name = f"rlhf_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass of the file looks for its own annotations
    spec.loader.exec_module(module)
    return module


def called(path: str) -> RewardFunction:
    """``function(path)``, whose own failures are told with its path: they are no defects of this package.

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
                f"({type(error).__name__}: {first_sentence(error)}): correct it; HYDRA_FULL_ERROR=1 shows where"
            ) from error

    return reward


def checked(scores: Sequence[float], completions: Sequence[str], name: str = "the reward") -> list[float]:
    """Return ``scores`` as floats if they are a list, tuple or array with one finite number for each completion.

    Anything else that Python can iterate over is refused: of a mapping it would be the keys, of a text the digits.

    Args:
        scores: (N,), numbers or arrays without an axis.
        completions: (N,), what was scored.
        name: whose scores they are, for the message.

    Raises:
        TrainingError: they are no such numbers, there are more or fewer, or one is not finite.
    """
    listed = scores.tolist() if hasattr(scores, "tolist") else scores  # an array or a tensor
    scalars = [_scalar(one) for one in listed] if isinstance(listed, list | tuple) else [None]
    if not all(isinstance(one, Real) for one in scalars):
        raise TrainingError(
            f"{name} returned {repr(scores)[:80]}: it must return a list, tuple or array of numbers, one for each "
            "completion"
        )
    numbers = [math.inf if isinstance(one, int) and abs(one) > 10**300 else float(one) for one in scalars]
    if len(numbers) != len(completions):
        raise TrainingError(f"{name} returned {len(numbers)} scores for {len(completions)} completions")
    for score, completion in zip(numbers, completions, strict=True):
        if not math.isfinite(score):
            raise TrainingError(f"{name} scored {completion[:80]!r} as {score}: scores must be finite numbers")
    return numbers


def _scalar(score: object) -> object:
    """Return what an array without an axis holds; anything else as it is."""
    return score.item() if getattr(score, "shape", None) == () else score
