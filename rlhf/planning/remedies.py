"""Remedies for a stage that does not fit: each is planned, and so are combinations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf.config import AdapterKind, BaseStage, PPOStage, Settings, Strategy
from rlhf.config.plan import PlanStage
from rlhf.config.rollout import Engine
from rlhf.console import plural
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.workload import Rows, Work, trainer_of

CHECKPOINTING = "stage.trainer.activation_checkpointing"
FEWEST = 8  # smallest batch of responses; smaller ones hardly take less time
OFFLOADING = "stage.trainer.activation_offloading"


@dataclass(frozen=True)
class Remedy:
    """A change of settings: ``changes`` are the overrides to add to the command, ``name`` describes them."""

    name: str
    changes: tuple[str, ...]
    settings: Settings
    plan: PlanStage

    def then(self, other: "Remedy") -> "Remedy":
        """Return both remedies as one; ``other`` wins if they change the same setting."""
        changes = {change.partition("=")[0]: change for change in (*self.changes, *other.changes)}
        return Remedy(f"{self.name}, {other.name}", tuple(changes.values()), other.settings, other.plan)

    @property
    def kind(self) -> tuple[str, ...]:
        """The changed keys; remedies of the same kind are alternatives."""
        return tuple(change.partition("=")[0] for change in self.changes)


def tried(outlook: Outlook, plan: PlanStage, rows: Rows) -> list[tuple[Remedy, Outlook]]:
    """Return every single remedy with its plan, then combine remedies until the stage fits, with as few as suffice.

    Remedies that do not change the result come first, then those that train an adapter instead of the weights.
    """
    known = {outlook.settings.adapter.kind: outlook.model}

    def look(remedy: Remedy) -> Outlook:
        settings = remedy.settings
        seen = look_ahead(settings, remedy.plan, rows, known.get(settings.adapter.kind))
        known[settings.adapter.kind] = seen.model
        return seen

    singles = list(single(outlook.settings, plan, outlook))
    results = [(remedy, look(remedy)) for remedy in singles]
    if any(result.fits for _, result in results):
        return results
    names: list[str] = []
    for remedy in single(outlook.settings, plan, outlook, least=True):
        names = [name for name in names if of_name(singles, name).kind != remedy.kind] + [remedy.name]
        combined = combination(names, outlook, plan)
        if len(names) > 1:
            results.append((combined, look(combined)))
        if look(combined).fits:
            names = loosened(names, singles, lambda names: look(combination(names, outlook, plan)).fits)
            smaller = combination(names, outlook, plan)
            return results if smaller.changes == combined.changes else [*results[:-1], (smaller, look(smaller))]
    return results


def of_name(remedies: Iterable[Remedy], name: str) -> Remedy:
    """Return the remedy with this name."""
    return next(remedy for remedy in remedies if remedy.name == name)


def combination(names: Sequence[str], outlook: Outlook, plan: PlanStage) -> Remedy:
    """Return the remedies of ``names`` applied in their order."""
    combined = of_name(single(outlook.settings, plan, outlook), names[0])
    for name in names[1:]:
        combined = combined.then(of_name(single(combined.settings, combined.plan, outlook), name))
    return combined


def loosened(names: list[str], singles: Sequence[Remedy], fits: Callable[[list[str]], bool]) -> list[str]:
    """Return ``names`` without the unnecessary remedies, and with the largest batches that fit."""
    for name in list(names):
        rest = [other for other in names if other != name]
        if rest and fits(rest):
            names = rest
            continue
        for candidate in (remedy.name for remedy in singles if remedy.kind == of_name(singles, name).kind):
            exchanged = [candidate if other == name else other for other in names]
            if fits(exchanged):
                names = exchanged
                break
    return names


def first(results: Sequence[tuple[Remedy, Outlook]]) -> tuple[Remedy, Outlook] | None:
    """Return the first remedy that fits."""
    return next((pair for pair in results if pair[1].fits), None)


def single(settings: Settings, plan: PlanStage, outlook: Outlook, *, least: bool = False) -> Iterator[Remedy]:
    """Yield the remedies that ``settings`` does not apply yet.

    With ``least`` only the smallest micro-batch and the fewest responses at once are tried, else each half.
    """
    trainer = getattr(settings.stage, "trainer", None)
    gpu = outlook.machine.place.gpu
    if trainer is not None and not trainer.get("activation_checkpointing"):
        yield Remedy(
            "checkpointing", (f"{CHECKPOINTING}=true",), with_trainer(settings, activation_checkpointing=True), plan
        )
    for smaller in (halved(settings, plan, outlook.work), fewer(settings, plan, outlook.work)):
        remedies = list(smaller)
        yield from remedies[-1:] if least else remedies
    ranks = outlook.machine.place.ranks
    if trainer is not None and gpu and ranks.count > 1 and not ranks.strategy.sharded:
        yield Remedy("shards", ("hardware=fsdp",), settings, replace(plan, strategy=Strategy.fsdp))
    if trainer is not None and gpu and settings.stage.name != "base" and not trainer.get("activation_offloading"):
        offloaded = with_trainer(settings, activation_offloading=True)
        yield Remedy("activations in the host's memory", (f"+{OFFLOADING}=true",), offloaded, plan)
    yield from adapted(settings, plan, gpu)


def halved(settings: Settings, plan: PlanStage, work: Work) -> Iterator[Remedy]:
    """Yield micro-batches of half the rows, a quarter, ..., of the same batch; in PPO by the limit that is set."""
    stage = settings.stage
    if isinstance(stage, PPOStage):
        rows = work.at_once
        while rows > 1:
            rows //= 2
            bound = {"micro_batch_size": rows}
            if stage.micro_batch_tokens is not None:
                bound = {"micro_batch_tokens": rows * work.longest}
            changes = tuple(f"stage.{key}={value}" for key, value in bound.items())
            yield Remedy(f"micro-batches of {rows}", changes, with_stage(settings, **bound), plan)
        return
    trainer = trainer_of(settings)
    rows, times = trainer["per_device_train_batch_size"], trainer["gradient_accumulation_steps"]
    while rows > 1 and rows % 2 == 0:
        rows, times = rows // 2, times * 2
        sizes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": times}
        sizes["per_device_eval_batch_size"] = min(rows, trainer["per_device_eval_batch_size"])
        changes = tuple(f"stage.trainer.{key}={value}" for key, value in sizes.items())
        yield Remedy(f"micro-batches of {rows}", changes, with_trainer(settings, **sizes), plan)


def fewer(settings: Settings, plan: PlanStage, work: Work) -> Iterator[Remedy]:
    """Yield half the responses that PPO samples at once, a quarter, ...: their key-value cache is smaller."""
    if not isinstance(settings.stage, PPOStage) or settings.stage.rollout.engine is not Engine.transformers:
        return
    rows = work.rows
    while rows > FEWEST:
        rows //= 2
        rollout = replace(settings.stage.rollout, rows=rows)
        changes = (f"stage.rollout.rows={rows}",)
        yield Remedy(f"{plural(rows, 'response')} at once", changes, with_stage(settings, rollout=rollout), plan)


def adapted(settings: Settings, plan: PlanStage, gpu: bool) -> Iterator[Remedy]:
    """Yield adapters instead of trained weights; in PPO they share one base if nothing forbids it."""
    if isinstance(settings.stage, BaseStage) and settings.stage.policy is None:  # a new model has no frozen base
        return
    adapter, ppo = settings.adapter, isinstance(settings.stage, PPOStage)
    name = "LoRA on one base" if ppo else "LoRA"
    shared = with_stage(settings, share_base_model=None) if ppo else settings
    if adapter.kind is AdapterKind.none:
        yield Remedy(name, ("adapter=lora",), replace(shared, adapter=replace(adapter, kind=AdapterKind.lora)), plan)
    elif isinstance(settings.stage, PPOStage) and settings.stage.share_base_model is False:
        yield Remedy("one base", ("stage.share_base_model=null",), shared, plan)
    if adapter.kind is not AdapterKind.qlora and gpu:
        quantized = replace(shared, adapter=replace(adapter, kind=AdapterKind.qlora))
        yield Remedy(f"{name} of 4 bits", ("adapter=qlora",), quantized, plan)


def with_stage(settings: Settings, **values: Any) -> Settings:
    """Return ``settings`` with these values of the stage."""
    return replace(settings, stage=replace(settings.stage, **values))


def with_trainer(settings: Settings, **values: object) -> Settings:
    """Return ``settings`` with these values of ``stage.trainer``."""
    return with_stage(settings, trainer=trainer_of(settings) | values)
