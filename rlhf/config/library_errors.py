"""Report errors of a library as mistakes in the settings that were passed to it."""

import re
import textwrap
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rlhf.errors import ConfigError, RlhfError
from rlhf.storage.paths import PACKAGE

# Errors of a constructor for invalid arguments. RuntimeError is excluded, since out of memory is one.
REFUSALS = (ValueError, TypeError, KeyError, ImportError)


@contextmanager
def blame(key: str, until: Callable[[], bool] = lambda: False) -> Generator[None]:
    """Turn an error that a library raises while it constructs an object from the settings ``key`` into a ConfigError.

    Only construction is covered: once ``until()`` is true, errors pass through unchanged. An error raised by a line
    of this package is a bug of the package and passes through, too.

    Raises:
        ConfigError: the library rejected the settings.
    """
    try:
        yield
    except RlhfError:
        raise
    except Exception as error:
        reason = error.__cause__ if isinstance(error.__cause__, REFUSALS) else error
        if until() or not isinstance(reason, REFUSALS) or _raised_here(reason):
            raise
        raise ConfigError(f"{key} cannot be used ({first_sentence(reason)}): correct it or leave it out") from error


def _raised_here(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error's text on one line; the key of a KeyError is called unknown."""
    text = f"unknown key {error}" if isinstance(error, KeyError) else str(error)
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(text.split()))[0].rstrip(".")
    return textwrap.shorten(sentence, 400, placeholder=" ...") or type(error).__name__
