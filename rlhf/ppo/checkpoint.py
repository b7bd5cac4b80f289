"""PPO checkpoints: everything that training changes, as safetensors and JSON, without pickle.

A checkpoint is written to a hidden folder with the checksums of its files, synced to disk and then renamed, so it is
complete or missing. It holds no generator state of any rank: every random choice, the prompts of a batch included, is
derived from the run's seed and the update (rlhf/modeling/seeding.py).
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from rlhf.errors import RunError
from rlhf.storage.checksums import fault, newest_whole, number, resumable, seal, sync

KEPT = 2
STATE = "state.json"


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that training changes, by name: all of a full model, or only those of its adapter."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    update: int,
    state: Mapping[str, Any],
    refuge: int | None = None,
    keep_every: int | None = None,
) -> None:
    """Write ``update-<n>`` and delete checkpoints that are no longer needed.

    ``state`` holds everything besides weights and optimizers; JSON restores its numbers to the last bit. The last two
    checkpoints are kept. With ``refuge``, the last healthy one (``state["healthy"]``) up to that update is kept, too,
    and the first healthy one after it, which replaces it later; with ``keep_every``, those of its multiples.
    Checkpoints of later updates are deleted: they are corrupted or belong to updates that were rolled back.
    """
    place = folder / f"update-{update}"
    aside = folder / f".{place.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, module in modules.items():
        parameters = {key: value.detach().contiguous() for key, value in trainable(module).items()}
        save_file(parameters, aside / f"{name}.safetensors")
        if name in optimizers:
            save_file(_optimizer_state(optimizers[name]), aside / f"{name}_optimizer.safetensors")
    (aside / STATE).write_text(json.dumps({"update": update, "state": dict(state)}), encoding="utf-8")
    seal(aside)
    shutil.rmtree(place, ignore_errors=True)
    os.rename(aside, place)
    sync(folder)
    _prune(folder, update, refuge, keep_every)


def load(
    folder: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> tuple[int, dict[str, Any]]:
    """Restore the newest intact checkpoint in ``folder`` and return its update and state; (0, {}) without one.

    Raises:
        RunError: every checkpoint is corrupted.
    """
    place = newest_whole(resumable(folder, "update-*", "ppo"), "ppo")
    return (0, {}) if place is None else restore(place, modules, optimizers)


def restore(
    place: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> tuple[int, dict[str, Any]]:
    """Load one checkpoint into models and optimizers and return its update and state.

    Raises:
        RunError: it has weights of another model.
    """
    for name, module in modules.items():
        parameters, stored = trainable(module), load_file(place / f"{name}.safetensors")
        if {key: x.shape for key, x in stored.items()} != {key: x.shape for key, x in parameters.items()}:
            raise RunError(f"{place} has other weights than the {name}: use the model that it was trained from")
        with torch.no_grad():
            for key, value in stored.items():
                parameters[key].copy_(value)
        if name in optimizers:
            _restore_optimizer(optimizers[name], load_file(place / f"{name}_optimizer.safetensors"))
    return number(place), _state(place)


def checkpoints(folder: Path) -> list[Path]:
    """Return the folders of the checkpoints, oldest first."""
    return sorted(folder.glob("update-*"), key=number)


def healthy(folder: Path, latest: int) -> Path | None:
    """Return the newest intact checkpoint up to update ``latest`` at which no diagnosis was active, if any."""
    for place in reversed(checkpoints(folder)):
        if number(place) <= latest and fault(place) is None and _state(place).get("healthy"):
            return place
    return None


def discard_after(folder: Path, update: int) -> None:
    """Delete checkpoints newer than ``update``."""
    for place in checkpoints(folder):
        if number(place) > update:
            shutil.rmtree(place)


def _prune(folder: Path, update: int, refuge: int | None, keep_every: int | None) -> None:
    discard_after(folder, update)
    places = checkpoints(folder)
    kept = places[-KEPT:]
    if refuge is not None:
        intact = [place for place in places if fault(place) is None and _state(place).get("healthy")]
        kept += [place for place in intact if number(place) <= refuge][-1:]
        kept += [place for place in intact if number(place) > refuge][:1]
    for place in places:
        if place not in kept and (keep_every is None or number(place) % keep_every):
            shutil.rmtree(place)


def _state(place: Path) -> dict[str, Any]:
    return json.loads((place / STATE).read_text(encoding="utf-8"))["state"]


def _optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def _restore_optimizer(optimizer: Optimizer, flat: dict[str, Tensor]) -> None:
    whole: dict[str, Any] = optimizer.state_dict()
    whole["state"] = {}
    for name, value in flat.items():
        index, _, key = name.partition(".")
        whole["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(whole)
