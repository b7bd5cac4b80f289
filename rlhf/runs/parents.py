"""Parents of a stage: a run, a local model folder, a GGUF file, or a model on the Hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.config import Dtype, Input, Model, Settings
from rlhf.errors import LineageError, RunError
from rlhf.hub.pinned import manifest_at, pin
from rlhf.runs import branches
from rlhf.runs.commands import command, setting
from rlhf.runs.directory import partial
from rlhf.storage import digests
from rlhf.storage.checksums import DIGESTS, fault
from rlhf.storage.manifest import read_manifest

HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
SHARED = ("experiment", "recipe", "name", "model", "data", "adapter", "hardware", "checkpoints", "seed")


@dataclass(frozen=True)
class Parent:
    """A run or model that a stage starts from. ``manifest`` is the run.json of a run, local or on the Hub, or None.

    ``revision`` is the commit of a model on the Hub, or its branch or tag if it cannot be resolved; None for local
    models. ``update`` is the one of a run that a new run branches from, else None.
    """

    role: str
    path: str
    manifest: dict[str, Any] | None
    revision: str | None = None
    update: int | None = None

    @property
    def named(self) -> str:
        """The setting of a branch, for messages."""
        return f"stage.{self.role}={self.path}@{self.update}"

    @property
    def checkpoint(self) -> Path:
        """The folder of ``update``."""
        assert self.update is not None, f"{self.path} is not a branch"
        return branches.available(self.directory)[self.update]

    @property
    def stage(self) -> str | None:
        """The stage of a run, or None."""
        return self.manifest["stage"] if self.manifest else None

    @property
    def model(self) -> str:
        """The folder, GGUF file or Hub id for transformers."""
        return str(Path(self.path) / "model") if self.manifest and self.revision is None else self.path

    @property
    def directory(self) -> Path:
        """The directory of a local run or model."""
        return Path(self.path)

    @property
    def is_local(self) -> bool:
        """Whether the model is on this machine."""
        return Path(self.model).exists()

    @property
    def digest(self) -> str | None:
        """The digest of the weights, or of the output of a run without weights; id and revision of a Hub model."""
        if self.update is not None:
            return digests.file_digest(self.checkpoint / DIGESTS)
        if self.manifest:
            return self.manifest["weights"] or self.manifest.get("output")
        path = Path(self.path)
        if not path.exists():
            return f"{self.path}@{self.revision or 'main'}"
        files = (path,) if path.is_file() else digests.weights_in(path)
        return _digest(path, tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))

    def as_trained(self, model: Model) -> Model:
        """Return the settings that load the model in the dtype of its training, with its own chat template or none."""
        dtype = Dtype(self.manifest["dtype"]) if self.manifest else model.dtype
        return replace(model, dtype=dtype, chat_template=None)

    def record(self) -> dict[str, Any]:
        """Return the entry in run.json; for a run on the Hub with its whole run.json, so that lineage is preserved."""
        found = {"path": self.path, "stage": self.stage, "digest": self.digest, "revision": self.revision}
        if self.update is not None:
            return found | {"update": self.update}
        return found if self.revision is None or self.manifest is None else found | {"run": self.manifest}


@cache
def _digest(path: Path, state: tuple[tuple[str, int, int], ...]) -> str | None:
    """Hash a model file or folder once per process, since a 7B model has 15 GB."""
    return digests.file_digest(path) if path.is_file() else digests.weights_digest(path)


def find_parents(settings: Settings, overrides: Sequence[str] = ()) -> dict[str, Parent]:
    """Return role -> parent for all inputs of the stage, without optional ones that are missing."""
    found = {}
    wanted_by_judge = settings.judge.inputs() if settings.stage.judged else {}
    for role, wanted in (settings.stage.inputs() | wanted_by_judge).items():
        parent = find_parent(role, wanted, settings, overrides)
        if parent is not None:
            found[role] = parent
    return found


def find_parent(role: str, wanted: Input, settings: Settings, overrides: Sequence[str] = ()) -> Parent | None:
    """Return the parent at ``wanted.path``, or None if it is optional and missing.

    Raises:
        LineageError: it is missing, unfinished, or not of one of ``wanted.stages``.
        RunError: its run.json cannot be read.
        HubError: the Hub has no such model, or the token may not see it.
    """
    if wanted.update is not None:
        return _branch(role, wanted, wanted.update)
    path = Path(wanted.path)
    named = f"{_key(role, settings)}={wanted.path}"
    if not wanted.path:
        raise LineageError(f"{named}'' is empty: set a run, a model folder or a Hub id")
    if (manifest := read_manifest(path)) is not None:
        _check_run(named, manifest, wanted, settings)
        return Parent(role, wanted.path, manifest)
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file() or path.suffix == ".gguf":
        if path.suffix == ".gguf" and not path.is_file():
            raise LineageError(f"{named} does not exist: set the path of a GGUF file")
        return Parent(role, wanted.path, None)
    update = re.fullmatch(r"(.+)@\d+", wanted.path)
    if update and branches.manifest_of(Path(update[1])) is not None:
        raise LineageError(
            f"{named} is an update of a run, and only stage=ppo starts from one, by stage.branch_from: "
            f"set {_key(role, settings)}={update[1]}, the final model of the run"
        )
    hub = HUB_ID.fullmatch(wanted.path)
    if hub and not path.exists() and not wanted.path.startswith(f"{settings.checkpoints}/"):
        parent = hub_parent(role, hub["id"], hub["revision"] or settings.model.revision)
        if parent.manifest is not None:
            _check_run(named, parent.manifest, wanted, settings)
        return parent
    if not wanted.required:
        return None
    raise LineageError(_missing(role, path, settings, overrides))


def _branch(role: str, wanted: Input, update: int) -> Parent:
    """Return the run that has the checkpoint of ``update``, which is intact.

    Raises:
        LineageError: the run does not exist, or it has not kept the update.
        RunError: the checkpoint is corrupted.
    """
    named, directory = f"stage.{role}={wanted.path}@{update}", Path(wanted.path)
    manifest = branches.manifest_of(directory)
    if manifest is None or manifest["stage"] not in wanted.stages:
        raise LineageError(f"{named}: {wanted.path} is not a run of stage=ppo on this machine: name one")
    found = branches.available(directory)
    if update not in found:
        kept = f"keeps only {', '.join(map(str, found))}" if found else "keeps no update"
        raise LineageError(
            f"{named}: the run {kept}: name one that it keeps, or train it with stage.keep_every=<updates>"
        )
    if reason := fault(found[update]):
        raise RunError(f"{named} is corrupted ({reason}): name another update")
    return Parent(role, wanted.path, manifest, update=update)


def hub_parent(role: str, id: str, revision: str | None) -> Parent:
    """Return a model on the Hub at the current commit of ``revision``, with its run.json if it is a published run.

    Raises:
        HubError: the Hub has no such model, or the token may not see it.
    """
    pinned = pin(id, revision)
    if pinned is None:
        return Parent(role, id, None, revision)
    return Parent(role, id, manifest_at(pinned), pinned.commit)


def _check_run(named: str, manifest: dict[str, Any], wanted: Input, settings: Settings) -> None:
    """Refuse an unfinished run, such as ``.sft.partial``, and a run of the wrong stage."""
    stage = manifest.get("stage")
    if stage not in wanted.stages:
        raise LineageError(
            f"{named} is a run of stage={stage}, "
            f"and stage={settings.stage.name} starts from one of {', '.join(wanted.stages)}"
        )
    if manifest.get("status") != "finished":
        raise LineageError(
            f"{named} is not finished, its status is {manifest.get('status')}: "
            f"continue it with the command of stage={stage} and resume=true, or use a finished run"
        )


def of_the_chain(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that a command for another stage of the same chain shares with this one."""
    own = [item for item in overrides if item.startswith("-") or re.split(r"[=./]", item.lstrip("+~"))[0] in SHARED]
    return [item for item in own if not item.startswith("hardware.plan=")]


def _missing(role: str, path: Path, settings: Settings, overrides: Sequence[str]) -> str:
    """Return the reason why ``path`` is not a parent, and the command that creates one."""
    kept = of_the_chain(overrides)
    says = f"stage={settings.stage.name} starts from {path}, which "
    if partial(path).exists():
        return f"{says}is not finished: continue it first: {command(path.name, [*kept, 'resume=true'])}"
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        return f"{says}has neither run.json nor config.json: set a run, a model folder or a Hub id"
    if path.name in ("base", "sft", "reward", "dpo", "kto", "ppo", "online_dpo", "raft", "merge", "sample"):
        instead = setting(_key(role, settings), settings.model.path or "org/name")
        return (
            f"{says}does not exist: run stage={path.name} first: {command(path.name, kept)}; or start from another "
            f"model, a folder or a Hub id: {instead}"
        )
    return f"{says}does not exist: set {_key(role, settings)} to a run, a model folder or a Hub id"


def _key(role: str, settings: Settings) -> str:
    if role == "judge":
        return "judge.model"
    if hasattr(settings.stage, role.split(".")[0]):
        return f"stage.{role}"
    return f"stage.{'models' if hasattr(settings.stage, 'models') else 'samples'}.{role}"
