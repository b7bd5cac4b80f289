"""Everything that can go wrong through no fault of the code. Each message is one sentence that names the remedy.

    RlhfError
    ├── ConfigError        a setting is missing, of the wrong type, out of range or contradicts another one
    ├── LineageError       a parent is missing, unfinished, of the wrong stage or does not fit
    ├── RunError           a run directory cannot be written: finished already, in use, no space left
    ├── DataError          a row, a file or a whole data set cannot be used
    ├── ModelError         a model or tokenizer cannot be found, read or combined
    ├── HubError           the Hub cannot be reached, refuses, or what it holds cannot be used
    └── TrainingError      training cannot go on: a loss or a score is not a number, an invariant is broken

The command line prints the message and exits with 1; a traceback always means a defect in this package.
"""


class RlhfError(Exception):
    """Base class of every error that this package raises on purpose.

    A message may quote what somebody else wrote: control characters, which a terminal would obey, become spaces.
    """

    def __init__(self, *arguments: object):
        super().__init__(*(printable(one) if isinstance(one, str) else one for one in arguments))


def printable(text: str) -> str:
    """Return ``text`` on one line, with a space for each control character."""
    return "".join(char if char.isprintable() else " " for char in text)


class ConfigError(RlhfError):
    """A setting is missing, of the wrong type, out of range or contradicts another one."""


class LineageError(RlhfError):
    """A parent run is missing, unfinished, of the wrong stage, or does not fit what starts from it."""


class RunError(RlhfError):
    """A run directory cannot be written: it is finished already, in use, or the disk is full."""


class DataError(RlhfError):
    """A row, a file or a whole data set cannot be used; the message names file, line and field."""


class ModelError(RlhfError):
    """A model or a tokenizer cannot be found, read, or combined with another one."""


class HubError(RlhfError):
    """The Hub cannot be reached, refuses, or what it holds or would be given cannot be used."""


class TrainingError(RlhfError):
    """Training cannot go on: a loss or a score is not a number, or an invariant does not hold."""
