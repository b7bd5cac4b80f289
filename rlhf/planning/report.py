"""A plan as a person reads it, in 80 columns."""

from collections.abc import Sequence

import torch
from rich.table import Table

from rlhf.config import AdapterKind, Strategy
from rlhf.console import console, duration
from rlhf.hardware.memory import available, count, size
from rlhf.hardware.precision import autocasts
from rlhf.planning.estimate import Outlook
from rlhf.planning.memory_estimate import Ledger
from rlhf.planning.remedies import Remedy, first
from rlhf.planning.throughput import Pace, seconds


def tell(sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False, soft_wrap=False)


def show(outlook: Outlook, pace: Pace | None) -> None:
    """One stage: what it is, who holds what and when, whether it fits, and what it has to do."""
    stage, model = outlook.settings.stage.name, outlook.model
    tell(f"{stage}: {count(model.size.parameters)} parameters ({model.source}), {trained(outlook)}, {spread(outlook)}")
    console.print(table_of(stage, outlook.ledger))
    tell(fitting(outlook))
    for note in outlook.ledger.notes:
        tell(f"{stage}: {note}")
    if autocasts(outlook.settings, outlook.machine.place.gpu):
        tell(f"{stage}: planned in float32; copies in bfloat16, which autocast makes, are not counted")
    tell(doing(outlook))
    tell(f"{stage}: {lasting(outlook, pace)}")


def trained(outlook: Outlook) -> str:
    adapter, dtype = outlook.settings.adapter, outlook.settings.model.dtype.value
    if adapter.kind is AdapterKind.none:
        return f"every weight trained in {dtype}"
    base = "4 bits" if adapter.kind is AdapterKind.qlora else dtype
    return f"adapters of rank {adapter.rank} trained over {base}"


def spread(outlook: Outlook) -> str:
    ranks = outlook.machine.place.ranks
    if ranks.strategy is Strategy.none:
        return f"on {outlook.machine.name}"
    return f"on {ranks.count} x {outlook.machine.name} by {ranks.strategy.value}"


def show_ledger(stage: str, ledger: Ledger, device: torch.device) -> None:
    """What a stage says before it begins: its memory, beside what is free of the machine that it runs on."""
    console.print(table_of(stage, ledger))
    free, where = available(device), "this GPU" if device.type == "cuda" else "this machine"
    sentence = f"{stage}: {size(ledger.peak)} at the peak, {ledger.highest.name}, of {size(free)} free on {where}"
    if ledger.peak > free:
        sentence += ", which is too much: the same command with hardware.plan=true says what helps"
    console.print(sentence, highlight=False, soft_wrap=True)


def table_of(stage: str, ledger: Ledger) -> Table:
    """Roles with what stays, then phases with what comes and goes; the highest is marked."""
    table = Table(title=f"{stage}: memory of one device, planned", title_justify="left")
    table.add_column("role")
    for heading in ("parameters", "trained", "weights", "gradients", "optimizer"):
        table.add_column(heading, justify="right")
    for role in ledger.roles:
        sizes = map(blank, (role.weights, role.gradients, role.optimizer))
        table.add_row(role.name, count(role.parameters), count(role.trainable), *sizes)
    table.add_section()
    table.add_row("phase", "activations", "logits", "cache", "other", "total", style="bold")
    table.add_section()
    for phase in ledger.phases:
        marked = phase is ledger.highest
        works = map(blank, (phase.activations, phase.vocabulary, phase.cache, phase.other))
        name = f"{phase.name} *" if marked else phase.name
        table.add_row(name, *works, size(ledger.total(phase)), style="bold" if marked else None)
    return table


def blank(number: int) -> str:
    return size(number) if number else ""


def fitting(outlook: Outlook) -> str:
    stage, ledger, room = outlook.settings.stage.name, outlook.ledger, outlook.machine.room
    least = f"{size(ledger.peak)} at the peak, {ledger.highest.name}, of {size(room)} that are free"
    return f"{stage}: {'fits' if outlook.fits else 'does not fit'}: {least} on {outlook.machine.name}"


def doing(outlook: Outlook) -> str:
    work = outlook.work
    drawn = f", {count(work.drawn)} of them drawn" if work.drawn else ""
    source = f"lengths {work.source}"
    return f"{outlook.settings.stage.name}: {work.steps:,} steps, {count(work.tokens)} tokens{drawn}; {source}"


def lasting(outlook: Outlook, pace: Pace | None) -> str:
    if pace is None:
        why = "no probe is wanted" if outlook.fits else "it does not fit into this machine"
        return f"time is not told, since {why}: give stage.tokens_per_second, or a stage.device"
    whole, devices = seconds(outlook, pace), outlook.machine.place.ranks.count
    gpus = f", {duration(whole * devices)} of all devices" if devices > 1 else ""
    return f"about {duration(whole)}{gpus}; {pace.source}"


def show_remedies(stage: str, found: Sequence[tuple[Remedy, Outlook]]) -> None:
    """Each remedy with what it would take, and the first that fits as a sentence."""
    table = Table(title=f"{stage}: remedies", title_justify="left")
    table.add_column("remedy")
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("fits")
    for remedy, outlook in found:
        table.add_row(remedy.name, size(outlook.ledger.peak), "yes" if outlook.fits else "no")
    console.print(table)
    best = first(found)
    if best is None:
        tell(f"{stage}: none of them is enough: take a smaller model, shorter rows or a larger device")
        return
    remedy, outlook = best
    typed = " ".join(remedy.changes)
    tell(f"{stage}: with {typed} it fits: {size(outlook.ledger.peak)} of {size(outlook.machine.room)}")


def overview(rows: Sequence[tuple[Outlook, Pace | None]]) -> Table:
    """A row a stage."""
    table = Table(title="plan", title_justify="left")
    table.add_column("stage")
    for heading in ("parameters", "peak", "fits", "steps", "tokens", "time"):
        table.add_column(heading, justify="right")
    for outlook, pace in rows:
        lasts = "" if pace is None else duration(seconds(outlook, pace))
        work, peak = outlook.work, size(outlook.ledger.peak)
        fits = "yes" if outlook.fits else "no"
        parameters, tokens = count(outlook.model.size.parameters), count(work.tokens)
        table.add_row(outlook.settings.stage.name, parameters, peak, fits, f"{work.steps:,}", tokens, lasts)
    return table
