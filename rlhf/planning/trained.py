"""The ledger of base, sft, reward and dpo: what TRL's and transformers' trainers hold, and when."""

from typing import NamedTuple

from rlhf.config import AdapterKind, Settings, SharedPrefix
from rlhf.hardware.memory import FLOAT32
from rlhf.planning.activations import (
    CROSS_ENTROPY,
    FUSED_BACKWARD,
    FUSED_FORWARD,
    Pass,
    at_work,
    fused_head,
    logits,
    own_head,
)
from rlhf.planning.memory_estimate import Ledger, Phase, Role
from rlhf.planning.shapes import Architecture
from rlhf.planning.strategy import Ranks
from rlhf.planning.workload import Work
from rlhf.preference.architectures import refusal

LEARNER = {"base": "policy", "sft": "policy", "reward": "reward model", "dpo": "policy"}
TOKENIZER = 330  # bytes an entry of a vocabulary, of tokenizers 0.23 by the resident size of a process
SCORED = 32  # responses that the report card of a reward model reads at once, at least


class Place(NamedTuple):
    """Where a stage runs: on how many devices, and of what kind."""

    ranks: Ranks
    gpu: bool


def ledger(settings: Settings, model: Architecture, work: Work, place: Place) -> Ledger:
    """Roles and phases of a stage that a Trainer runs; one device's share."""
    name, ranks = settings.stage.name, place.ranks
    learner = learning(settings, model, ranks, LEARNER[name], scores=name == "reward")
    roles = [learner]
    phases = [*steps(settings, model, work, place, learner), evaluating(settings, model, work, place, learner)]
    if name == "dpo":
        phases = comparing(settings, model, work, place, roles, phases)
    if name == "reward":
        policy = Role(
            "policy", model.size.parameters, 0, settings.model.dtype.value, model.size.parameters * model.width
        )
        roles.append(policy)
        phases = [one._replace(holds=(learner.name,)) for one in phases]
        tokens = max(settings.stage.trainer["per_device_eval_batch_size"], SCORED) * work.longest
        working = at_work(model.size.shape, tokens, model.width)
        phases.append(Phase("report card", working, other=pages(place, policy), optimizer=(learner.name,)))
    later = name == "reward" or (name == "dpo" and settings.stage.cache_reference)
    if settings.adapter.kind is AdapterKind.none:  # what is frozen stays mapped from its file, and is there once
        phases += reading(roles, place, first=1 if later else None)
    frozen = name == "reward" and settings.adapter.kind is not AdapterKind.none
    return Ledger(roles, phases, beside=resident(model, place, tokenizers=1, looked_up=frozen))


def resident(model: Architecture, place: Place, *, tokenizers: int, looked_up: bool = False) -> int:
    """What a process without a GPU holds beside its models.

    Weights that nothing trains stay in the file that they are mapped from until they are read: of embeddings that are
    ``looked_up`` and multiplied by nothing, next to none are.
    """
    if place.gpu:
        return 0
    shape = model.size.shape
    unread = shape.vocabulary * shape.hidden * model.width if looked_up else 0
    return tokenizers * TOKENIZER * shape.vocabulary - unread


def shares(settings: Settings, model: Architecture) -> bool:
    """Whether a prompt is computed once for its responses, as the stage will decide it."""
    stage = settings.stage
    if stage.name not in ("reward", "dpo") or stage.shared_prefix is SharedPrefix.off:
        return False
    return refusal(model.config, settings.model.attention, stage.trainer.get("max_length")) is None


def comparing(
    settings: Settings, model: Architecture, work: Work, place: Place, roles: list[Role], phases: list[Phase]
) -> list[Phase]:
    """DPO's ``phases`` with those of its reference, a second model where no adapter can be switched off.

    Where its log-probabilities are kept they are computed before the first step, by the policy as it is; the second
    model is then read at the end, for what the policy is held against.
    """
    [learner], kept = roles, settings.stage.cache_reference
    whole = settings.adapter.kind is AdapterKind.none
    if whole:
        weights = place.ranks.weights(model.size.parameters, model.width, trained=False)
        roles.append(Role("reference", model.size.parameters, 0, settings.model.dtype.value, weights))
    if not kept:
        return phases
    shape = model.size.shape
    wide = head(settings, model, work.passed, work.scored, place, backward=False)
    first = Phase("reference", at_work(shape, work.passed, model.width), wide)
    phases = [one._replace(holds=(learner.name,)) for one in (first, *phases)]
    if whole and settings.eval_set.prompts:
        phases.append(Phase("held out", other=pages(place, roles[1]), optimizer=(learner.name,)))
    return phases


def learning(settings: Settings, model: Architecture, ranks: Ranks, name: str, scores: bool) -> Role:
    """The model that learns: whole, or adapters in float32 on what is frozen; under a head of one if it ``scores``."""
    adapter, size, width = settings.adapter, model.size, model.width
    parameters = model.classifier if scores else size.parameters
    if adapter.kind is AdapterKind.none:
        held = (
            ranks.weights(parameters, width),
            ranks.gradients(parameters, width),
            ranks.optimizer(parameters, width),
        )
        return Role(name, parameters, parameters, settings.model.dtype.value, *held)
    # A classifier has a row in the place of the output layer, which is no matrix of its own where weights are tied.
    base = size.weights + (parameters - size.parameters) * width
    trained = size.adapter + (size.shape.hidden if scores else 0)
    weights = ranks.weights(1, base, trained=False) + ranks.weights(trained, FLOAT32)
    kind = "4 bits" if adapter.kind is AdapterKind.qlora else settings.model.dtype.value
    held = (weights, ranks.gradients(trained, FLOAT32), ranks.optimizer(trained, FLOAT32))
    return Role(name, parameters + trained, trained, kind, *held)


def steps(settings: Settings, model: Architecture, work: Work, place: Place, learner: Role) -> list[Phase]:
    """The three moments of a step that can be the highest: at the loss, as the backward pass begins, and at its end."""
    shape, width, trainer = model.size.shape, model.width, settings.stage.trainer
    passing = passes(settings, model, place)
    tokens = work.passed
    if work.seen:
        kept = passing.kept(1, tokens) + passing.branching(tokens, work.seen)
        kept -= passing.spared(tokens - work.scored, attention=True)
    else:
        kept = passing.kept(work.at_once, work.longest)
    if trainer.get("activation_offloading") and place.gpu:
        kept //= max(shape.layers // 2, 1)  # two layers of them are there at once
    moments = (learner.name,)
    gathered = place.ranks.gathered(model.layer, model.outside, width)
    largest = model.size.largest if settings.adapter.kind is AdapterKind.none else 0
    held = {"optimizer": moments, "gradients": moments if trainer["gradient_accumulation_steps"] > 1 else ()}
    wide = head(settings, model, tokens, work.scored, place, backward=True)
    return [
        Phase("loss", kept, wide, other=gathered + (largest if wide else 0), **held),
        Phase("backward", kept + at_work(shape, tokens, width, work.scored), other=gathered + largest, **held),
        Phase("end of backward", at_work(shape, tokens, width), 0, 0, gathered + largest, moments, moments),
    ]


def passes(settings: Settings, model: Architecture, place: Place) -> Pass:
    """Dropout is off where the trainer switches it off, as TRL's of reward models and DPO do unless told otherwise."""
    name, trainer = settings.stage.name, settings.stage.trainer
    dropout = not trainer.get("disable_dropout", name in ("reward", "dpo"))
    mask = (1 if place.gpu else model.width) if dropout else 0
    return model.passing(settings, mask=mask, checkpointing=bool(trainer.get("activation_checkpointing")))


def head(settings: Settings, model: Architecture, tokens: int, scored: int, place: Place, *, backward: bool) -> int:
    """As wide as the vocabulary: of every token in pretraining, of a tile in SFT and DPO, none under a head of one.

    DPO that shares prefixes has a head of its own on a CPU in float32, of the ``scored`` tokens alone.
    """
    shape, name = model.size.shape, settings.stage.name
    if name == "reward":
        return 0
    if name == "base":
        return logits(shape, tokens, CROSS_ENTROPY)
    if not place.gpu and model.width == FLOAT32 and shares(settings, model):
        return own_head(shape, scored, learns=backward and settings.adapter.kind is AdapterKind.none)
    return fused_head(shape, scored, model.width, FUSED_BACKWARD if backward else FUSED_FORWARD, place.gpu)


def evaluating(settings: Settings, model: Architecture, work: Work, place: Place, learner: Role) -> Phase:
    """The held-out split at the end: nothing is kept, and the optimizer is still there."""
    trainer, shape = settings.stage.trainer, model.size.shape
    times = trainer["per_device_eval_batch_size"] / trainer["per_device_train_batch_size"]
    tokens, scored = round(work.passed * times), round(work.scored * times)
    wide = head(settings, model, tokens, scored, place, backward=False)
    gathered = place.ranks.gathered(model.layer, model.outside, model.width)
    return Phase("evaluating", at_work(shape, tokens, model.width), wide, other=gathered, optimizer=(learner.name,))


def reading(roles: list[Role], place: Place, first: int | None = None) -> list[Phase]:
    """While weights are read without a GPU, the pages of their file are resident beside them."""
    if place.gpu:
        return []
    read = [role for role in roles[:first] if role.parameters > role.trainable or role.weights]
    return [
        Phase("loading", other=pages(place, role), holds=tuple(one.name for one in read[: number + 1]))
        for number, role in enumerate(read)
    ][-1:]


def pages(place: Place, role: Role) -> int:
    return 0 if place.gpu else role.weights
