"""How long a token takes: measured here, stated, or from the speed of a GPU; and the hours that a stage then takes."""

from typing import NamedTuple

from rlhf.config import AdapterKind, Settings
from rlhf.config.plan import PlanStage
from rlhf.hardware.memory import cache
from rlhf.planning.estimate import Outlook

FORWARD, TRAINED, FROZEN = 2, 6, 4  # operations a parameter and token; without the gradients of frozen weights 4


class Pace(NamedTuple):
    """Seconds of one device: of a token that is trained on and one that is read, padding included; of a token more of
    every response that is drawn at once; of the optimizer at each step."""

    train: float
    read: float
    draw: float
    step: float
    source: str


def operations(settings: Settings) -> int:
    """Of a parameter and token in training: 6, or 4 under an adapter, and 2 more where the forward pass is made again.

    Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1; attention's own are left out.
    """
    count = TRAINED if settings.adapter.kind is AdapterKind.none else FROZEN
    trainer = getattr(settings.stage, "trainer", {})
    return count + (FORWARD if trainer.get("activation_checkpointing") else 0)


def assumed(outlook: Outlook, plan: PlanStage) -> Pace:
    """From the machine's numbers: operations / (mfu · peak), and for a token that is drawn the bytes that it reads."""
    settings, size, machine = outlook.settings, outlook.model.size, outlook.machine
    speed = plan.mfu * machine.tflops * 1e12
    count, read = operations(settings), FORWARD * size.parameters / speed
    held = size.weights + cache(size.shape, outlook.work.rows, outlook.work.longest, outlook.model.width)
    draw = max(held / (plan.mbu * machine.bandwidth * 1e9), outlook.work.rows * read)
    said = f"{count} operations a parameter and trained token, {plan.mfu:.0%} of {machine.tflops:g} TFLOP/s"
    if outlook.work.drawn:
        said += f"; sampling at {plan.mbu:.0%} of {machine.bandwidth:g} GB/s"
    return Pace(count * size.parameters / speed, read, draw, 0.0, f"assumed: {said}")


def stated(outlook: Outlook, plan: PlanStage) -> Pace:
    """From ``tokens_per_second`` of training; a token that is drawn takes as long as one that is read."""
    train = 1 / plan.tokens_per_second
    read = train * FORWARD / operations(outlook.settings)
    return Pace(train, read, outlook.work.rows * read, 0.0, f"stated: {plan.tokens_per_second:g} tokens a second")


def seconds(outlook: Outlook, pace: Pace) -> float:
    """Of the whole stage: its passes, its drawing and its steps; what devices tell each other takes none here."""
    work, devices = outlook.work, outlook.machine.place.ranks.count
    passes = (work.trained * pace.train + work.read * pace.read) / devices
    return passes + work.drawn / (work.rows * devices) * pace.draw + work.steps * pace.step


def pace_of(outlook: Outlook, plan: PlanStage) -> Pace | None:
    """None where nothing says: no probe is wanted, or the model does not fit into this machine."""
    if plan.tokens_per_second is not None:
        return stated(outlook, plan)
    if outlook.machine.tflops is not None:
        return assumed(outlook, plan)
    if not plan.probe or not outlook.fits:
        return None
    from rlhf.planning.probe import probe

    return probe(outlook, plan.probe_seconds)
