"""What a library refuses, told as a mistake in the settings that it was given."""

import re
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.errors import ConfigError, RlhfError
from rlhf.storage.paths import PACKAGE

# How libraries refuse what they are constructed from. A RuntimeError is none: memory that does not suffice is one.
REFUSALS = (ValueError, TypeError, KeyError, ImportError)


@contextmanager
def blame(key: str, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Tell what a library finds wrong with the settings ``key`` while it constructs something from them.

    For construction alone, which ends where ``until`` says so. An error that is raised in a line of this package is
    a defect of ours whatever its type, and stays a traceback.
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
    """The first sentence of an error's text, on one line; of a KeyError, whose text is the key alone, its name too."""
    text = f"unknown key {error}" if isinstance(error, KeyError) else str(error)
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(text.split()))[0].rstrip(".")
    return textwrap.shorten(sentence, 400, placeholder=" ...") or type(error).__name__
