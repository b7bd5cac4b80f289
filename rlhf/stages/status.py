"""Show all runs and their parents; the command line adds the next command to type.

python -m rlhf
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from rlhf.config import CHAINS, PLANNED, Settings
from rlhf.config.objective import METRICS, USUAL
from rlhf.console import console, duration, fitting, plural
from rlhf.errors import RlhfError, RunError
from rlhf.runs.commands import line
from rlhf.runs.directory import MEMBER, saved
from rlhf.runs.headlines import results
from rlhf.runs.run import Run, runs
from rlhf.runs.tree import Line, draw, nested, updates
from rlhf.storage.manifest import read_manifest

MODELS = (*PLANNED, "merge")
INDENT = 4  # columns per level of the tree


def run(settings: Settings, overrides: Sequence[str] = ()) -> None:
    """Print trained models as a tree, then other runs, unfinished runs and unreadable directories."""
    root = Path(settings.checkpoints)
    unreadable: list[RlhfError] = []
    found = list(runs(root, unreadable)) if root.is_dir() else []
    models = [one for one in found if one.stage in MODELS]
    if models:
        console.print(tree(root, models))
    if others := [one for one in found if one.stage not in MODELS]:
        show_others(root, others)
    if not found:
        say(f"Nothing is trained in {root} yet.")
    for path in sorted(root.rglob(".*.partial")):
        if ".partial" in str(path.parent):  # a part of an unfinished run
            continue
        try:
            say(unfinished(path, root))
        except RunError as error:
            unreadable.append(error)
    for error in unreadable:
        say(f"unreadable: {error}")
    console.print()


def say(sentence: str) -> None:
    """Print a sentence without markup or wrapping."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def unfinished(work: Path, root: Path) -> str:
    """Return one line about an unfinished run: why it ended, its checkpoint, and the command that continues it."""
    left, manifest = saved(work), read_manifest(work) or {}
    place = work.with_name(work.name.removeprefix(".").removesuffix(".partial"))
    shown = f"not finished: {_below(root, place)} ({manifest.get('reason', 'killed, or still running')})"
    words = shlex.split(manifest.get("command") or "")[3:]
    if left is None or not words:
        return shown if left is None else f"{shown}, has {left}"
    if group(place, root, manifest) is not None:
        return f"{shown}, has {left}: the command of its sweep continues it"
    others = [one for one in words if one.partition("=")[0] not in ("resume", "overwrite")]
    return f"{shown}, has {left}, and this continues it:\n  {line([*others, 'resume=true'])}"


def group(place: Path, root: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Return the directory of the sweep that a run is a job of; None if it is not a job."""
    name = Path(str(manifest.get("name", "")))
    for whole in CHAINS:
        if whole in name.parts:
            return root / Path(*name.parts[: name.parts.index(whole) + 1])
    stage = root / name / str(manifest.get("stage"))
    return stage if place.parent == stage else None


def tree(root: Path, found: Sequence[Run]) -> Tree:
    """Return the runs below ``root``, each under its first parent; a sweep has one line.

    Time does not decide the order: a parent may be retrained after its child, or both end within one second.
    """
    lines = _lines(root, found)
    line_of = {str(one.directory): key for key, jobs in lines.items() for one in jobs}
    parents = {
        key: [line_of[record["path"]] for record in jobs[0].manifest["parents"].values() if record["path"] in line_of]
        for key, jobs in lines.items()
    }
    drawn = []
    for key, level in nested(parents):
        jobs = lines[key]
        parts = describe(root, jobs[0]) if key == str(jobs[0].directory) else describe_sweep(root, key, jobs)
        drawn.append(Line(level, shortened(parts, INDENT * (level + 1))))
    return draw(Text(str(root), style="bold"), drawn)


def _lines(root: Path, found: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each line: the jobs of a sweep, or one run. Ensemble members share the line of their run."""
    lines: dict[str, list[Run]] = {}
    keys: dict[str, str] = {}
    for one in sorted(found, key=lambda one: one.directory.name.startswith(MEMBER)):  # members after their runs
        path = str(one.directory)
        sweep = group(one.directory, root, one.manifest)
        keys[path] = path if sweep is None else f"{sweep}/*"
        if one.directory.name.startswith(MEMBER):
            keys[path] = keys.get(str(one.directory.parent), path)
        lines.setdefault(keys[path], []).append(one)
    return lines


def shortened(parts: Sequence[str], indent: int) -> str:
    """Return the parts that fit on the line of the tree, at least the first."""
    return fitting(parts, console.width - indent) or parts[0]


def describe(root: Path, one: Run) -> list[str]:
    """Return the facts about a run, most important first."""
    manifest = one.manifest
    # Parents on the Hub are shown with their commit and their own lineage.
    parents = list(manifest["parents"].values())
    elsewhere = [f"from {', '.join(map(origin, parents))}"] if parents and not Path(parents[0]["path"]).is_dir() else []
    elsewhere += updates(manifest)
    numbers = [", ".join(results(manifest))] if results(manifest) else []
    rest = [manifest["finished"][:16].replace("T", " "), duration(manifest["seconds"]), f"seed {manifest['seed']}"]
    return [_below(root, one.directory), *elsewhere, *numbers, *rest]


def describe_sweep(root: Path, key: str, jobs: Sequence[Run]) -> list[str]:
    """Return the number of jobs of a sweep, and the best by the usual metric of its stage."""
    place = Path(key).parent
    stages = {one.stage for one in jobs}
    shown = [f"{_below(root, place)}: sweep of {len(jobs)}"]
    if len(stages) > 1:
        return [*shown, plural(len({one.manifest["name"] for one in jobs}), "chain")]
    metric = METRICS[USUAL[stages.pop()]]
    sign = 1 if metric.direction == "maximize" else -1
    ranked = [one for one in jobs if "objective" in one.manifest["metrics"]]
    if not ranked:
        return shown
    best = max(ranked, key=lambda one: sign * one.manifest["metrics"]["objective"])
    return [*shown, f"best {', '.join(results(best.manifest))}", str(best.directory.relative_to(place))]


def show_others(root: Path, found: Sequence[Run]) -> None:
    """Print the runs without a trained model: data, samples, labels, comparisons, publications."""
    say("\nData, samples and reports")
    for one in found:
        say(f"  {shortened(describe(root, one), 2)}")


def _below(root: Path, place: Path) -> str:
    return str(place.relative_to(root) if place.is_relative_to(root) else place)


def origin(record: dict[str, Any]) -> str:
    """Return a parent on the Hub as ``org/name@1a2b3c4 (base > sft)``; the lineage is from its run.json."""
    revision, held = record.get("revision"), record.get("run")
    place = record["path"] if revision is None else f"{record['path']}@{revision[:7]}"
    if held is None:
        return place
    return f"{place} ({' > '.join([*(above['stage'] for above in held.get('lineage', [])), held['stage']])})"
