"""One file a stage. ``execute`` runs the one that the settings name."""

import errno
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf import launch, world
from rlhf.config import Settings, TrackerKind, TrainedStage
from rlhf.content import content, difference
from rlhf.directory import partial
from rlhf.errors import ConfigError, RlhfError, RunError
from rlhf.follower import begin
from rlhf.manifest import read_manifest
from rlhf.parents import find_parents
from rlhf.progress import console
from rlhf.run import Run, note_end, recorded


def execute(settings: Settings, directory: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Run ``settings.stage`` into ``directory`` and return its final metrics.

    Everything that can be refused is refused before torch is imported.

    Raises:
        RlhfError: the settings, the parents, the data or the directory do not allow it.
    """
    name = settings.stage.name
    if name == "status":
        from rlhf.stages import status

        status.run(settings, overrides)
        return {}
    _check_tracker(settings)
    finished = read_manifest(directory)
    if finished is not None and settings.resume and read_manifest(partial(directory)) is None:
        if reason := difference(finished["content"], content(settings, find_parents(settings, overrides))):
            raise RunError(f"{directory} is finished and cannot be resumed, {reason}: overwrite=true replaces it")
        console.print(f"{directory} is finished: there is nothing to resume")
        return finished["metrics"]
    if not settings.stage.shared and world.started():
        raise ConfigError(f"stage={name} runs in one process, and {world.size()} were started: leave torchrun out")
    if settings.stage.shared:
        world.check_strategy(settings.hardware)
        if world.asked(settings.hardware) > 1 and not world.started():
            return _together(settings, directory, overrides)
    return _perform(settings, directory, overrides)


def _together(settings: Settings, directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Run a stage in several processes, after everything was checked that can be checked here."""
    Run.check(directory, settings, overrides)
    try:
        return launch.start(_perform, settings, directory, list(overrides), hardware=settings.hardware)
    except RlhfError as error:
        note_end(directory, f"{type(error).__name__}: {error}")
        raise


def _perform(settings: Settings, directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Run a stage in this process, which may be one of several."""
    name = settings.stage.name
    with world.one_speaks():
        run = begin(directory, settings, overrides)
        with recorded(run), _disk_space(directory):
            _prepare(settings, run)
            if settings.resume and not run.resumed:
                found = f"there is no interrupted run in {directory} to resume, so it starts from the beginning"
                console.print(f"{name}: {found}")
            metrics = importlib.import_module(f"rlhf.stages.{name}").run(settings, run)
            run.finish(metrics)
    return metrics


def _check_tracker(settings: Settings) -> None:
    kind = settings.tracker.kind
    if kind is not TrackerKind.none and importlib.util.find_spec(kind.value) is None:
        raise ConfigError(f"tracker={kind.value} needs a package that is not installed: pip install {kind.value}")


def _prepare(settings: Settings, run: Run) -> None:
    """Meet the other processes, seed every generator, set the threads, open the tracker; the screen is our bars'."""
    import datasets
    import torch
    import transformers
    from accelerate.state import AcceleratorState

    from rlhf import precision
    from rlhf.tracking import open_tracker

    # In one process with other stages, a stage would go on with the device and the precision of the one before.
    AcceleratorState._reset_state(reset_partial_state=True)
    datasets.disable_progress_bars()
    datasets.disable_caching()  # of what a trainer maps; rlhf.data.cache keeps what is worth keeping
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(settings.seed)
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    world.join(settings.hardware)
    run.manifest = world.told(run.manifest)
    if isinstance(settings.stage, TrainedStage):
        precision.check(settings)
        run.manifest["hardware"]["autocast"] = precision.autocasts(settings)
        console.print(precision.told(settings), highlight=False)
    if settings.tracker.kind is not TrackerKind.none and world.is_main():
        run.track(open_tracker(settings, run))


@contextmanager
def _disk_space(directory: Path) -> Iterator[None]:
    """Tell a full disk in one sentence. safetensors raises an error of its own kind, known by its text."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "No space left on device" in str(error):
            raise RunError(
                f"the disk is full while writing {directory}: free some space, or give checkpoints=<another disk>"
            ) from error
        raise
