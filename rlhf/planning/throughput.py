"""Time per token, measured, stated or assumed from the speed of a GPU, and the time of a stage."""

from typing import NamedTuple

from rlhf.config import AdapterKind, Settings
from rlhf.config.plan import PlanStage
from rlhf.hardware.memory import cache
from rlhf.planning.estimate import Outlook

FORWARD, TRAINED, FROZEN = 2, 6, 4  # operations per parameter and token; frozen weights have no gradient


class Pace(NamedTuple):
    """Seconds of one device.

    ``train`` and ``read``: per token of a training step or a forward pass, including padding. ``draw``: per token of a
    whole batch of responses. ``step``: per step of the optimizer.
    """

    train: float
    read: float
    draw: float
    step: float
    source: str


def operations(settings: Settings) -> int:
    """Return the operations per parameter and token in training: 6, 4 with an adapter, 2 more with checkpointing.

    Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1; those of attention are ignored.
    """
    count = TRAINED if settings.adapter.kind is AdapterKind.none else FROZEN
    trainer = getattr(settings.stage, "trainer", {})
    return count + (FORWARD if trainer.get("activation_checkpointing") else 0)


def assumed(outlook: Outlook, plan: PlanStage) -> Pace:
    """Return the pace from the GPU's numbers: operations / (mfu · peak); sampling reads weights and cache per token."""
    settings, size, machine = outlook.settings, outlook.model.size, outlook.machine
    assert machine.tflops is not None
    assert machine.bandwidth is not None
    speed = plan.mfu * machine.tflops * 1e12
    count, read = operations(settings), FORWARD * size.parameters / speed
    held = size.weights + cache(size.shape, outlook.work.rows, outlook.work.longest, outlook.model.width)
    draw = max(held / (plan.mbu * machine.bandwidth * 1e9), outlook.work.rows * read)
    source = f"assumed: {count} operations per parameter and token, {plan.mfu:.0%} of {machine.tflops:g} TFLOP/s"
    if outlook.work.drawn:
        source += f"; sampling at {plan.mbu:.0%} of {machine.bandwidth:g} GB/s"
    return Pace(count * size.parameters / speed, read, draw, 0.0, source)


def stated(outlook: Outlook, tokens_per_second: float) -> Pace:
    """Return the pace from the speed of training; sampling a token takes as long as reading one."""
    train = 1 / tokens_per_second
    read = train * FORWARD / operations(outlook.settings)
    return Pace(train, read, outlook.work.rows * read, 0.0, f"stated: {tokens_per_second:g} tokens per second")


def seconds(outlook: Outlook, pace: Pace) -> float:
    """Return the seconds of the stage: passes, sampling and steps; communication between devices is ignored."""
    work, devices = outlook.work, outlook.machine.place.ranks.count
    passes = (work.trained * pace.train + work.read * pace.read) / devices
    return passes + work.drawn / (work.rows * devices) * pace.draw + work.steps * pace.step


def pace_of(outlook: Outlook, plan: PlanStage) -> Pace | None:
    """Return the stated, assumed or measured pace; None without a probe or if the model does not fit here."""
    if plan.tokens_per_second is not None:
        return stated(outlook, plan.tokens_per_second)
    if outlook.machine.tflops is not None:
        return assumed(outlook, plan)
    if not plan.probe or not outlook.fits:
        return None
    from rlhf.planning.probe import probe

    return probe(outlook, plan.probe_seconds)
