"""What helps where a stage does not fit: each remedy is planned itself, and so are those that are given together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rlhf.config import AdapterKind, Settings, Strategy
from rlhf.config.plan import PlanStage
from rlhf.config.rollout import Engine
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.workload import Rows, Work

CHECKPOINTING = "stage.trainer.activation_checkpointing"
FEWEST = 8  # responses at once; fewer take about as long each as one alone
OFFLOADING = "stage.trainer.activation_offloading"


@dataclass(frozen=True)
class Remedy:
    """``changes`` are the settings to type beside the command; ``name`` says what they do."""

    name: str
    changes: tuple[str, ...]
    settings: Settings
    plan: PlanStage

    def then(self, other: "Remedy") -> "Remedy":
        """Both: where they give the same setting, ``other`` does."""
        changes = {change.partition("=")[0]: change for change in (*self.changes, *other.changes)}
        return Remedy(f"{self.name}, {other.name}", tuple(changes.values()), other.settings, other.plan)

    @property
    def kind(self) -> tuple[str, ...]:
        """The keys of what it changes: of two of a kind one is given."""
        return tuple(change.partition("=")[0] for change in self.changes)


def tried(outlook: Outlook, plan: PlanStage, rows: Rows) -> list[tuple[Remedy, Outlook]]:
    """Every remedy by itself, then one after the other on top of each other until it fits, and no more than it takes.

    First come those that leave the result what it is, then those that train an adapter in the place of the weights.
    """
    known = {outlook.settings.adapter.kind: outlook.model}

    def look(remedy: Remedy) -> Outlook:
        settings = remedy.settings
        seen = look_ahead(settings, remedy.plan, rows, known.get(settings.adapter.kind))
        known[settings.adapter.kind] = seen.model
        return seen

    alone = list(single(outlook.settings, plan, outlook))
    found = [(one, look(one)) for one in alone]
    if any(one.fits for _, one in found):
        return found
    names: list[str] = []
    for one in single(outlook.settings, plan, outlook, least=True):
        names = [name for name in names if of_name(alone, name).kind != one.kind] + [one.name]
        together = given(names, outlook, plan)
        if len(names) > 1:
            found.append((together, look(together)))
        if look(together).fits:
            names = loosened(names, alone, lambda names: look(given(names, outlook, plan)).fits)
            spared = given(names, outlook, plan)
            return found if spared.changes == together.changes else [*found[:-1], (spared, look(spared))]
    return found


def of_name(remedies: Iterable[Remedy], name: str) -> Remedy:
    return next(one for one in remedies if one.name == name)


def given(names: Sequence[str], outlook: Outlook, plan: PlanStage) -> Remedy:
    """Those of ``names`` on top of each other, in their order."""
    together = of_name(single(outlook.settings, plan, outlook), names[0])
    for name in names[1:]:
        together = together.then(of_name(single(together.settings, together.plan, outlook), name))
    return together


def loosened(names: list[str], alone: Sequence[Remedy], fits: Callable[[list[str]], bool]) -> list[str]:
    """What can be left out of ``names`` is, and of smaller batches the largest that fits takes the place."""
    for name in list(names):
        rest = [one for one in names if one != name]
        if rest and fits(rest):
            names = rest
            continue
        for other in (one.name for one in alone if one.kind == of_name(alone, name).kind):
            exchanged = [other if one == name else one for one in names]
            if fits(exchanged):
                names = exchanged
                break
    return names


def first(found: list[tuple[Remedy, Outlook]]) -> tuple[Remedy, Outlook] | None:
    """The first that fits."""
    return next((pair for pair in found if pair[1].fits), None)


def single(settings: Settings, plan: PlanStage, outlook: Outlook, *, least: bool = False) -> Iterator[Remedy]:
    """Remedies that are left to ``settings``; of smaller micro-batches the smallest with ``least``, else each half."""
    trainer = getattr(settings.stage, "trainer", None)
    gpu = outlook.machine.place.gpu
    if trainer is not None and not trainer.get("activation_checkpointing"):
        yield Remedy(
            "checkpointing", (f"{CHECKPOINTING}=true",), with_trainer(settings, activation_checkpointing=True), plan
        )
    for smaller in (halved(settings, plan, outlook.work), fewer(settings, plan, outlook.work)):
        found = list(smaller)
        yield from found[-1:] if least else found
    ranks = outlook.machine.place.ranks
    if trainer is not None and gpu and ranks.count > 1 and not ranks.strategy.sharded:
        yield Remedy("shards", ("hardware=fsdp",), settings, replace(plan, strategy=Strategy.fsdp))
    if trainer is not None and gpu and settings.stage.name != "base" and not trainer.get("activation_offloading"):
        given = with_trainer(settings, activation_offloading=True)
        yield Remedy("activations in the host's memory", (f"+{OFFLOADING}=true",), given, plan)
    yield from adapted(settings, plan, gpu)


def halved(settings: Settings, plan: PlanStage, work: Work) -> Iterator[Remedy]:
    """Half the rows of a micro-batch, and half again, of the same batch; in PPO by its bound on tokens, if any."""
    stage = settings.stage
    if stage.name == "ppo":
        rows = work.at_once
        while rows > 1:
            rows //= 2
            bound = {"micro_batch_size": rows}
            if stage.micro_batch_tokens is not None:
                bound = {"micro_batch_tokens": rows * work.longest}
            changes = tuple(f"stage.{key}={value}" for key, value in bound.items())
            yield Remedy(f"micro-batches of {rows}", changes, with_stage(settings, **bound), plan)
        return
    rows, times = stage.trainer["per_device_train_batch_size"], stage.trainer["gradient_accumulation_steps"]
    while rows > 1 and rows % 2 == 0:
        rows, times = rows // 2, times * 2
        given = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": times}
        given["per_device_eval_batch_size"] = min(rows, stage.trainer["per_device_eval_batch_size"])
        changes = tuple(f"stage.trainer.{key}={value}" for key, value in given.items())
        yield Remedy(f"micro-batches of {rows}", changes, with_trainer(settings, **given), plan)


def fewer(settings: Settings, plan: PlanStage, work: Work) -> Iterator[Remedy]:
    """Half the responses of PPO that are drawn at once, and half again: keys and values of fewer are there."""
    if settings.stage.name != "ppo" or settings.stage.rollout.engine is not Engine.transformers:
        return
    rows = work.rows
    while rows > FEWEST:
        rows //= 2
        rollout = replace(settings.stage.rollout, rows=rows)
        changes = (f"stage.rollout.rows={rows}",)
        yield Remedy(f"{rows} responses at once", changes, with_stage(settings, rollout=rollout), plan)


def adapted(settings: Settings, plan: PlanStage, gpu: bool) -> Iterator[Remedy]:
    """Adapters in the place of the weights; in PPO they share one base where nothing forbids it."""
    adapter, ppo = settings.adapter, settings.stage.name == "ppo"
    name = "LoRA on one base" if ppo else "LoRA"
    one = with_stage(settings, share_base_model=None) if ppo else settings
    if adapter.kind is AdapterKind.none:
        yield Remedy(name, ("adapter=lora",), replace(one, adapter=replace(adapter, kind=AdapterKind.lora)), plan)
    elif ppo and settings.stage.share_base_model is False:
        yield Remedy("one base", ("stage.share_base_model=null",), one, plan)
    if adapter.kind is not AdapterKind.qlora and gpu:
        given = replace(one, adapter=replace(adapter, kind=AdapterKind.qlora))
        yield Remedy(f"{name} of 4 bits", ("adapter=qlora",), given, plan)


def with_stage(settings: Settings, **given: object) -> Settings:
    return replace(settings, stage=replace(settings.stage, **given))


def with_trainer(settings: Settings, **given: object) -> Settings:
    return with_stage(settings, trainer=settings.stage.trainer | given)
