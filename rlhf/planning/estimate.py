"""The plan of one stage: its model, workload and memory on a machine, and whether it fits."""

from dataclasses import dataclass
from typing import Any

import torch

from rlhf.config import PreferenceStage, Settings, Strategy
from rlhf.config.plan import PlanStage
from rlhf.errors import ConfigError
from rlhf.hardware import memory
from rlhf.hardware import ranks as world
from rlhf.hardware.device import torch_device
from rlhf.planning import ppo, trained
from rlhf.planning import workload as work
from rlhf.planning.memory_estimate import Ledger
from rlhf.planning.shapes import Architecture, architecture
from rlhf.planning.strategy import Ranks
from rlhf.planning.trained import Place
from rlhf.planning.workload import Rows, Work
from rlhf.preference.reference import beside_shards

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A device to plan for: ``room`` is its memory for models in bytes, ``bandwidth`` is in GB/s."""

    name: str
    place: Place
    room: int
    tflops: float | None
    bandwidth: float | None


@dataclass(frozen=True)
class Outlook:
    """The plan of one stage."""

    settings: Settings
    model: Architecture
    work: Work
    ledger: Ledger
    machine: Machine

    @property
    def fits(self) -> bool:
        """Whether the peak is at most the memory of the machine."""
        return self.ledger.peak <= self.machine.room


def machine_of(settings: Settings, plan: PlanStage) -> Machine:
    """Return this machine with its free memory, or the GPU that ``plan`` names, less the headroom.

    Raises:
        ModelError: the settings ask for a GPU, but torch sees none.
    """
    ranks = ranks_of(settings, plan)
    if not plan.here:
        numbers = plan.machine()
        room = int((numbers["memory_gib"] or 0) * GIB * (1 - plan.headroom))
        name = plan.device if plan.memory_gib is None else f"a GPU of {plan.memory_gib:g} GiB"
        return Machine(name, Place(ranks, gpu=True), room, numbers["tflops"], numbers["bandwidth"])
    device = torch_device(settings.hardware)
    gpu = device.type == "cuda"
    free = memory.available(device)
    room = int(free * (1 - plan.headroom)) if gpu else free // ranks.count
    name = torch.cuda.get_device_name(device) if gpu else "this machine"
    return Machine(name, Place(ranks, gpu), room, None, None)


def ranks_of(settings: Settings, plan: PlanStage) -> Ranks:
    """Return the ranks that stage=plan sets, else those of ``hardware``.

    Raises:
        ConfigError: a sharded strategy is set for stage=ppo, which supports only ddp.
    """
    if settings.stage.name == "ppo" and plan.strategy is not None and plan.strategy.sharded:
        raise ConfigError(
            f"stage.strategy={plan.strategy.value} cannot be planned for ppo, which supports only ddp: set "
            "stage.strategy=ddp, or leave ppo out of stage.stages"
        )
    hardware = settings.hardware
    count = plan.gpus or (world.asked(hardware) if plan.here else (hardware.processes or 1) * hardware.nodes)
    shared = hardware.strategy if hardware.strategy is not Strategy.none or count == 1 else Strategy.ddp
    return Ranks(plan.strategy or shared, count)


def look_ahead(
    settings: Settings, plan: PlanStage, rows: Rows | None = None, model: Architecture | None = None
) -> Outlook:
    """Return the plan of ``settings.stage``; pass ``rows`` and ``model`` if they are known from an earlier plan.

    Raises:
        RlhfError: the model or its data are neither available nor described in the settings.
    """
    model = model or architecture(settings, plan.shapes)
    machine = machine_of(settings, plan)
    if isinstance(settings.stage, PreferenceStage):
        settings = beside_shards(settings, machine.place.ranks.strategy)
    rows = rows or work.rows_of(settings, plan)
    is_ppo = settings.stage.name == "ppo"
    count = machine.place.ranks.count
    if is_ppo:
        done = work.sampled(settings, rows, count)
    else:
        done = work.trained(settings, rows, count, shares=trained.shares(settings, model))
        done = work.repeated(settings, done, rows)
    ledger = (ppo if is_ppo else trained).ledger(settings, model, done, machine.place)
    return Outlook(settings, model, done, ledger, machine)


def record(outlook: Outlook) -> dict[str, Any]:
    """Return the plan as JSON-serializable numbers; memory in bytes."""
    return {
        "stage": outlook.settings.stage.name,
        "parameters": outlook.model.size.parameters,
        "steps": outlook.work.steps,
        "tokens": outlook.work.tokens,
        "memory": outlook.ledger.record(),
        "room": outlook.machine.room,
        "fits": outlook.fits,
    }
