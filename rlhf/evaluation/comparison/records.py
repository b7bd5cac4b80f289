"""What the runs behind a comparison say of themselves: their cost, their training curves, and other seeds' results."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.errors import RunError
from rlhf.runs.parents import Parent
from rlhf.runs.run import runs
from rlhf.storage.manifest import read_manifest

Curve = dict[str, tuple[list[float], list[float]]]  # metric -> steps and values


@dataclass
class Record:
    """A run by its run.json and metrics.jsonl; of a model that is no run of ours all but the path is unknown.

    ``tokens`` are those of the training batches, of PPO those that it wrote.
    """

    path: str
    stage: str | None = None
    seconds: float | None = None
    peak_memory_gib: float | None = None
    tokens: int | None = None
    lines: Sequence[dict[str, float]] = ()

    def curve(self) -> Curve:
        """Each metric over the steps at which it was logged."""
        found: Curve = {}
        for line in self.lines:
            for name, value in line.items():
                if name != "step":
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return found


def record(parent: Parent) -> Record:
    """What is known of a parent of the comparison.

    Raises:
        RunError: its metrics.jsonl cannot be read.
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
    )


def read_lines(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; none where there is no such file.

    Raises:
        RunError: a line is no JSON object.
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
            raise RunError(f"{path}:{number}: is no line of a run's metrics: run its stage again with overwrite=true")
        found.append({name: value for name, value in line.items() if isinstance(value, int | float)})
    return found


def tokens(manifest: Mapping[str, Any], lines: Sequence[dict[str, float]]) -> int | None:
    """Tokens of a run: as it counted them, or of PPO the responses of all updates that it logged."""
    if (counted := manifest["metrics"].get("tokens")) is not None:
        return int(counted)
    lengths = [line["val/response_length"] for line in lines if "val/response_length" in line]
    size = manifest["settings"]["stage"].get("batch_size")
    return round(sum(lengths) * size) if lengths and isinstance(size, int) else None


def previous(name: str, parents: Mapping[str, Parent], columns: Sequence[str]) -> str | None:
    """The column that a model was trained from, by its run.json; else the column before it; of the first none."""
    manifest = parents[name].manifest or {"parents": {}}
    origin = manifest["parents"].get("policy", {}).get("digest")
    for other in columns:
        if other != name and origin is not None and parents[other].digest == origin:
            return other
    place = list(columns).index(name)
    return columns[place - 1] if place else None


class OverSeeds(NamedTuple):
    """Comparisons of chains that differ in their seed. ``metrics``: model -> name -> mean and standard deviation."""

    seeds: list[int]
    metrics: dict[str, dict[str, tuple[float, float]]]


def over_seeds(patterns: str | None, own: dict[str, Any]) -> OverSeeds | None:
    """This comparison's metrics.json together with those of the finished comparisons that ``patterns`` match.

    Of equal seeds the first counts. None where there is no other seed.

    Raises:
        RunError: a run that matches is no finished comparison, or of other columns.
    """
    found = {own["seed"]: own["models"]}
    for path in sorted(glob(patterns)) if patterns else ():
        manifest = read_manifest(Path(path))
        if manifest is None or manifest.get("status") != "finished" or manifest["stage"] != "compare":
            raise RunError(f"stage.seeds={patterns} matches {path}, which is no finished run of stage=compare")
        models = json.loads((Path(path) / "metrics.json").read_text(encoding="utf-8"))["models"]
        if set(models) != set(own["models"]):
            raise RunError(
                f"stage.seeds={patterns} matches {path}, whose columns are {', '.join(models)}: "
                f"give comparisons of {', '.join(own['models'])}"
            )
        found.setdefault(manifest["seed"], models)
    return None if len(found) < 2 else OverSeeds(sorted(found), _spread(list(found.values())))


def _spread(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation of what every run measured."""
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
    """Every finished PPO run below a folder."""
    return [Parent("ppo", str(one.directory), one.manifest) for one in runs(folder) if one.stage == "ppo"]


def paths(parents: Sequence[Parent], reference: str | None) -> dict[str, Record]:
    """Path -> record of each PPO run that started from the reference, as training's own log has it."""
    found: dict[str, Record] = {}
    for parent in parents:
        manifest = parent.manifest
        if manifest is None or manifest["stage"] != "ppo":
            continue
        if manifest["parents"].get("policy", {}).get("digest") == reference:
            found.setdefault(parent.path, record(parent))
    return found
