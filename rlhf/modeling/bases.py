"""The models that an adapter was trained on, and merging."""

import json
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import AutoTokenizer, PreTrainedModel

from rlhf.errors import LineageError, ModelError
from rlhf.hub.pinned import Pinned, fetch, pin, snapshot
from rlhf.modeling import foreign
from rlhf.modeling.vocabulary import add_rows
from rlhf.runs.parents import Parent, hub_parent
from rlhf.storage.manifest import read_manifest

ADAPTER = "adapter_config.json"


def ancestry(parent: Parent) -> list[Parent]:
    """Return the models that make up the weights of ``parent``: a whole model, then its adapters, ``parent`` last.

    Raises:
        LineageError: the base of an adapter has changed or is missing.
    """
    found, folders = [parent], set()
    while (folder := adapter_folder(found[0])) is not None:
        if folder.resolve() in folders:
            raise ModelError(
                f"{parent.role}={parent.path} is an adapter on itself: use the model that it was trained on"
            )
        folders.add(folder.resolve())
        found.insert(0, base_of(found[0], folder))
    return found


def base_of(parent: Parent, folder: Path) -> Parent:
    """Return the model that an adapter was trained on."""
    if parent.manifest is not None:
        record = parent.manifest["parents"].get("policy")
        if record is None:
            raise LineageError(
                f"{parent.path}/run.json does not name the policy of its adapter: "
                f"run stage={parent.stage} again with overwrite=true"
            )
    else:
        with foreign.reading(parent):
            config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
            record = {"path": config["base_model_name_or_path"], "revision": config.get("revision"), "digest": None}
    path, revision = record["path"], record["revision"]
    if not (isinstance(path, str) and path and isinstance(revision, str | None)):
        raise ModelError(
            f"{parent.role}={parent.path} is an adapter, and base_model_name_or_path={path} in its {ADAPTER} names no "
            "model: set a folder or a Hub id there"
        )
    here = parent.revision is None and revision is None and Path(path).exists()
    base = Parent("policy", path, read_manifest(Path(path))) if here else hub_parent("policy", path, revision)
    if record["digest"] is not None and base.digest != record["digest"]:
        raise LineageError(
            f"{parent.path} is an adapter on {path}, whose weights have changed or are missing: "
            f"run stage={parent.stage} again with overwrite=true"
        )
    return base


def adapter_folder(parent: Parent) -> Path | None:
    """Return the folder of an adapter, downloaded if it is on the Hub; None if ``parent`` is a whole model."""
    if parent.revision is None or Path(parent.model).exists():
        folder = Path(parent.model)
        return folder if (folder / ADAPTER).is_file() else None
    pinned = pin(parent.path, parent.revision)
    return snapshot(pinned) if pinned is not None and ADAPTER in pinned.files else None


def fetched(parent: Parent, name: str) -> Path:
    """Return the path of one file of a model, downloaded if it is on the Hub."""
    if parent.revision is None:
        return Path(parent.model) / name
    return fetch(Pinned(parent.path, parent.revision), name)


def merged(base: PreTrainedModel, adapter: Parent) -> tuple[PreTrainedModel, set[str]]:
    """Return ``base`` with ``adapter`` merged, and the names of the full weights that the adapter has."""
    folder = adapter_folder(adapter) or Path(adapter.model)
    with foreign.reading(adapter):
        if (folder / "tokenizer_config.json").is_file():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            add_rows(base, tokenizer)
        config = PeftConfig.from_pretrained(str(folder))
        # A language model's adapter is also attached to a reward model's backbone, which cannot generate.
        config.task_type = None
        adapted = PeftModel(base, config)
        result = adapted.load_adapter(str(folder), "default")
    backbone = f".{base.base_model_prefix}."
    if wrong := [*result.missing_keys, *(name for name in result.unexpected_keys if backbone in name)]:
        raise ModelError(
            f"{adapter.role}={adapter.path} is not an adapter on {base.name_or_path}: only one of them has {wrong[0]}"
        )
    whole = adapted.merge_and_unload()
    for parameter in whole.parameters():  # peft froze the base; the stage decides what to train
        parameter.requires_grad_(parameter.is_floating_point())  # four-bit weights are not floating point
    return whole, {f"{name}.weight" for name in config.modules_to_save or ()}
