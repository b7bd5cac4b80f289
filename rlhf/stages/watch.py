"""Show all runs below a folder on a live page: curves, samples, diagnoses and the time left.

    python -m rlhf stage=watch                           # a page on this machine
    python -m rlhf stage=watch stage.file=watch.html     # a file that loads itself again, without a server
    python -m rlhf stage=ppo "curves=[svg,html]"         # a run that writes this file itself, in the folder of the run

It reads the files of the runs, on this machine or on a shared disk, and changes none of them. Ctrl-C ends.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rlhf.config import Settings, WatchStage
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.evaluation.reporting import live


def run(settings: Settings, overrides: Sequence[str] = ()) -> None:
    """Serve the page, or rewrite the file, until Ctrl-C."""
    stage = settings.stage_as(WatchStage)
    folder = Path(stage.folder)
    if not folder.is_dir():
        raise ConfigError(f"stage.folder={stage.folder} does not exist: train a stage first, or name another folder")
    with suppress(KeyboardInterrupt):
        serve(folder, stage) if stage.file is None else rewrite(folder, Path(stage.file), stage.every)


def serve(folder: Path, stage: WatchStage) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from rlhf.labeling import watch_page
    except ImportError:
        raise ConfigError(
            "stage=watch needs a web server: pip install 'rlhf[label]', or set stage.file=watch.html"
        ) from None
    try:
        watch_page.serve(folder, stage.every, stage.port, lambda address: say(f"Open {address}; Ctrl-C ends"))
    except OSError as error:
        raise ConfigError(f"stage.port={stage.port} is not available ({error.strerror}): set another port") from error


def rewrite(folder: Path, file: Path, every: float) -> None:
    """Write the file, and again after ``every`` seconds, until Ctrl-C."""
    told = False
    while True:
        try:
            live.write(folder, file, every)
        except OSError as error:
            raise ConfigError(f"stage.file={file} cannot be written ({error.strerror}): name another file") from error
        if not told:
            say(f"Open {file} in a browser; it is rewritten every {every:g} seconds, Ctrl-C ends")
        told = True
        time.sleep(every)


def say(sentence: str) -> None:
    """Print a line without markup or wrapping."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
