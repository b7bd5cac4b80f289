"""Branches: a PPO run that starts from an update of another run, ``checkpoints/x/ppo@40``, under new settings."""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.errors import LineageError
from rlhf.runs.directory import SCRATCH, UPDATES, partial
from rlhf.storage.checksums import DIGESTS, number
from rlhf.storage.manifest import MANIFEST, read_manifest

ROLE = "branch_from"
SEPARATE = "a separate critic"


def available(run: Path) -> dict[int, Path]:
    """Return update -> checkpoint that a run has kept; those to resume from count if it is not finished."""
    folders = [run / UPDATES] if (run / MANIFEST).exists() else [partial(run) / SCRATCH]
    places = [path for folder in folders for path in folder.glob("update-*") if (path / DIGESTS).exists()]
    return {number(path): path for path in sorted(places, key=number)}


def manifest_of(run: Path) -> dict[str, Any] | None:
    """Return the run.json of a run, finished or not."""
    return read_manifest(run) or read_manifest(partial(run))


def keep(scratch: Path, work: Path, every: int | None) -> None:
    """Keep the checkpoints of every ``every`` updates in the finished run, as hard links if the disk has them."""
    for place in scratch.glob("update-*"):
        if every is not None and number(place) % every == 0:
            target = work / UPDATES / place.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(place, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def check(named: str, content: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a run of the content ``own`` has the same weights as the checkpoint of a run of ``content``.

    Raises:
        LineageError: it starts from another policy, or has another adapter or critic.
    """
    if content["parents.policy"] != own["parents.policy"]:
        raise LineageError(f"{named} started from another policy: set stage.policy to the model that it started from")
    for key in sorted(key for key in {*content, *own} if key.startswith("adapter.")):
        if content.get(key) != own.get(key):
            raise LineageError(f"{named} has {key}={content.get(key)}, and the new run {own.get(key)}: set the same")
    if critic(content) != critic(own):
        raise LineageError(
            f"{named} has {critic(content)}, and the new run {critic(own)}: set the same stage.advantage and "
            "stage.critic_kind"
        )
    if own["adapter.kind"] != "none" and critic(own) == SEPARATE and start(content) != start(own):
        raise LineageError(
            f"{named} has a critic that is an adapter on another model: set stage.critic to the model that its critic "
            "started from"
        )


def critic(content: Mapping[str, Any]) -> str:
    """Return the kind of critic of a run, in words."""
    if content.get("stage.advantage", "gae") != "gae":
        return "no critic"
    return "a value head" if content.get("stage.critic_kind") == "value_head" else SEPARATE


def start(content: Mapping[str, Any]) -> str | None:
    """Return the digest of the model that the separate critic of a run starts from."""
    roles = [key for key in content if re.match(r"parents\.(reward|rewards\..*)$", key)]
    return content.get("parents.critic") or (content[roles[0]] if roles else content.get("parents.policy"))


def check_data(named: str, data: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that two runs sample the same prompts, whose order the update continues.

    Raises:
        LineageError: they do not.
    """
    if data["prompts"]["train"]["fingerprint"] != own["prompts"]["train"]["fingerprint"]:
        raise LineageError(
            f"{named} was trained on other prompts, whose order the new run would continue: "
            "set the same data.prompts, data.holdout and seed"
        )
