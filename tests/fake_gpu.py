"""A GPU for tests on a machine without one: its tensors are computed on the CPU, and operators refuse other tensors.

torch's private device has a real ``torch.device``, so that code which reads ``tensor.device`` sees a GPU. A tensor on
it is an `OnGPU` around a CPU tensor. As on a real GPU, an operator takes tensors of one device, besides copies, scalars
of the CPU, and indices of the CPU into a tensor of the GPU. `Device.reads` counts how often the host waits for the GPU.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "fake_gpu"
COPIES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
SIZED = ("nonzero", "_unique2", "unique_dim", "masked_select", "_local_scalar_dense", "equal", "bincount")
WAITS = {f"aten::{name}" for name in SIZED}  # their result, or its size, is read from the GPU


class Module(_DummyBackendModule):
    """The functions of ``torch.<name>`` that generators and autocast need."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, Module())
GPU = torch.device(NAME, 0)


class OnGPU(torch.Tensor):
    """A tensor of the GPU around its numbers, a CPU tensor."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "OnGPU":
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, numbers.size(), **layout, dtype=numbers.dtype, device=GPU)
        made.numbers = numbers
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return computed(operator, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.numbers.untyped_storage()


def computed(operator: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return the result of ``operator`` on the device that a GPU machine would have it on.

    Raises:
        RuntimeError: tensors of both devices meet.
    """
    name, given = operator._schema.name, [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    check(name, args, given)
    device = kwargs.get("device")
    first = given[:1] if name in COPIES else given
    on_gpu = any(isinstance(x, OnGPU) for x in first) if device is None else device.type == NAME
    if on_gpu and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name} mixes devices: its generator is on the CPU")
    result = operator(*tree_map(plain, args), **tree_map(plain, kwargs))
    if not on_gpu or name == "aten::_local_scalar_dense":
        return result
    wrapped = tree_map(lambda x: OnGPU(x) if isinstance(x, torch.Tensor) else x, result)
    return return_and_correct_aliasing(operator, args, kwargs, wrapped)


def plain(x: Any) -> Any:
    """Return the numbers of a tensor of the GPU, and the CPU for the GPU."""
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return x.numbers if isinstance(x, OnGPU) else x


def check(name: str, args: tuple, given: list[torch.Tensor]) -> None:
    """Raise a RuntimeError if the tensors of an operator are on devices that a GPU does not combine."""
    if name in COPIES or not any(isinstance(x, OnGPU) for x in given):
        return
    elsewhere = [x for x in given if not isinstance(x, OnGPU) and x.dim()]
    if name in INDEXED and isinstance(args[0], OnGPU):
        indices = tree_leaves(args[1])
        elsewhere = [x for x in elsewhere if not any(x is index for index in indices)]
    if elsewhere:
        found = ", ".join(f"{tuple(x.shape)} on {x.device.type}" for x in given)
        raise RuntimeError(f"{name} mixes devices: {found}")


class Device(TorchDispatchMode):
    """The context in which the GPU exists. ``reads`` counts the operators that make the host wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = computed(operator, args, kwargs)
        if (name := read(operator, args, result)) is not None:
            self.reads[name] += 1
        return result


def read(operator: Any, args: tuple, result: Any) -> str | None:
    """Return the name of an operator that makes the host wait for the GPU, None for the others."""
    name, given = operator._schema.name, [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
    if not any(isinstance(x, OnGPU) for x in given):
        return None
    masked = name in INDEXED and any(x is not None and x.dtype is torch.bool for x in args[1])
    copied = name in COPIES and not isinstance(result, OnGPU)
    return name.removeprefix("aten::") if name in WAITS or masked or copied else None


# Besides the operators in a context: ``torch.tensor(..., device=GPU)`` calls these below it.
LIBRARY = torch.library.Library("aten", "IMPL")


def implement(name: str) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        LIBRARY.impl(name, function, "PrivateUse1")
        return function

    return register


@implement("empty_strided")
def empty_strided(size: list[int], stride: list[int], *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return OnGPU(torch.empty_strided(size, stride, dtype=dtype))


@implement("empty.memory_format")
def empty(size: list[int], *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return OnGPU(torch.empty(size, dtype=dtype))


@implement("_copy_from")
def copy_from(source: Any, target: Any, non_blocking: bool = False) -> torch.Tensor:
    plain(target).copy_(plain(source))
    return target
