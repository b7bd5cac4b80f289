"""The processes that share a run: their number, the rank of this one, and the values that they exchange.

rlhf.hardware.launch or torchrun starts them and sets the environment variables that identify each. In a single process
every function here is trivial and cheap; torch is imported only when it is needed.
"""

import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

from rlhf.config import Hardware, Strategy
from rlhf.errors import ConfigError, TrainingError

T = TypeVar("T")


def started() -> bool:
    """Return whether this process is one of several that were started together."""
    return "RANK" in os.environ and size() > 1


def size() -> int:
    """Return the number of processes that share this run: 1, unless several were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Return the rank of this process, 0 in a single process."""
    return int(os.environ["RANK"]) if started() else 0


def is_main() -> bool:
    """Return whether this is the process that writes, logs and prints."""
    return rank() == 0


def local(hardware: Hardware) -> int:
    """Return the number of processes of a run on one machine.

    Raises:
        ConfigError: the settings ask for one process per GPU, and torch finds no GPU.
    """
    if hardware.strategy is Strategy.none:
        return 1
    if hardware.processes is not None:
        return hardware.processes
    import torch

    gpus = torch.cuda.device_count() if hardware.device != "cpu" else 0
    if not gpus:
        raise ConfigError(
            f"hardware={hardware.name} starts one process per GPU, and torch sees no GPU: "
            "set hardware.processes=2, for example, for two on the CPU"
        )
    return gpus


def asked(hardware: Hardware) -> int:
    """Return the number of processes of a run on all machines: those that were started, or those to be started.

    Raises:
        ConfigError: see ``local``.
    """
    return size() if started() else local(hardware) * hardware.nodes


def check_strategy(hardware: Hardware) -> None:
    """Refuse a strategy that is impossible here, before a process is started.

    Raises:
        ConfigError: the strategy shards the model and torch sees no GPU, or DeepSpeed is not installed.
    """
    strategy = hardware.strategy
    if not strategy.sharded:
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"hardware.strategy={strategy.value} needs GPUs and torch sees none (accelerate would silently run plain "
            "ddp): set hardware=ddp"
        )
    if strategy is not Strategy.fsdp and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"hardware.strategy={strategy.value} needs a package that is not installed: pip install 'rlhf[deepspeed]'"
        )


def join(hardware: Hardware) -> None:
    """Join the other processes; does nothing in a single process.

    Raises:
        ConfigError: another number of processes was started than the settings ask for.
        TrainingError: accelerate sees another number of processes than were started.
    """
    if not started():
        return
    import torch
    from accelerate import PartialState

    if hardware.processes is not None and hardware.processes * hardware.nodes != size():
        raise ConfigError(
            f"asked for {hardware.processes * hardware.nodes} processes (hardware.processes={hardware.processes}, "
            f"hardware.nodes={hardware.nodes}), but {size()} were started: use the same number for both"
        )
    cpu = not torch.cuda.is_available() if hardware.device == "auto" else hardware.device == "cpu"
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo" if cpu else backend(torch.cuda.device_count()))
    # Without ``cpu``, accelerate treats every process on a machine without a GPU as the only one.
    _compare(PartialState(cpu=cpu).num_processes)


def backend(gpus: int) -> str:
    """Return the backend of processes on GPUs: NCCL refuses two processes on one GPU, where gloo copies to the host.

    The values that are exchanged beside the training are not tensors on a GPU, so gloo is there in any case.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "gloo" if here > gpus else "cuda:nccl,cpu:gloo"


def check(accelerator: Any, strategy: Strategy) -> None:
    """Check that ``accelerator`` shares the run among all processes, with ``strategy``.

    Raises:
        TrainingError: it sees another number of processes, or uses another strategy.
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
            f"hardware.strategy={strategy.value}, but accelerate uses {found.value}: "
            "set hardware.strategy=ddp, or use a device and a version of accelerate that support it"
        )
    if strategy is Strategy.fsdp and not accelerator.is_fsdp2:
        raise TrainingError(
            "hardware.strategy=fsdp means FSDP2, but accelerate uses FSDP1: unset FSDP_VERSION, or set hardware=ddp"
        )


def strategy_of(hardware: Hardware) -> Strategy:
    """Return the strategy of the settings; ddp for processes that torchrun started without one."""
    return Strategy.ddp if hardware.strategy is Strategy.none and started() else hardware.strategy


def record(hardware: Hardware) -> dict[str, Any]:
    """Return the number of processes and the strategy, for run.json."""
    return {"processes": size(), "strategy": strategy_of(hardware).value}


def _compare(seen: int) -> None:
    if seen != size():
        raise TrainingError(
            f"accelerate sees {seen} processes instead of {size()}: unset the ACCELERATE_* variables that change it"
        )


def wait() -> None:
    """Wait until all processes are here."""
    anywhere(False)


def told(value: T) -> T:
    """Return the first process's ``value`` in every process."""
    if not started():
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gathered(value: T) -> list[T]:
    """Return the ``value`` of every process, by rank, in every process."""
    if not started():
        return [value]
    import torch

    found: list[T] = [value] * size()
    torch.distributed.all_gather_object(found, value)
    return found


def anywhere(holds: bool) -> bool:
    """Return whether ``holds`` is true in any process: a decision of only one would let the others wait forever."""
    if not started():
        return holds
    import torch

    flag = torch.tensor(float(holds))
    torch.distributed.all_reduce(flag)
    return bool(flag)


@contextmanager
def one_speaks() -> Generator[None]:
    """Let only the first process print and show progress bars within the context."""
    if is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
