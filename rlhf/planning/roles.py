"""The memory of stage=ppo for the runs that it starts from; rlhf/planning/ppo.py has the formulas."""

from collections.abc import Iterator
from math import prod

from safetensors import safe_open

from rlhf.config import PPOStage, Settings
from rlhf.hardware import ranks as world
from rlhf.hardware.device import torch_device
from rlhf.modeling import bases
from rlhf.planning import ppo
from rlhf.planning.memory_estimate import Ledger, Role
from rlhf.planning.shapes import Architecture, drawn
from rlhf.planning.strategy import Ranks
from rlhf.planning.trained import Place, learning
from rlhf.planning.workload import Rows, sampled
from rlhf.ppo.model_roles import OneBase, Separate, judges
from rlhf.runs.parents import Parent


def plan(settings: Settings, roles: OneBase | Separate, longest: int | None = None) -> Ledger:
    """Return the memory of stage=ppo from configurations and headers of files, without loading weights.

    ``longest``: tokens of the longest prompt, or None for stage.max_prompt_length.
    """
    rows = Rows(0, [(longest or settings.stage_as(PPOStage).max_prompt_length,)], "counted")
    ranks = Ranks(world.strategy_of(settings.hardware), world.size())
    place = Place(ranks, torch_device(settings.hardware).type == "cuda")
    scoring = {role: drawn(settings, roles.parents[role]) for role in judges(roles.parents)}
    teacher = drawn(settings, roles.parents["teacher"]) if "teacher" in roles.parents else None
    shared = isinstance(roles, OneBase)
    if isinstance(roles, OneBase):
        policy = critic = drawn(settings, roles.base)
        held = on_one_base(settings, roles, policy, scoring, ranks, teacher)
    else:
        policy, critic = drawn(settings, roles.parents["policy"]), drawn(settings, roles.parents[roles.start])
        held = apart(settings, policy, critic, scoring, ranks, teacher)
    shapes = [model.size.shape for model in scoring.values()]
    work = sampled(settings, rows, ranks.count)
    return ppo.complete(settings, work, place, list(held), policy, critic, shapes, teacher, shared=shared)


def stored(parent: Parent) -> int:
    """Return the parameters of the adapter ``parent``, from the header of its file."""
    folder = bases.adapter_folder(parent)
    assert folder is not None, f"{parent.path} is not an adapter"
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


def on_one_base(
    settings: Settings,
    roles: OneBase,
    model: Architecture,
    scoring: dict[str, Architecture],
    ranks: Ranks,
    teacher: Architecture | None = None,
) -> Iterator[Role]:
    """Yield one frozen base, the adapters of the parents, each once, and the adapters and heads of the roles."""
    yield ppo.base(settings, model, ranks)
    attached = {parent.digest: stored(parent) for chain in roles.chains.values() for parent in chain}
    if held := sum(attached.values()):
        yield ppo.adapters(ranks, ppo.ATTACHED, held)
    head = model.size.shape.hidden
    yield ppo.adapters(ranks, "policy", model.size.adapter, learns=True)
    yield ppo.reference(settings, model, ranks, teacher)
    yield from ppo.averages(settings, model, ranks)
    yield from ppo.critic_on_base(settings, model, ranks)
    for role, judge in scoring.items():
        if role in roles.chains:
            yield ppo.adapters(ranks, role, head)
        else:
            yield ppo.judge(settings, role, judge, ranks)


def apart(
    settings: Settings,
    policy: Architecture,
    critic: Architecture,
    scoring: dict[str, Architecture],
    ranks: Ranks,
    teacher: Architecture | None = None,
) -> Iterator[Role]:
    """Yield a separate model for each role."""
    yield learning(settings, policy, ranks, "policy", scores=False)
    yield ppo.reference(settings, policy, ranks, teacher)
    yield from ppo.averages(settings, policy, ranks)
    yield from ppo.critics(settings, policy, ranks, learning(settings, critic, ranks, "critic", scores=True))
    for role, judge in scoring.items():
        yield ppo.judge(settings, role, judge, ranks)
