"""What has been trained here, how it descends, and the next command to type.

python -m rlhf
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from rlhf.config import PROGRESSION, Settings
from rlhf.console import console
from rlhf.errors import RlhfError, RunError
from rlhf.runs.commands import command
from rlhf.runs.directory import saved
from rlhf.runs.parents import of_the_chain
from rlhf.runs.run import Run, runs
from rlhf.storage.manifest import read_manifest


def run(settings: Settings, overrides: Sequence[str] = ()) -> None:
    root = Path(settings.checkpoints)
    unreadable: list[RlhfError] = []
    found = list(runs(root, unreadable)) if root.is_dir() else []
    if found:
        console.print(tree(root, found))
    else:
        console.print(f"Nothing is trained in {escape(str(root))} yet.")
    for path in sorted(root.rglob(".*.partial")):
        try:
            console.print(f"not finished: {escape(unfinished(path))}")
        except RunError as error:
            unreadable.append(error)
    for error in unreadable:
        console.print(f"unreadable: {escape(str(error))}", soft_wrap=True)
    console.print(f"\nNext: [bold]{escape(next_command(settings, found, overrides))}[/bold]")


def unfinished(work: Path) -> str:
    """Where an unfinished run lies, why it ended, and what it can be resumed from."""
    left = saved(work)
    reason = (read_manifest(work) or {}).get("reason", "killed, or still running")
    return f"{work} ({reason}{'' if left is None else f'; resume=true continues from {left}'})"


def tree(root: Path, found: list[Run]) -> Tree:
    """The runs below ``root``, each under the first parent that it descends from.

    Not by time: a parent may have been trained again after its child, or both within one second.
    """
    whole = Tree(f"[bold]{escape(str(root))}[/bold]")
    known = {str(one.directory): one for one in found}
    branches: dict[str, Tree] = {}

    def branch(path: str, below: tuple[str, ...] = ()) -> Tree:
        if path not in branches:
            parents = [record["path"] for record in known[path].manifest["parents"].values()]
            line = (*below, path)  # a run that replaced its own parent descends from nothing that is still there
            above = next((parent for parent in parents if parent in known and parent not in line), None)
            branches[path] = (branch(above, line) if above else whole).add(describe(known[path], parents))
        return branches[path]

    for path in known:
        branch(path)
    return whole


def describe(one: Run, parents: list[str]) -> str:
    manifest = one.manifest
    numbers = {
        key: value for key, value in manifest["metrics"].items() if isinstance(value, float) and key != "objective"
    }
    shown = "  ".join(f"{key} {value:.3g}" for key, value in list(numbers.items())[:3])
    # A commit says more than a branch, and a run that was published from here has parents of its own.
    marks = {record["path"]: origin(record) for record in manifest["parents"].values()}
    elsewhere = "" if not parents or Path(parents[0]).is_dir() else f" from {', '.join(marks[one] for one in parents)}"
    when = manifest["finished"][:16].replace("T", " ")
    return escape(f"{one.directory}{elsewhere}  seed {manifest['seed']}  {manifest['seconds']:.0f} s  {when}  {shown}")


def origin(record: dict[str, Any]) -> str:
    """A parent that does not lie here: ``org/name@1a2b3c4 (base > sft)``, with what its own run.json says of it."""
    revision, held = record.get("revision"), record.get("run")
    place = record["path"] if revision is None else f"{record['path']}@{revision[:7]}"
    if held is None:
        return place
    return f"{place} ({' > '.join([*(above['stage'] for above in held.get('lineage', [])), held['stage']])})"


def next_command(settings: Settings, found: list[Run], overrides: Sequence[str] = ()) -> str:
    """The first stage of the progression that has no run under this name; with all of them there, a sweep."""
    stages = {one.stage for one in found if one.manifest["name"] == settings.name}
    kept = of_the_chain(overrides)
    if not stages:
        return command("progression", kept)
    order = [stage for stage in PROGRESSION if stage != "base" or settings.model.path is None]
    missing = next((stage for stage in order if stage not in stages), None)
    if missing is None:
        return command("dpo", ["stage.beta=0.05,0.1,0.3", *kept], multirun=True)
    return command(missing, kept)
