"""The content of a run, which determines its result: two runs with equal content are the same run.

The progression skips a stage whose content has not changed, and ``resume=true`` continues only the same content.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.config import (
    Autocast,
    EvaluateRewardStage,
    LabelStage,
    Render,
    ScoredStage,
    SentinelAction,
    Settings,
    Source,
    TrainedStage,
)
from rlhf.hardware import ranks
from rlhf.hub.pinned import pin
from rlhf.runs import branches
from rlhf.runs.parents import HUB_ID, Parent, find_parents
from rlhf.storage.digests import file_digest, files_digest
from rlhf.storage.json_files import plain
from rlhf.storage.secrets import redact

# Settings that change neither weights nor metrics: paths, logging, how a run starts.
INCIDENTAL = (
    "name", "checkpoints", "overwrite", "resume", "curves", "telemetry", "tracker", "hardware", "objective",
)  # fmt: skip
OF_A_BENCHMARK = ("benchmark", "benchmark_path", "prior_sets")  # unset in runs of earlier versions
OF_THE_CONNECTION = (
    "cache", "timeout", "attempts", "workers", "key_variable", "price_prompt", "price_response", "budget",
    "budget_calls", "budget_tokens",
)  # fmt: skip


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict with dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix.rstrip("."): tree}
    return {key: leaf for name, branch in tree.items() for key, leaf in flatten(branch, f"{prefix}{name}.").items()}


def data_files(settings: Settings) -> dict[str, str]:
    """Return kind -> digest of local files, or id@commit, for each kind of data that the stage reads.

    A data set that neither the Hub nor the local cache has now is omitted.
    """
    found = {}
    for kind in settings.stage.sources:
        source: Source = getattr(settings.data, kind)
        named = source.paths if settings.data.path is None else (settings.data.path,)
        digests = [_digest(path, None if settings.data.path else source.revision) for path in named]
        if digests and None not in digests:
            found[kind] = " ".join(map(str, digests))
    return found


def reward_files(settings: Settings) -> dict[str, str]:
    """Return role -> digest of the file, for each reward that has a Python file, a JSON schema or a rubric."""
    if not isinstance(settings.stage, ScoredStage):
        return {}
    terms = settings.stage.roles()
    codes = {role: Path((term.function or "").rpartition(":")[0]) for role, term in terms.items()}
    found = {role: path for role, path in codes.items() if path.suffix == ".py"}
    files = {role: term.json_schema.schema or term.judge.rubric for role, term in terms.items()}
    found |= {role: Path(file) for role, file in files.items() if file}
    return {role: file_digest(path) for role, path in found.items() if path.is_file()}


def benchmark_files(settings: Settings) -> dict[str, str]:
    """Return setting -> digest of the files, or id@commit, of the benchmark that stage=evaluate_reward reads."""
    if not isinstance(settings.stage, EvaluateRewardStage):
        return {}
    named = {key: getattr(settings.stage, key) for key in ("benchmark_path", "prior_sets")}
    found = {key: _digest(path, None, nested=True) for key, path in named.items() if path is not None}
    return {key: digest for key, digest in found.items() if digest is not None}


def _digest(named: str, revision: str | None, nested: bool = False) -> str | None:
    from rlhf.data.files import reader_of  # with the readers of all layouts, which --help does not need

    path = Path(named).expanduser()
    if path.exists():
        inside = sorted(path.rglob("*")) if nested else path.iterdir()
        return files_digest([file for file in inside if file.is_file()] if path.is_dir() else [path])
    if (hub := HUB_ID.fullmatch(named)) and reader_of(path) is None:
        pinned = pin(hub["id"], revision or hub["revision"], "dataset")
        return None if pinned is None else f"{pinned.id}@{pinned.commit}"
    return None


def content(settings: Settings, parents: dict[str, Parent]) -> dict[str, Any]:
    """Return the settings, parents and files that determine a run's result, with dotted keys.

    Secrets are removed as in run.json, since the content is compared with the stored one.
    """
    tree = json.loads(json.dumps(asdict(settings), default=plain))
    for key in INCIDENTAL:
        del tree[key]
    if not settings.stage.judged:
        del tree["judge"]
    if not settings.stage.measured:
        del tree["eval_set"]
    tree["data"] = {kind: tree["data"][kind] for kind in settings.stage.sources} | {
        key: tree["data"][key] for key in ("holdout", "allow_leaks", "pairing", "gold", "judge", "ceiling")
    }
    if settings.data.render is not Render.auto:
        tree["data"]["render"] = settings.data.render.value
    # The connection to a judge and its cache do not change verdicts.
    for key in OF_THE_CONNECTION:
        tree.get("judge", {}).pop(key, None)
    # Parents and local files are identified by their contents, not by their paths.
    titled = ("sample", "samples") if isinstance(settings.stage, LabelStage) else ()  # elsewhere samples are a number
    for role in (*parents, "sampler", "models", "progression", "seeds", "frontier", *titled):
        tree["stage"].pop(role, None)
    if tree["stage"].get("sentinel", {}).get("action") == SentinelAction.stop.value:
        # A stopped run has computed the same as a warned one, so that either can continue as the other.
        tree["stage"]["sentinel"]["action"] = SentinelAction.warn.value
    terms = [term for name in ("rewards", "shadows") for term in (tree["stage"].get(name) or {}).values()]
    for term in (*terms, tree["stage"].get("gold"), tree["stage"].get("reward_defaults")):
        if isinstance(term, dict):
            term.pop("timeout", None)  # it only ends a run
    for term in terms:
        term.pop("run", None)
        term.get("ensemble", {}).pop("runs", None)
    for key in ("name", "path", "pretrained"):
        del tree["model"][key]
    if isinstance(settings.stage, TrainedStage) and settings.hardware.autocast is not Autocast.auto:
        # No other setting of the hardware changes the result.
        tree["hardware"] = {"autocast": settings.hardware.autocast.value}
    trainer = tree["stage"].get("trainer", {})
    if "per_device_train_batch_size" in trainer:  # only the batch of all processes together matters
        trainer["per_device_train_batch_size"] *= ranks.asked(settings.hardware)
    tree["parents"] = {role: parent.digest for role, parent in parents.items()}
    tree["files"] = data_files(settings)
    for kind in tree["files"]:
        del tree["data"][kind]["path"]
    own = benchmark_files(settings)
    for key in (*own, "members", *(key for key in OF_A_BENCHMARK if not tree["stage"].get(key))):
        tree["stage"].pop(key, None)
    tree["files"] |= own | reward_files(settings)
    return redact(flatten(tree))


class Origin(NamedTuple):
    """The parents of a run, found and hashed once, and its content."""

    parents: dict[str, Parent]
    content: dict[str, Any]

    @classmethod
    def of(cls, settings: Settings, overrides: Sequence[str] = ()) -> "Origin":
        """Find and hash the parents.

        Raises:
            LineageError: a parent is missing, unfinished or of the wrong stage, or a branch has other weights.
        """
        parents = find_parents(settings, overrides)
        found = content(settings, parents)
        if (branch := parents.get(branches.ROLE)) is not None:
            assert branch.manifest is not None  # a branch is a run
            branches.check(branch.named, branch.manifest["content"], found)
        return cls(parents, found)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return the first difference between two contents in words, or None if they are equal."""
    for key in (*new, *(key for key in old if key not in new)):
        if old.get(key) != new.get(key):
            if key.startswith("parents."):
                return f"its parent {key.removeprefix('parents.')} has changed"
            if key.startswith("files."):
                return f"the data behind {key.removeprefix('files.')} has changed"
            return f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
    return None
