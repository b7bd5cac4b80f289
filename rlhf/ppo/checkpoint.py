"""Weights and optimizer states on disk, as safetensors: nothing is pickled, and a checkpoint is there whole or not."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

KEPT = 2


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter, of those that training changes: all of a whole model, an adapter's alone of an adapted one."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, Optimizer],
    update: int,
    state: dict[str, Any],
) -> None:
    """Write ``update-<n>`` aside and rename it; older checkpoints than the last two go. ``state`` is kept as JSON."""
    place = folder / f"update-{update}"
    aside = folder / f".{place.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, module in modules.items():
        parameters = {key: value.detach().contiguous() for key, value in trainable(module).items()}
        save_file(parameters, aside / f"{name}.safetensors")
        save_file(_optimizer_state(optimizers[name]), aside / f"{name}_optimizer.safetensors")
    (aside / "state.json").write_text(json.dumps({"update": update, "state": state}), encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    os.rename(aside, place)
    for old in sorted(folder.glob("update-*"), key=_number)[:-KEPT]:
        shutil.rmtree(old)


def load(folder: Path, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> tuple[int, dict[str, Any]]:
    """Restore the newest checkpoint in ``folder``; returns its update and state, (0, {}) where there is none."""
    place = max(folder.glob("update-*"), key=_number, default=None)
    if place is None:
        return 0, {}
    for name, module in modules.items():
        parameters = trainable(module)
        with torch.no_grad():
            for key, value in load_file(place / f"{name}.safetensors").items():
                parameters[key].copy_(value)
        _restore_optimizer(optimizers[name], load_file(place / f"{name}_optimizer.safetensors"))
    saved = json.loads((place / "state.json").read_text(encoding="utf-8"))
    return saved["update"], saved["state"]


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


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
