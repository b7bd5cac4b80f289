"""The ledger of stage=ppo: four roles on models of their own, or on one base."""

from rlhf import models
from rlhf.config import AdapterKind, CriticKind, PPOStage, Settings
from rlhf.memory import FLOAT32, cache
from rlhf.planning.activations import (
    PPO_ENTROPY,
    PPO_POLICY,
    PPO_READING,
    PPO_SAMPLING,
    at_work,
    logits,
)
from rlhf.planning.ledger import Ledger, Phase, Role
from rlhf.planning.shapes import Architecture, at_hand
from rlhf.planning.strategy import Ranks
from rlhf.planning.trained import Place, learning, pages
from rlhf.planning.work import Work
from rlhf.ppo.plan import scored

LEARNERS = ("policy", "critic")


def ledger(settings: Settings, model: Architecture, work: Work, place: Place) -> Ledger:
    """Roles and phases; one device's share."""
    roles = one_base(settings, model, place.ranks) if shares(settings) else separate(settings, model, place.ranks)
    judges = [role for role in roles if role.name not in (*LEARNERS, "shared base", "its start", "reference")]
    phases = [*collecting(model, work, settings.stage), *updating(settings, model, work)]
    read = max(roles, key=lambda role: role.weights)
    if not place.gpu:
        phases.append(Phase("reading", other=pages(place, read)))
    notes = [] if judges else ["no reward is a model of the policy's size: what it takes by itself is not planned"]
    return Ledger(roles, phases, notes)


def shares(settings: Settings) -> bool:
    """Whether there is one base: of runs at hand by what they descend from, of others as this adapter leaves it.

    Runs that are at hand and have no model in common keep models of their own.
    """
    if settings.adapter.kind is AdapterKind.none or settings.stage.one_base is False:
        return False
    found = [
        at_hand(one.path) for role, one in settings.stage.inputs().items() if role in ("policy", "reward", "critic")
    ]
    roots = {models.ancestry(parent)[0].digest for parent in found if parent is not None}
    return len(roots) <= 1


def heads(settings: Settings) -> bool:
    """Whether the critic is a head on the policy."""
    return settings.stage.critic_kind is CriticKind.head


def on_trunk(model: Architecture, ranks: Ranks) -> Role:
    """That head, a weight for each entry of a hidden state and one more."""
    added = model.size.shape.hidden + 1
    held = (ranks.gradients(added, FLOAT32), ranks.optimizer(added, FLOAT32))
    return Role("critic", added, added, "float32", ranks.weights(added, FLOAT32), *held)


def judges(stage: PPOStage) -> list[str]:
    """The roles of reward models, those of the gold reward included."""
    return [role for role in stage.inputs() if role not in LEARNERS]


def separate(settings: Settings, model: Architecture, ranks: Ranks) -> list[Role]:
    """A model for each; with an adapter the reference is the policy without it."""
    dtype, width = settings.model.dtype.value, model.width
    whole = settings.adapter.kind is AdapterKind.none
    copy = ranks.weights(model.size.parameters, width, trained=False) if whole else 0
    return [
        learning(settings, model, ranks, "policy", scores=False),
        Role("reference", model.size.parameters if whole else 0, 0, dtype if whole else "", copy),
        on_trunk(model, ranks) if heads(settings) else learning(settings, model, ranks, "critic", scores=True),
        *(
            Role(role, model.classifier, 0, dtype, ranks.weights(model.classifier, width, trained=False))
            for role in judges(settings.stage)
        ),
    ]


def one_base(settings: Settings, model: Architecture, ranks: Ranks) -> list[Role]:
    """One frozen model, and for each role the adapters that it wears; of the parents' there is one each."""
    size, dtype = model.size, settings.model.dtype.value
    kind = "4 bits" if settings.adapter.kind is AdapterKind.qlora else dtype

    def adapters(name: str, count: int, *, head: bool, learns: bool) -> Role:
        added = count * size.adapter + (size.shape.hidden if head else 0)
        held = (ranks.gradients(added, FLOAT32), ranks.optimizer(added, FLOAT32)) if learns else (0, 0)
        return Role(name, added, added if learns else 0, "float32", ranks.weights(added, FLOAT32), *held)

    start = at_hand(settings.stage.policy)
    worn = start is None or models.adapter_folder(start) is not None
    return [
        Role("shared base", size.parameters, 0, kind, ranks.weights(1, size.weights, trained=False)),
        *([adapters("its start", 1, head=False, learns=False)] if worn else []),
        adapters("policy", 1, head=False, learns=True),
        Role("reference", 0, 0, "", 0),
        on_trunk(model, ranks) if heads(settings) else adapters("critic", 1, head=True, learns=True),
        *(adapters(role, 1, head=True, learns=False) for role in judges(settings.stage)),
    ]


def collecting(model: Architecture, work: Work, stage: PPOStage) -> list[Phase]:
    """Sampling, scoring, and the passes that give log-probabilities and values; no gradients are there."""
    shape, width, length = model.size.shape, model.width, work.longest
    response = stage.max_response_length + 1
    keys = cache(shape, work.rows, length, width)
    part = work.at_once * length
    return [
        Phase(
            "sampling", at_work(shape, work.rows * length, width), logits(shape, work.rows, PPO_SAMPLING), keys,
            optimizer=LEARNERS,
        ),
        Phase("scoring", at_work(shape, scored(work.rows, length), width), optimizer=LEARNERS),
        Phase(
            "log-probs", at_work(shape, part, width), logits(shape, work.at_once * response, PPO_READING),
            optimizer=LEARNERS,
        ),
    ]  # fmt: skip


def updating(settings: Settings, model: Architecture, work: Work) -> list[Phase]:
    """A micro-batch of the policy, then of a critic of its own weights; gradients add up over those of a minibatch."""
    stage, shape, width = settings.stage, model.size.shape, model.width
    tokens = work.at_once * work.longest
    passing = model.passing(settings, mask=0, checkpointing=False)
    kept, working = passing.kept(work.at_once, work.longest), at_work(shape, tokens, width)
    copies = PPO_POLICY + (PPO_ENTROPY if stage.entropy_coef else 0)
    wide = logits(shape, work.at_once * (stage.max_response_length + 1), copies)
    largest = model.size.largest if settings.adapter.kind is AdapterKind.none else 0
    several = -(-work.rows // stage.minibatches) > work.at_once
    before = LEARNERS if several else ()
    critic = Phase(
        "critic backward", kept + working, gradients=LEARNERS if several else ("policy",), optimizer=LEARNERS
    )
    return [
        Phase("policy loss", kept, wide, gradients=before, optimizer=LEARNERS),
        Phase("policy backward", kept + working, other=largest, gradients=before, optimizer=LEARNERS),
        *([] if heads(settings) else [critic]),
        Phase("end of backward", working, other=largest, gradients=LEARNERS, optimizer=LEARNERS),
    ]
