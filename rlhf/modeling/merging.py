"""Means of the weights of several models, read tensor by tensor: whole weights, or adapters on one model."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf.errors import LineageError, ModelError
from rlhf.modeling.bases import ADAPTER
from rlhf.storage.json_files import write_json

ADAPTER_WEIGHTS = "adapter_model.safetensors"
KEPT = ("config.json", "generation_config.json", "model.safetensors.index.json")


class Weights:
    """The tensors of a folder's safetensors, each read when it is asked for; ``title`` names the model in errors."""

    def __init__(self, folder: Path, title: str, stack: ExitStack):
        self.folder, self.title = folder, title
        self.files = {
            path.name: stack.enter_context(safe_open(path, framework="pt"))
            for path in sorted(folder.glob("*.safetensors"))
        }
        self.places = {name: file for file in self.files.values() for name in file.keys()}  # noqa: SIM118 - no mapping

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape from the headers of the files."""
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self.places.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.places[name].get_tensor(name)


def merge(folders: Sequence[Path], titles: Sequence[str], shares: Sequence[float], target: Path) -> int:
    """Write Σ w θ over the models in ``folders`` to ``target``, file by file, and return the number of tensors.

    Sums are in float32, and the results in the type of the first model. A tensor of integers must be the same in all.

    Raises:
        LineageError: the models have different tensors.
        ModelError: a merged tensor is not finite.
    """
    target.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        models = [Weights(folder, title, stack) for folder, title in zip(folders, titles, strict=True)]
        _check_alike(models)
        for name, file in models[0].files.items():
            save_file({key: _mean(models, key, shares) for key in file.keys()}, target / name, {"format": "pt"})  # noqa: SIM118
        for name in KEPT:
            if (folders[0] / name).is_file():
                (target / name).write_bytes((folders[0] / name).read_bytes())
        return len(models[0].places)


def _mean(models: Sequence[Weights], name: str, shares: Sequence[float]) -> Tensor:
    first = models[0][name]
    if not first.is_floating_point():
        if not all(torch.equal(first, other[name]) for other in models[1:]):
            raise LineageError(f"{name} has integers that differ between {models[0].title} and others: leave them out")
        return first
    total = shares[0] * first.float()
    for share, other in zip(shares[1:], models[1:], strict=True):
        total.add_(other[name].float(), alpha=share)
    return _finite(total, name).to(first.dtype)


def _check_alike(models: Sequence[Weights]) -> None:
    """Check that all models have the tensors of the first."""
    shapes = models[0].shapes()
    for other in models[1:]:
        found = other.shapes()
        for name in (*shapes, *found):
            if shapes.get(name) != found.get(name):
                sizes = [tuple(one[name]) if name in one else "missing" for one in (shapes, found)]
                raise LineageError(
                    f"{other.title} has other weights than {models[0].title}: {name} is {sizes[1]} instead of "
                    f"{sizes[0]}: merge models of one architecture and vocabulary"
                )


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise ModelError(f"the merged {name} is not finite: leave the model out that has such weights")
    return tensor


def merge_adapters(
    folders: Sequence[Path], titles: Sequence[str], shares: Sequence[float], rank: int, target: Path
) -> float:
    """Write an adapter of at most ``rank`` whose product is nearest to Σ w s B A; return the relative error.

    Each sum is a product of two thin matrices, [w₁ s₁ B₁ ...] [A₁; ...], whose singular value decomposition is that of
    a small matrix after a QR decomposition of both. The error is ‖Σ w s B A - B' A'‖ / ‖Σ w s B A‖ in Frobenius norm
    over all layers; it is 0, up to rounding, if ``rank`` is at least the sum of the ranks. Other tensors, such as the
    head of a reward model, are summed with the same weights.

    Raises:
        LineageError: the adapters are on different layers.
        ModelError: a merged matrix is not finite.
    """
    target.mkdir(parents=True, exist_ok=True)
    configs: list[Any] = [PeftConfig.from_pretrained(str(folder)) for folder in folders]
    scales = [share * _scale(config) for share, config in zip(shares, configs, strict=True)]
    rank = min(rank, sum(config.r for config in configs))
    merged: dict[str, Tensor] = {}
    lost = whole = 0.0
    with ExitStack() as stack:
        models = [Weights(folder, title, stack) for folder, title in zip(folders, titles, strict=True)]
        for layer in _layers(models):
            down = torch.cat([model[f"{layer}.lora_A.weight"].double() for model in models])
            up = [scale * model[f"{layer}.lora_B.weight"].double() for scale, model in zip(scales, models, strict=True)]
            (left, r_left), (right, r_right) = torch.linalg.qr(torch.cat(up, 1)), torch.linalg.qr(down.T)
            u, sizes, v = torch.linalg.svd(_finite(r_left @ r_right.T, layer), full_matrices=False)
            root = sizes[:rank].sqrt()
            padded = (0, rank - len(root))  # a layer narrower than the rank
            merged[f"{layer}.lora_B.weight"] = _pad(left @ u[:, :rank] * root, padded)
            merged[f"{layer}.lora_A.weight"] = _pad((right @ v.T[:, :rank] * root), padded).T.contiguous()
            lost, whole = lost + sizes[rank:].square().sum().item(), whole + sizes.square().sum().item()
        for name in (name for name in models[0].places if ".lora_" not in name):
            merged[name] = _mean(models, name, shares)
    save_file(merged, target / ADAPTER_WEIGHTS, {"format": "pt"})
    config = json.loads((folders[0] / ADAPTER).read_text(encoding="utf-8"))
    write_json(target / ADAPTER, config | {"r": rank, "lora_alpha": rank, "use_rslora": False})
    return math.sqrt(lost / whole) if whole else 0.0


def _pad(matrix: Tensor, columns: tuple[int, int]) -> Tensor:
    return torch.nn.functional.pad(matrix, columns).float().contiguous()


def _scale(config: Any) -> float:
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def _layers(models: Sequence[Weights]) -> Iterator[str]:
    """Yield the layers that every adapter has."""
    names = [{name.rpartition(".lora_")[0] for name in model.places if ".lora_" in name} for model in models]
    for model, own in zip(models, names, strict=True):
        if own != names[0]:
            raise LineageError(
                f"{model.title} is an adapter on other layers than {models[0].title}: set stage.rank=null, which "
                "merges whole weights"
            )
    yield from sorted(names[0])
