"""The runs behind a comparison: their cost, their training curves, and the results of other seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.errors import RunError
from rlhf.runs.branches import ROLE
from rlhf.runs.headlines import fallen
from rlhf.runs.parents import Parent
from rlhf.runs.run import runs
from rlhf.runs.tree import Line, nested, updates
from rlhf.storage.manifest import read_manifest

Curve = dict[str, tuple[list[float], list[float]]]  # metric -> steps and values


@dataclass
class Record:
    """A run by its run.json and metrics.jsonl; only ``path`` is known for a model that no run of this package trained.

    ``tokens`` are those of the training batches; for PPO, of the sampled responses. ``falls`` are sentences about its
    gold and shadow rewards.
    """

    path: str
    stage: str | None = None
    seconds: float | None = None
    peak_memory_gib: float | None = None
    tokens: int | None = None
    lines: Sequence[dict[str, float]] = ()
    falls: Sequence[str] = ()

    def curve(self) -> Curve:
        """Return each metric with the steps at which it was logged."""
        found: Curve = {}
        for line in self.lines:
            for name, value in line.items():
                if name != "step":
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return found


def record(parent: Parent) -> Record:
    """Return the record of a parent of the comparison.

    Raises:
        RunError: its metrics.jsonl is corrupted.
    """
    manifest = parent.manifest
    if manifest is None:
        return Record(parent.path)
    lines = read_lines(Path(parent.path) / "metrics.jsonl")
    return Record(
        parent.path,
        manifest["stage"],
        manifest.get("seconds"),
        manifest.get("peak_memory_gib"),
        tokens(manifest, lines),
        lines,
        list(map(fallen, manifest.get("falls", ()))),
    )


def read_lines(path: Path) -> list[dict[str, float]]:
    """Return the numbers of each line of a metrics.jsonl; empty if the file does not exist.

    Raises:
        RunError: a line is not a JSON object with a step.
    """
    if not path.is_file():
        return []
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or "step" not in line:
            raise RunError(f"{path}:{number}: the line is corrupted: run its stage again with overwrite=true")
        found.append({name: value for name, value in line.items() if isinstance(value, int | float)})
    return found


def tokens(manifest: Mapping[str, Any], lines: Sequence[dict[str, float]]) -> int | None:
    """Return the tokens of a run: its own count, or for PPO the response tokens of all logged updates."""
    if (counted := manifest["metrics"].get("tokens")) is not None:
        return int(counted)
    lengths = [line["val/response_length"] for line in lines if "val/response_length" in line]
    size = manifest["settings"]["stage"].get("batch_size")
    return round(sum(lengths) * size) if lengths and isinstance(size, int) else None


def previous(name: str, parents: Mapping[str, Parent], columns: Sequence[str]) -> str | None:
    """Return the column that a model was trained from, by its run.json; else the one before it, None for the first.

    A branch comes from the run that it branched from, or from the policy of both if that run is not a column.
    """
    manifest = parents[name].manifest or {"parents": {}}
    branch, origin = (manifest["parents"].get(role, {}) for role in (ROLE, "policy"))
    others = [other for other in columns if other != name]
    found = [other for other in others if "path" in branch and parents[other].path == branch["path"]]
    found += [other for other in others if "digest" in origin and parents[other].digest == origin["digest"]]
    if found:
        return found[0]
    place = list(columns).index(name)
    return columns[place - 1] if place else None


def tree(parents: Mapping[str, Parent], columns: Sequence[str]) -> list[Line]:
    """Return the columns below the runs that they were trained from, which are shown by their paths.

    A run descends from the first parent in its run.json: the policy, the run that it branched from, or the first merged
    model.
    """
    by_path = {parents[name].path: name for name in reversed(columns)}
    by_digest = {parents[name].digest: name for name in reversed(columns)}
    found: dict[str, Any] = {name: parents[name].manifest for name in columns}  # runs by column, the others by path
    above: dict[str, list[str]] = {}
    waiting = list(columns)
    while waiting:
        name = waiting.pop(0)
        record = next(iter((found[name] or {"parents": {}})["parents"].values()), None)
        above[name] = []
        if record is not None:
            origin = by_path.get(record["path"]) or by_digest.get(record.get("digest")) or record["path"]
            above[name].append(origin)
            if origin not in found:
                with suppress(RunError):  # of another version: the comparison does not need it
                    found[origin] = read_manifest(Path(origin))
                found.setdefault(origin, None)
                waiting.append(origin)
    return [Line(level, name, _about(name, parents, found[name])) for name, level in nested(above)]


def _about(name: str, parents: Mapping[str, Parent], manifest: Mapping[str, Any] | None) -> str:
    own = [parents[name].path] if name in parents else []
    return ", ".join([*own, *(updates(manifest) if manifest else [])])


class OverSeeds(NamedTuple):
    """Comparisons of chains that differ in their seed. ``metrics``: model -> name -> mean and standard deviation."""

    seeds: list[int]
    metrics: dict[str, dict[str, tuple[float, float]]]


def over_seeds(patterns: str | None, own: dict[str, Any]) -> OverSeeds | None:
    """Return mean and deviation over this comparison and the finished ones whose directories match ``patterns``.

    The first comparison of each seed counts, this one first. None if there is only one seed.

    Raises:
        RunError: a matching directory is not a finished comparison, or one of other columns.
    """
    found: dict[int, dict[str, Any]] = {own["seed"]: own["models"]}
    for path in sorted(glob(patterns)) if patterns else ():
        manifest = read_manifest(Path(path))
        if manifest is None or manifest.get("status") != "finished" or manifest["stage"] != "compare":
            raise RunError(
                f"stage.seeds={patterns} matches {path}, which is not a finished run of stage=compare: match only those"
            )
        models = json.loads((Path(path) / "metrics.json").read_text(encoding="utf-8"))["models"]
        if set(models) != set(own["models"]):
            raise RunError(
                f"stage.seeds={patterns} matches {path}, whose columns are {', '.join(models)}: "
                f"match only comparisons of {', '.join(own['models'])}"
            )
        found.setdefault(manifest["seed"], models)
    return None if len(found) < 2 else OverSeeds(sorted(found), _spread(list(found.values())))


def _spread(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return mean and standard deviation of the metrics that every run has."""
    spread: dict[str, dict[str, tuple[float, float]]] = {}
    for model, row in runs[0].items():
        for name in row:
            values = [_number(run[model][name]) for run in runs if run[model].get(name) is not None]
            if len(values) == len(runs):
                spread.setdefault(model, {})[name] = (statistics.fmean(values), statistics.stdev(values))
    return spread


def _number(value: float | dict[str, float]) -> float:
    return value["mean"] if isinstance(value, dict) else value


def ppo_runs(folder: Path) -> list[Parent]:
    """Return the finished PPO runs below a folder."""
    return [Parent("ppo", str(found.directory), found.manifest) for found in runs(folder) if found.stage == "ppo"]


def paths(parents: Sequence[Parent], reference: str | None) -> dict[str, Record]:
    """Return path -> record of the PPO runs that started from the model with the digest ``reference``."""
    found: dict[str, Record] = {}
    for parent in parents:
        manifest = parent.manifest
        if manifest is None or manifest["stage"] != "ppo":
            continue
        if manifest["parents"].get("policy", {}).get("digest") == reference:
            found.setdefault(parent.path, record(parent))
    return found
