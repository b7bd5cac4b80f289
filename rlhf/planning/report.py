"""The tables and sentences of a plan, in 80 columns."""

from collections.abc import Sequence

import torch
from rich.table import Table

from rlhf.config import AdapterKind, Strategy
from rlhf.console import console, duration, plural
from rlhf.hardware.memory import available, count, size
from rlhf.hardware.precision import autocasts
from rlhf.planning.estimate import Outlook
from rlhf.planning.memory_estimate import Ledger
from rlhf.planning.remedies import Remedy, first
from rlhf.planning.throughput import Pace, seconds


def tell(sentence: str) -> None:
    """Print a sentence without markup."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=False)


def show(outlook: Outlook, pace: Pace | None) -> None:
    """Print one stage's model, memory by role and phase, whether it fits, and its workload and time."""
    stage, model = outlook.settings.stage.name, outlook.model
    tell(f"{stage}: {count(model.size.parameters)} parameters ({model.source}), {trained(outlook)}, {spread(outlook)}")
    console.print(table_of(stage, outlook.ledger))
    tell(fitting(outlook))
    for note in outlook.ledger.notes:
        tell(f"{stage}: {note}")
    if autocasts(outlook.settings, outlook.machine.place.gpu):
        tell(f"{stage}: planned in float32; the bfloat16 copies that autocast makes are not counted")
    tell(doing(outlook))
    tell(f"{stage}: {lasting(outlook, pace)}")


def trained(outlook: Outlook) -> str:
    """Return a phrase on the trained parameters and their dtype."""
    adapter, dtype = outlook.settings.adapter, outlook.settings.model.dtype.value
    if adapter.kind is AdapterKind.none:
        return f"every weight trained in {dtype}"
    base = "4 bits" if adapter.kind is AdapterKind.qlora else dtype
    return f"adapters of rank {adapter.rank} trained over {base}"


def spread(outlook: Outlook) -> str:
    """Return a phrase on the devices and the strategy."""
    ranks = outlook.machine.place.ranks
    if ranks.strategy is Strategy.none:
        return f"on {outlook.machine.name}"
    return f"on {ranks.count} x {outlook.machine.name} by {ranks.strategy.value}"


def show_ledger(stage: str, ledger: Ledger, device: torch.device) -> None:
    """Print the planned memory of a stage before it runs, and the free memory of ``device``."""
    console.print(table_of(stage, ledger))
    free, place = available(device), "this GPU" if device.type == "cuda" else "this machine"
    sentence = f"{stage}: peak {size(ledger.peak)} ({ledger.highest.name}), {size(free)} free on {place}"
    if ledger.peak > free:
        sentence += "; this is too much: run the same command with hardware.plan=true for remedies"
    console.print(sentence, highlight=False, soft_wrap=True)


def table_of(stage: str, ledger: Ledger) -> Table:
    """Return a table of roles and their state, then of phases and their temporary memory; the highest is marked."""
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
    """Return a size in bytes as text, "" for 0."""
    return size(number) if number else ""


def fitting(outlook: Outlook) -> str:
    """Return a sentence on whether the stage fits."""
    stage, ledger, room = outlook.settings.stage.name, outlook.ledger, outlook.machine.room
    peak = f"peak {size(ledger.peak)} ({ledger.highest.name}) of {size(room)} free"
    return f"{stage}: {'fits' if outlook.fits else 'does not fit'}: {peak} on {outlook.machine.name}"


def doing(outlook: Outlook) -> str:
    """Return a sentence on the steps and tokens."""
    work = outlook.work
    drawn = f", {count(work.drawn)} of them sampled" if work.drawn else ""
    source = f"lengths {work.source}"
    return f"{outlook.settings.stage.name}: {plural(work.steps, 'step')}, {count(work.tokens)} tokens{drawn}; {source}"


def lasting(outlook: Outlook, pace: Pace | None) -> str:
    """Return a sentence on the time, or the reason why it is unknown."""
    if pace is None:
        why = "stage.probe=false" if outlook.fits else "the stage does not fit on this machine"
        return f"time is unknown, since {why}: set stage.tokens_per_second or stage.device"
    whole, devices = seconds(outlook, pace), outlook.machine.place.ranks.count
    gpus = f", {duration(whole * devices)} over all devices" if devices > 1 else ""
    return f"about {duration(whole)}{gpus}; {pace.source}"


def show_remedies(stage: str, found: Sequence[tuple[Remedy, Outlook]]) -> None:
    """Print each remedy with its peak, and the first that fits as a sentence."""
    table = Table(title=f"{stage}: remedies", title_justify="left")
    table.add_column("remedy")
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("fits")
    for remedy, outlook in found:
        table.add_row(remedy.name, size(outlook.ledger.peak), "yes" if outlook.fits else "no")
    console.print(table)
    best = first(found)
    if best is None:
        tell(f"{stage}: no remedy is enough: use a smaller model, shorter rows or a larger device")
        return
    remedy, outlook = best
    typed = " ".join(remedy.changes)
    tell(f"{stage}: with {typed} it fits: {size(outlook.ledger.peak)} of {size(outlook.machine.room)}")


def overview(rows: Sequence[tuple[Outlook, Pace | None]]) -> Table:
    """Return a table with one row per stage."""
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
