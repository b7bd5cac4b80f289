"""How an unfinished run ended, in its run.json."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlhf.errors import RunError
from rlhf.runs.directory import claim, partial
from rlhf.runs.run import Run
from rlhf.storage.manifest import read_manifest


@contextmanager
def recorded(run: Run) -> Generator[Run]:
    """Record in run.json how an unfinished run ended."""
    try:
        yield run
    except KeyboardInterrupt:
        run.stop("interrupted", "interrupted from the keyboard")
        raise
    except BaseException as error:
        run.stop("failed", f"{type(error).__name__}: {error}")
        raise


def note_end(directory: Path, reason: str) -> None:
    """Record the reason why an unfinished run failed, from another process than the one that wrote it."""
    work = partial(directory)
    manifest = read_manifest(work)
    if manifest is not None and manifest.get("status") in ("running", "failed"):
        with suppress(OSError, RunError), claim(work, directory) as lock:
            Run(directory, work, manifest, {}, lock).stop("failed", reason)
