"""Errors that are not defects of this package. Each message is one sentence that names the remedy.

    RlhfError
    ├── ConfigError        a setting is missing, of the wrong type, out of range or contradicts another one
    ├── LineageError       a parent is missing, unfinished, of the wrong stage or does not fit
    ├── RunError           a run directory cannot be written: already finished, in use, no space left
    ├── DataError          a row, a file or a whole data set cannot be used
    ├── ModelError         a model or tokenizer cannot be found, read or combined
    ├── HubError           the Hub cannot be reached, rejects a request, or has files that cannot be used
    └── TrainingError      training cannot continue: a loss or a score is not a number, an invariant is broken
        └── RewardError    a reward did not score a batch

The command line prints the message and exits with 1; a traceback means a defect in this package.
"""


class RlhfError(Exception):
    """Base class of the errors that this package raises on purpose.

    A message may quote foreign text, so control characters become spaces.
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
    """A run directory cannot be written: it is already finished, in use, or the disk is full."""


class DataError(RlhfError):
    """A row, a file or a whole data set cannot be used; the message names file, line and field."""


class ModelError(RlhfError):
    """A model or a tokenizer cannot be found, read, or combined with another one."""


class HubError(RlhfError):
    """The Hub cannot be reached, rejects a request, or files to download or upload cannot be used."""


class TrainingError(RlhfError):
    """Training cannot continue: a loss or a score is not a number, or an invariant does not hold."""


class RewardError(TrainingError):
    """A reward did not score a batch, on this rank or on another one; nothing was learned from the batch."""
