"""The memory of stage=ppo: four roles as separate models, or on one base.

``ledger`` plans runs that may not exist yet; rlhf/planning/roles.py passes ``complete`` the roles of existing runs.
"""

from collections.abc import Sequence
from dataclasses import replace

from rlhf.config import AdapterKind, CriticKind, PPOStage, Settings
from rlhf.hardware.memory import FLOAT32, Shape, cache
from rlhf.modeling import bases
from rlhf.modeling.decoding import READ_AT_ONCE
from rlhf.planning.activations import PPO_LEARNING, PPO_SAMPLING, at_work, logits, tiles
from rlhf.planning.memory_estimate import Ledger, Phase, Role
from rlhf.planning.shapes import Architecture, at_hand, drawn
from rlhf.planning.strategy import Ranks
from rlhf.planning.trained import Place, learning, pages, resident
from rlhf.planning.workload import Work, rows_at_once

LEARNERS = ("policy", "critic")
BASE, ATTACHED, REFERENCE, TEACHER = "shared base", "its runs' adapters", "reference", "teacher"
SCORED = 64  # texts in a batch of a RewardModel


def ledger(settings: Settings, model: Architecture, work: Work, place: Place) -> Ledger:
    """Return the roles and phases of stage=ppo on one device."""
    shared, teacher = shares(settings), taught(settings, model)
    roles = (one_base if shared else separate)(settings, model, place.ranks, teacher)
    scoring = [model.size.shape] * len(settings.stage_as(PPOStage).scoring)
    return complete(settings, work, place, roles, model, model, scoring, teacher, shared=shared)


def complete(
    settings: Settings,
    work: Work,
    place: Place,
    roles: list[Role],
    policy: Architecture,
    critic: Architecture,
    scoring: Sequence[Shape],
    teacher: Architecture | None = None,
    *,
    shared: bool,
) -> Ledger:
    """Return ``roles`` with the phases of an update. ``scoring``: the shapes of the reward models."""
    phases = [
        *collecting(settings, policy, work, scoring, teacher),
        *updating(settings, policy, critic, work, shared=shared),
        *on_text(settings, policy, work, place.ranks, shared=shared),
    ]
    if not place.gpu and settings.adapter.kind is AdapterKind.none:
        read = max(roles, key=lambda role: role.weights)
        phases.append(Phase("loading", other=pages(place, read)))
    unplanned = "no reward is a model of the policy's size; the memory of the reward is not planned"
    notes = [] if scoring or teacher is not None else [unplanned]
    return Ledger(roles, phases, notes, resident(policy, place, tokenizers=1 + len(scoring)))


def shares(settings: Settings) -> bool:
    """Whether the roles share one base: with an adapter, unless the available runs descend from different models."""
    stage = settings.stage_as(PPOStage)
    if settings.adapter.kind is AdapterKind.none or stage.share_base_model is False:
        return False
    runs = [at_hand(source.path) for role, source in stage.inputs().items() if role in ("policy", "reward", "critic")]
    roots = {bases.ancestry(parent)[0].digest for parent in runs if parent is not None}
    return len(roots) <= 1


def separate_critic(settings: Settings) -> bool:
    """Whether there is a critic with forward passes of its network; not for a head on the policy."""
    stage = settings.stage_as(PPOStage)
    return stage.has_critic and stage.critic_kind is CriticKind.separate


def critics(settings: Settings, model: Architecture, ranks: Ranks, separate: Role) -> list[Role]:
    """Return the role of the critic: ``separate``, or a head on the policy; none for estimators without a critic."""
    if separate_critic(settings):
        return [separate]
    return [on_trunk(model, ranks)] if settings.stage_as(PPOStage).has_critic else []


def on_trunk(model: Architecture, ranks: Ranks) -> Role:
    """Return the role of a critic that is a head on the policy: one weight per hidden unit, and a bias."""
    return adapters(ranks, "critic", model.size.shape.hidden + 1, learns=True)


def averages(settings: Settings, model: Architecture, ranks: Ranks) -> list[Role]:
    """Return the moving average of the weights that the policy trains, in float32, if there is one."""
    if settings.stage_as(PPOStage).ema is None:
        return []
    trained = model.size.parameters if settings.adapter.kind is AdapterKind.none else model.size.adapter
    return [Role("average", trained, 0, "float32", ranks.weights(trained, FLOAT32))]


def taught(settings: Settings, model: Architecture) -> Architecture | None:
    """Return the teacher's architecture, that of the policy if the teacher is not on this machine; None without one."""
    path = settings.stage_as(PPOStage).teacher
    parent = None if path is None else at_hand(path)
    return drawn(settings, parent) if parent is not None else None if path is None else model


def separate(settings: Settings, model: Architecture, ranks: Ranks, teacher: Architecture | None = None) -> list[Role]:
    """Return the roles as separate models; with an adapter the reference is the policy without it."""
    return [
        learning(settings, model, ranks, "policy", scores=False),
        reference(settings, model, ranks, teacher),
        *averages(settings, model, ranks),
        *critics(settings, model, ranks, learning(settings, model, ranks, "critic", scores=True)),
        *(judge(settings, role, model, ranks) for role in settings.stage_as(PPOStage).scoring),
    ]


def reference(settings: Settings, model: Architecture, ranks: Ranks, teacher: Architecture | None = None) -> Role:
    """Return the reference: a frozen model, which may be a teacher, or nothing if it is the policy without adapter."""
    if teacher is None and settings.adapter.kind is not AdapterKind.none:
        return Role(REFERENCE, 0, 0, "", 0)
    held = teacher or model
    weights = ranks.weights(held.size.parameters, held.width, trained=False)
    name = REFERENCE if teacher is None else TEACHER
    return Role(name, held.size.parameters, 0, settings.model.dtype.value, weights)


def judge(settings: Settings, role: str, model: Architecture, ranks: Ranks) -> Role:
    """Return a separate reward model, with adapters merged and not quantized."""
    held = ranks.weights(model.classifier, model.width, trained=False)
    return Role(role, model.classifier, 0, settings.model.dtype.value, held)


def one_base(settings: Settings, model: Architecture, ranks: Ranks, teacher: Architecture | None = None) -> list[Role]:
    """Return one frozen model, the adapters of the parents, and an adapter for each role."""
    stage = settings.stage_as(PPOStage)
    start = at_hand(stage.policy)
    attached = start is None or bases.adapter_folder(start) is not None
    return [
        base(settings, model, ranks),
        *([adapters(ranks, ATTACHED, model.size.adapter)] if attached else []),
        adapters(ranks, "policy", model.size.adapter, learns=True),
        reference(settings, model, ranks, teacher),
        *averages(settings, model, ranks),
        *critic_on_base(settings, model, ranks),
        *(adapters(ranks, role, model.size.adapter + model.size.shape.hidden) for role in stage.scoring),
    ]


def critic_on_base(settings: Settings, model: Architecture, ranks: Ranks) -> list[Role]:
    """Return the critic on a shared base: an adapter and a head, or a head on the policy, or none."""
    size = model.size.adapter + model.size.shape.hidden
    return critics(settings, model, ranks, adapters(ranks, "critic", size, learns=True))


def base(settings: Settings, model: Architecture, ranks: Ranks) -> Role:
    """Return the frozen base that all roles share."""
    kind = "4 bits" if settings.adapter.kind is AdapterKind.qlora else settings.model.dtype.value
    return Role(BASE, model.size.parameters, 0, kind, ranks.weights(1, model.size.weights, trained=False))


def adapters(ranks: Ranks, name: str, parameters: int, *, learns: bool = False) -> Role:
    """Return the role of an adapter on a base, including its head, in float32."""
    held = (ranks.gradients(parameters, FLOAT32), ranks.optimizer(parameters, FLOAT32)) if learns else (0, 0)
    return Role(name, parameters, parameters if learns else 0, "float32", ranks.weights(parameters, FLOAT32), *held)


def collecting(
    settings: Settings, model: Architecture, work: Work, scoring: Sequence[Shape], teacher: Architecture | None = None
) -> list[Phase]:
    """Return the phases without gradients: sampling, scoring, log-probabilities and values."""
    shape, width, length, stage = model.size.shape, model.width, work.longest, settings.stage_as(PPOStage)
    prompts = min(work.rows * (length - stage.max_response_length), max(READ_AT_ONCE, length))
    read = [at_work(one, scored(work.batch, length), width) for one in scoring]
    reading = [("log-probs", shape), *([("teacher's log-probs", teacher.size.shape)] if teacher else [])]
    return [
        Phase(
            "sampling", at_work(shape, prompts, width), logits(shape, work.rows, PPO_SAMPLING),
            cache(shape, work.rows, length, width), optimizer=LEARNERS,
        ),
        Phase("scoring", max(read, default=0), optimizer=LEARNERS),
        *(
            Phase(name, at_work(one, work.passed, width), responses(one, work, width), optimizer=LEARNERS)
            for name, one in reading
        ),
    ]  # fmt: skip


def scored(rows: int, length: int) -> int:
    """Return the tokens in a batch of a RewardModel if all rows have this length."""
    return min(min(SCORED, rows) * length, max(READ_AT_ONCE, length))


def responses(shape: Shape, work: Work, width: int) -> int:
    """Return the bytes of a micro-batch's response logits, which the gradient overwrites, and of float32 tiles."""
    return work.scored * shape.vocabulary * width * PPO_LEARNING + tiles(shape)


def on_text(settings: Settings, policy: Architecture, work: Work, ranks: Ranks, *, shared: bool) -> list[Phase]:
    """Return the phases of a micro-batch of pretraining text, whose tokens are all predicted."""
    stage = settings.stage_as(PPOStage)
    if not stage.ptx_coef:
        return []
    length = stage.ptx_block_length
    rows = rows_at_once(stage, -(-stage.ptx_batch_size // ranks.count), length)
    text = replace(work, at_once=rows, longest=length, passed=rows * length, scored=rows * length)
    found = updating(settings, policy, policy, text, shared=shared)[:2]
    return [phase._replace(name=phase.name.replace("policy", "text"), gradients=LEARNERS) for phase in found]


def updating(
    settings: Settings, policy: Architecture, critic: Architecture, work: Work, *, shared: bool
) -> list[Phase]:
    """Return the phases of a micro-batch, of the policy and then of the critic; gradients accumulate per minibatch."""
    found = []
    several = -(-work.batch // settings.stage_as(PPOStage).minibatches) > work.at_once
    largest = policy.size.largest if settings.adapter.kind is AdapterKind.none else 0
    for model in (policy, critic):
        passing = model.passing(settings, mask=0, checkpointing=False)
        if shared and model.width == FLOAT32:  # rlhf/modeling/fused_lora.py fuses the product, keeps no projections
            passing = passing._replace(rank=0)
        kept = passing.kept(work.at_once, work.longest) - passing.spared(work.passed - work.scored, attention=False)
        found.append((kept, at_work(model.size.shape, work.passed, model.width, work.scored)))
    (kept, working), (values, judging) = found
    first = max(at_work(model.size.shape, work.passed, model.width) for model in (policy, critic))
    wide = responses(policy.size.shape, work, policy.width)
    before = LEARNERS if several else ()
    # The gradient of the logits exists twice for a moment, then once together with that of the output layer.
    again = max(work.scored * policy.size.shape.vocabulary * policy.width, largest)
    own = LEARNERS if several else ("policy",)
    backward = Phase("critic backward", values + judging, gradients=own, optimizer=LEARNERS)
    return [
        Phase("policy loss", kept, wide, other=again, gradients=before, optimizer=LEARNERS),
        Phase("policy backward", kept + working, other=largest, gradients=before, optimizer=LEARNERS),
        *([backward] if separate_critic(settings) else []),
        Phase("end of backward", first, other=largest, gradients=LEARNERS, optimizer=LEARNERS),
    ]
