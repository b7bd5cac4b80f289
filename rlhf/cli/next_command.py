"""The next command, printed at the end of a stage and below the tree of runs; it runs as printed."""

import json
import shlex
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlhf.cli.compose import composed
from rlhf.config import PROGRESSION, STAGES, JudgeKind, Settings
from rlhf.config.stage import POLICIES
from rlhf.data.overview import kinds_at
from rlhf.errors import RlhfError
from rlhf.evaluation.sweeps.jobs import records
from rlhf.evaluation.sweeps.ladder import PAGE
from rlhf.runs.commands import command, line, setting
from rlhf.runs.directory import partial, saved
from rlhf.runs.identity import content
from rlhf.runs.interrupted import resumable
from rlhf.runs.parents import find_parents, of_the_chain
from rlhf.runs.run import Run, runs
from rlhf.storage.manifest import read_manifest

Candidate = tuple[str, list[str]]  # a stage and further settings
MISTAKES = (RlhfError, OmegaConfBaseException, HydraException)
SWEEP = "stage.beta=0.05,0.1,0.3"


def next_command(settings: Settings, overrides: Sequence[str]) -> str:
    """Return the command that follows ``overrides`` in the same chain and whose parents and data exist.

    After stage=status the chain is that of the latest run, unless the settings name one.
    """
    stage, kept = settings.stage.name, of_the_chain(overrides)
    if stage == "status":
        stage, kept = latest(settings, kept)
        found = _composed("status", kept)
        if found is None:  # the run has settings that no longer exist
            stage, kept, found = None, of_the_chain(overrides), settings
        settings = found
    place = Path(settings.checkpoints) / settings.name
    for name, more in candidates(stage, settings, overrides):
        if not more and not partial(place / name).exists() and not STAGES[name].repeats and finished(place / name):
            continue  # as `ready` would find, without composing its settings, which takes half a second
        changed = {one.partition("=")[0] for one in more}
        shared = [one for one in kept if one.partition("=")[0] not in changed]
        if (found := ready(name, [*shared, *more])) is not None:
            return found
    swept = next(records(place / "dpo"), None) is not None
    if not swept and ready("dpo", ["overwrite=true", *kept]) is not None:
        return command("dpo", [SWEEP, *kept], multirun=True)
    return line(one for one in kept if one.startswith(("-", "checkpoints=")))


def finished(place: Path) -> bool:
    """Return whether ``place`` has a run."""
    return read_manifest(place) is not None


def latest(settings: Settings, kept: Sequence[str]) -> Candidate | tuple[None, Sequence[str]]:
    """Return the stage of the chain's latest run, or None, and the settings that the whole chain shares."""
    root = Path(settings.checkpoints)
    found = [run for run in runs(root, []) if _in_chain(run, root)] if root.is_dir() else []
    named = [key for key in ("name", "experiment") if any(one.startswith(f"{key}=") for one in kept)]
    if named:
        found = [run for run in found if run.manifest["name"] == settings.name]
    if not found:
        return None, kept
    own = {one.partition("=")[0] for one in kept}
    recorded = of_the_chain(shlex.split(found[-1].manifest["command"] or "")[3:])
    return found[-1].stage, [*(one for one in recorded if one.partition("=")[0] not in own), *kept]


def _in_chain(run: Run, root: Path) -> bool:
    """Return whether a run is a stage of the progression and not a job of a sweep."""
    return run.stage in PROGRESSION and run.directory == root / run.manifest["name"] / run.stage


def candidates(stage: str | None, settings: Settings, overrides: Sequence[str]) -> Iterator[Candidate]:
    """Yield the stages that may follow ``stage``, best first."""
    place = Path(settings.checkpoints) / settings.name
    if stage == "sample":
        yield from labeling(place)
    if stage == "ladder" and (page := place / "ladder" / PAGE / "ladder.json").is_file():
        yield "publish", [setting("stage.run", json.loads(page.read_text(encoding="utf-8"))["best"])]
    if stage == "label":
        yield "reward", labeled(place)
    chain = [one for one in PROGRESSION[:-1] if one != "base" or settings.model.path is None]
    if not any((place / one).exists() for one in PROGRESSION) and stage is None:
        yield "progression", []
    here = following(stage, chain, place)
    policy = [one for one in overrides if one.startswith("stage.policy=")]
    for one in chain[here:] + [one for one in chain[:here] if one in ("reward", "dpo", "ppo") and one != stage]:
        yield one, []
        if policy and one != "sft":
            yield one, policy
    yield "compare", []
    if stage in POLICIES:
        if not compared(place, stage):
            yield "compare", ["overwrite=true"]
        yield "sample", [setting("stage.policy", str(place / stage))]
    own = settings.model.path is not None and Path(settings.model.path).exists()
    if not own and not finished(place / "publish"):  # the origin of a local model is unknown
        for one in filter(lambda one: finished(place / one), reversed(POLICIES)):
            yield "publish", [setting("stage.run", str(place / one))]


def following(stage: str | None, chain: Sequence[str], place: Path) -> int:
    """Return the place in ``chain`` of the first stage after ``stage``, or after the last finished one.

    A comparison ends the chain: if the policies start from runs in other folders, base and SFT are not missing.
    """
    if stage in chain:
        return chain.index(stage) + 1
    if finished(place / "compare"):
        return len(chain)
    return max((n + 1 for n, one in enumerate(chain) if finished(place / one)), default=0)


def compared(place: Path, stage: str) -> bool:
    """Return whether the comparison has the present run of ``stage``."""
    run, comparison = read_manifest(place / stage), read_manifest(place / "compare") or {"parents": {}}
    digests = [record["digest"] for record in comparison["parents"].values()]
    return run is not None and run.get("weights") is not None and run["weights"] in digests


def labeling(place: Path) -> Iterator[Candidate]:
    """Yield ways to label the responses of stage=sample: by the chain's reward model, else by people."""
    if (read_manifest(place / "sample") or {"metrics": {}})["metrics"].get("responses", 0) < 2:
        return
    if finished(place / "reward"):
        yield "label", ["judge=reward", setting("judge.model", str(place / "reward"))]
    if find_spec("starlette") is not None:
        yield "label", []


def labeled(place: Path) -> list[str]:
    """Return the settings that train another reward model, on the pairs of stage=label."""
    manifest = read_manifest(place / "sample") or {"parents": {}}
    start = manifest["parents"].get("policy", {}).get("path", place / "sft")
    return [
        setting("name", f"{place.name}-labeled"),
        setting("stage.policy", start),
        setting("data.path", str(place / "label" / "preferences.jsonl")),
    ]


def ready(stage: str, overrides: Sequence[str]) -> str | None:
    """Return the command of a stage if it can start: parents and data exist, and its directory is free."""
    settings = _composed(stage, overrides)
    if settings is None or stage == "progression":
        return None if settings is None else command(stage, overrides)
    try:
        parents = find_parents(settings)
        if not _readable(settings, parents):
            return None
        place = Path(settings.checkpoints) / settings.name / stage
        if saved(partial(place)) is not None:
            free = resumable(place, content(settings, parents)) and not settings.overwrite
            return command(stage, [*overrides, "resume=true"]) if free else None
        exists = finished(place)
    except RlhfError:
        return None
    taken = exists and not (settings.overwrite or settings.stage.repeats)
    return None if taken else command(stage, overrides)


def _composed(stage: str, overrides: Sequence[str]) -> Settings | None:
    """Return the settings of a command, or None if they are invalid."""
    try:
        return composed([f"stage={stage}", *overrides])
    except MISTAKES:
        return None


def _readable(settings: Settings, parents: dict) -> bool:
    """Return whether the data has the rows that the stage reads, and a comparison has a judge or a reward."""
    data, stage = settings.data, settings.stage
    if stage.name == "compare" and data.gold is None and "reward" not in parents:
        return settings.judge.kind is not JudgeKind.none
    held = None if data.path is None else kinds_at(data)
    return all(kind in held if held is not None else getattr(data, kind).paths for kind in stage.reads[:1])
