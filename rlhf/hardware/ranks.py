"""The processes that share a run: how many were asked for, which of them this is, and what they tell each other.

rlhf.hardware.launch or torchrun starts them and sets the environment variables that identify each. In a single process
every function here is trivial and cheap; torch is imported only when it is needed.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

from rlhf.config import Hardware, Strategy
from rlhf.errors import ConfigError, TrainingError

T = TypeVar("T")


def started() -> bool:
    """Whether this process is one of several that were started together."""
    return "RANK" in os.environ and size() > 1


def size() -> int:
    """How many processes share this run: 1, unless it was started with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    return int(os.environ["RANK"]) if started() else 0


def is_main() -> bool:
    """Whether this is the one that writes, logs and speaks."""
    return rank() == 0


def local(hardware: Hardware) -> int:
    """The processes of a run on one machine.

    Raises:
        ConfigError: one a GPU is asked for, and there is no GPU.
    """
    if hardware.strategy is Strategy.none:
        return 1
    if hardware.processes is not None:
        return hardware.processes
    import torch

    gpus = torch.cuda.device_count() if hardware.device != "cpu" else 0
    if not gpus:
        raise ConfigError(
            f"hardware={hardware.name} starts a process a GPU, and torch sees none: give hardware.processes=2, say, "
            "for two on the CPU"
        )
    return gpus


def asked(hardware: Hardware) -> int:
    """The processes of a run on all machines: those that were started together, or those that will be.

    Raises:
        ConfigError: see ``local``.
    """
    return size() if started() else local(hardware) * hardware.nodes


def check_strategy(hardware: Hardware) -> None:
    """Refuse what cannot be done here, before a process is started.

    Raises:
        ConfigError: there is no GPU to put shards on, or no DeepSpeed.
    """
    strategy = hardware.strategy
    if not strategy.sharded:
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"hardware.strategy={strategy.value} needs GPUs and torch sees none (accelerate would run plain ddp "
            "without a word): give hardware=ddp"
        )
    if strategy is not Strategy.fsdp and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"hardware.strategy={strategy.value} needs a package that is not installed: pip install 'rlhf[deepspeed]'"
        )


def join(hardware: Hardware) -> None:
    """Meet the other processes; nothing to do for one that is alone.

    Raises:
        ConfigError: other processes were started than the settings ask for.
        TrainingError: accelerate does not see those that were started.
    """
    if not started():
        return
    import torch
    from accelerate import PartialState

    if hardware.processes is not None and hardware.processes * hardware.nodes != size():
        raise ConfigError(
            f"asked for {hardware.processes * hardware.nodes} processes (hardware.processes={hardware.processes}, "
            f"hardware.nodes={hardware.nodes}), but {size()} were started: give the one that is meant to both"
        )
    cpu = not torch.cuda.is_available() if hardware.device == "auto" else hardware.device == "cpu"
    if not torch.distributed.is_initialized():
        # gloo beside nccl: what is told here is no tensor on a GPU.
        torch.distributed.init_process_group("gloo" if cpu else "cuda:nccl,cpu:gloo")
    # Left to itself, accelerate makes every process on a machine without a GPU believe that it is alone.
    _compare(PartialState(cpu=cpu).num_processes)


def check(accelerator: Any, strategy: Strategy) -> None:
    """Assert that ``accelerator`` shares the run among all processes, and by ``strategy``.

    Raises:
        TrainingError: it sees other processes, or shares the work in another way.
    """
    from accelerate import DistributedType

    _compare(accelerator.num_processes)
    kinds = {
        Strategy.none: (DistributedType.NO,),
        Strategy.ddp: (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU),
        Strategy.fsdp: (DistributedType.FSDP,),
    }
    found = accelerator.distributed_type
    alone = strategy is Strategy.ddp and size() == 1 and found is DistributedType.NO
    if found not in kinds.get(strategy, (DistributedType.DEEPSPEED,)) and not alone:
        raise TrainingError(
            f"asked for hardware.strategy={strategy.value}, accelerate does {found.value}: "
            "give hardware.strategy=ddp, or a device and an accelerate that have it"
        )
    if strategy is Strategy.fsdp and not accelerator.is_fsdp2:
        raise TrainingError("asked for FSDP2, accelerate does FSDP1: unset FSDP_VERSION, or give hardware=ddp")


def strategy_of(hardware: Hardware) -> Strategy:
    """What was asked for; of processes that torchrun started without one, ddp."""
    return Strategy.ddp if hardware.strategy is Strategy.none and started() else hardware.strategy


def record(hardware: Hardware) -> dict[str, Any]:
    """What run.json says of the processes."""
    return {"processes": size(), "strategy": strategy_of(hardware).value}


def _compare(seen: int) -> None:
    if seen != size():
        raise TrainingError(
            f"asked for {size()} processes, accelerate sees {seen}: unset ACCELERATE_* variables that say otherwise"
        )


def wait() -> None:
    """Until all processes are here."""
    anywhere(False)


def told(value: T) -> T:
    """The first process's ``value``, in all of them."""
    if not started():
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gathered(value: T) -> list[T]:
    """Each process's ``value``, in all of them, by rank."""
    if not started():
        return [value]
    import torch

    found: list[T] = [value] * size()
    torch.distributed.all_gather_object(found, value)
    return found


def anywhere(holds: bool) -> bool:
    """Whether it holds in any process: what one alone decided would leave the others waiting for it for ever."""
    if not started():
        return holds
    import torch

    flag = torch.tensor(float(holds))
    torch.distributed.all_reduce(flag)
    return bool(flag)


@contextmanager
def one_speaks() -> Iterator[None]:
    """A context in which only the first process prints and shows bars."""
    if is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
