"""One file per stage. ``execute`` runs the stage that the settings name."""

import errno
import importlib
import importlib.util
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.config import JudgeKind, PublishStage, ScoredStage, Settings, Stage, TrackerKind, TrainedStage
from rlhf.console import console
from rlhf.data.reading import announced
from rlhf.errors import ConfigError, RlhfError, RunError
from rlhf.hardware import collector, launch, ranks
from rlhf.publishing import lineage
from rlhf.runs import headlines
from rlhf.runs.directory import partial, saved
from rlhf.runs.endings import note_end, recorded
from rlhf.runs.identity import Origin, difference
from rlhf.runs.interrupted import check_start, settle
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json
from rlhf.storage.manifest import read_manifest

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TORCH = "inline_container.cc"  # torch's writer: its message names neither the file nor the cause


def execute(
    settings: Settings, directory: Path, overrides: Sequence[str] = (), origin: Origin | None = None
) -> dict[str, float]:
    """Run ``settings.stage`` in ``directory`` and return its final metrics.

    Settings, parents and directory are checked before torch is imported. A caller that has the ``origin`` already
    passes it, so that it is not computed twice.

    Raises:
        RlhfError: the settings, the parents, the data or the directory do not allow the run.
        KeyboardInterrupt: with ``directory`` and the name of the checkpoint to resume from, or None.
    """
    try:
        metrics = _execute(settings, directory, overrides, origin)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(directory, saved(partial(directory))) from interruption
    if settings.stage.recorded and ranks.is_main():
        last = headlines.ending(directory, Run.open(directory).manifest)
        console.print(last, markup=False, highlight=False, soft_wrap=True)
    return metrics


def _execute(settings: Settings, directory: Path, overrides: Sequence[str], origin: Origin | None) -> dict[str, float]:
    name = settings.stage.name
    announced.clear()
    if not settings.stage.recorded:
        if ranks.started():
            raise ConfigError(f"stage={name} runs in one process: start it without torchrun")
        with collector.paused():
            stage = importlib.import_module(f"rlhf.stages.{name}")
        stage.run(settings, overrides)
        return {}
    _check_tracker(settings)
    origin = origin or Origin.of(settings, overrides)
    if settings.resume and (finished := _finished(directory, origin)) is not None:
        return finished["metrics"]
    if name == "publish":  # refuse an unknown root before torch is imported
        stage = settings.stage_as(PublishStage)
        lineage.rooted(lineage.chain(origin.parents["run"]), stage.run, stage.base)
    if not settings.stage.shared and ranks.started():
        raise ConfigError(
            f"stage={name} runs in one process, and {ranks.size()} were started: start it without torchrun"
        )
    if settings.stage.shared:
        ranks.check_strategy(settings.hardware)
        if ranks.asked(settings.hardware) > 1 and not ranks.started():
            return _together(settings, directory, overrides, origin)
    return _perform(settings, directory, overrides, origin)


def _finished(directory: Path, origin: Origin) -> dict[str, Any] | None:
    """Return run.json of a finished run, or None. A run that was killed before its last move is moved into place.

    Raises:
        RunError: the run has other settings.
    """
    left, finished = read_manifest(partial(directory)), read_manifest(directory)
    if left is not None:
        finished = left if left["status"] == "finished" else None
    if finished is None:
        return None
    if reason := difference(finished["content"], origin.content):
        raise RunError(f"{directory} is finished and cannot be resumed, {reason}: overwrite=true replaces it")
    if left is None:
        console.print(f"{directory} is finished: there is nothing to resume")
    elif ranks.is_main():
        settle(directory)
        console.print(f"{directory} was finished before it was killed, and is now in its place")
    return finished


def _together(settings: Settings, directory: Path, overrides: Sequence[str], origin: Origin) -> dict[str, float]:
    """Run a stage in several processes, after all checks that this process can make."""
    check_start(directory, settings, origin.content, overrides)
    try:
        return launch.start(_perform, settings, directory, list(overrides), origin, hardware=settings.hardware)
    except RlhfError as error:
        note_end(directory, f"{type(error).__name__}: {error}")
        raise


def _perform(settings: Settings, directory: Path, overrides: Sequence[str], origin: Origin) -> dict[str, float]:
    """Run a stage in this process, which may be one of several."""
    name = settings.stage.name
    with ranks.one_speaks():
        with collector.paused():
            from rlhf.modeling import loading  # imports torch

            stage = importlib.import_module(f"rlhf.stages.{name}")
        run = Run.start(directory, settings, overrides, origin)
        with recorded(run), _disk_space(directory):
            _prepare(settings, run)
            _check_functions(settings)
            for parent in run.parents.values():
                loading.check(parent, settings)
            if settings.resume and not run.resumed:
                console.print(f"{name}: {directory} has no checkpoint to resume from, so it starts from the beginning")
            if "html" in settings.curves and isinstance(settings.stage, TrainedStage) and ranks.is_main():
                from rlhf.evaluation.reporting import live  # imports matplotlib

                run.track(live.Written(directory))
            metrics = stage.run(settings, run)
            if isinstance(settings.stage, TrainedStage) and settings.curves and ranks.is_main():
                from rlhf.evaluation.reporting import curves  # imports matplotlib

                curves.write(run.work, settings.curves, str(directory))
            run.finish(metrics)
    return metrics


def inner(run: Run, settings: Settings, title: str, stage: Stage, **data: Any) -> Parent:
    """Run ``stage`` in the directory ``title`` inside ``run``, and return it as the parent of later stages.

    If ``run`` is resumed, a finished stage is kept, and an unfinished one is continued. ``data`` replaces settings of
    ``settings.data``. The stage is not tracked, judged or measured, which is left to ``run``.
    """
    place = run.work / title
    left = ranks.told(read_manifest(place) is not None or saved(partial(place)) is not None)
    own = replace(
        settings,
        name=os.path.relpath(place, settings.checkpoints),
        overwrite=False,
        resume=left,
        objective=None,
        judge=replace(settings.judge, kind=JudgeKind.none),
        tracker=replace(settings.tracker, kind=TrackerKind.none),
        eval_set=replace(settings.eval_set, prompts=0),
        data=replace(settings.data, **data),
        stage=stage,
    )
    _execute(own, place, (), None)
    ranks.wait()
    if ranks.is_main():
        run.scratch.mkdir(exist_ok=True)
        write_json(run.scratch / f"{title.replace('/', '-')}.json", {"finished": title})
    return Parent("policy", str(place), Run.open(place).manifest)


def adopt(run: Run, settings: Settings, policy: Parent) -> None:
    """Save the policy of a stage inside ``run`` as the policy of ``run``, with its adapter merged."""
    from rlhf.modeling import loading

    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    run.record_tokenizer(tokenizer)
    loading.save(loading.load_policy(policy, settings.model, tokenizer), tokenizer, run.model, run["policy"])
    run.adopt()


def _check_functions(settings: Settings) -> None:
    """Import the rewards and the judge that are functions of the user, before data are read.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    from rlhf.rewards import function

    stage = settings.stage
    terms = stage.roles().values() if isinstance(stage, ScoredStage) else []
    names = [*(term.function for term in terms), settings.judge.function if stage.judged else None]
    for name in filter(None, names):
        function(name)


def _check_tracker(settings: Settings) -> None:
    kind = settings.tracker.kind
    if kind is not TrackerKind.none and importlib.util.find_spec(kind.value) is None:
        raise ConfigError(f"tracker={kind.value} needs a package that is not installed: pip install {kind.value}")


def _prepare(settings: Settings, run: Run) -> None:
    """Free memory, join the other processes, seed all generators, set the threads, open the tracker, silence bars."""
    import datasets
    import torch
    import transformers
    from accelerate.state import AcceleratorState
    from transformers.utils.logging import disable_progress_bar

    from rlhf.hardware import memory, precision
    from rlhf.runs.trackers import open_tracker

    # Otherwise a stage keeps the memory, the device and the precision of an earlier stage in the same process.
    memory.release()
    AcceleratorState._reset_state(reset_partial_state=True)
    datasets.disable_progress_bars()
    datasets.disable_caching()  # of trainers; rlhf.data.cache caches the token ids
    disable_progress_bar()
    transformers.set_seed(settings.seed)
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    ranks.join(settings.hardware)
    run.manifest = ranks.told(run.manifest)
    if isinstance(settings.stage, TrainedStage):
        precision.check(settings)
        run.manifest["hardware"]["autocast"] = precision.autocasts(settings)
        console.print(precision.told(settings), highlight=False)
    if settings.tracker.kind is not TrackerKind.none and ranks.is_main():
        run.track(open_tracker(settings, run))


@contextmanager
def _disk_space(directory: Path) -> Generator[None]:
    """Raise RunError if the disk is full. Errors of safetensors and torch have no errno: their text is matched."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in FULL or any(
            text in str(error) for text in (*map(os.strerror, FULL), TORCH)
        ):
            raise RunError(
                f"the disk is full while writing {directory}: free some space or quota, or set "
                "checkpoints=<folder on another disk>"
            ) from error
        raise
