"""The memory of every stage but ppo, in the trainers of TRL and transformers."""

from typing import NamedTuple

from rlhf.config import (
    AdapterKind,
    OnlineDPOStage,
    PreferenceStage,
    Reference,
    RewardStage,
    ScoredStage,
    Settings,
    SharedPrefix,
)
from rlhf.hardware.memory import FLOAT32, cache
from rlhf.modeling.architectures import refusal
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
from rlhf.planning.workload import Work, trainer_of

LEARNER = {"reward": "reward model"}  # in other stages the policy
TOKENIZER = 330  # bytes per entry of a vocabulary, measured with tokenizers 0.23 as resident size
SCORED = 32  # smallest batch of responses in the report card of a reward model


class Place(NamedTuple):
    """The devices that a stage runs on."""

    ranks: Ranks
    gpu: bool


def ledger(settings: Settings, model: Architecture, work: Work, place: Place) -> Ledger:
    """Return the roles and phases of a stage that a Trainer runs, on one device."""
    name, ranks = settings.stage.name, place.ranks
    learner = learning(settings, model, ranks, LEARNER.get(name, "policy"), scores=name == "reward")
    roles = [learner]
    phases = [*steps(settings, model, work, place, learner), evaluating(settings, model, work, place, learner)]
    if isinstance(settings.stage, PreferenceStage):
        phases = comparing(settings, model, work, place, roles, phases)
    if isinstance(settings.stage, ScoredStage):
        others = tuple(role.name for role in roles)  # no other phase holds the reward model
        phases = [phase._replace(holds=phase.holds or others) for phase in phases]
        phases = [sampling(settings, model, work, place, roles), *phases]
    if name == "reward":
        policy = Role(
            "policy", model.size.parameters, 0, settings.model.dtype.value, model.size.parameters * model.width
        )
        roles.append(policy)
        phases = [phase._replace(holds=(learner.name,)) for phase in phases]
        tokens = max(trainer_of(settings)["per_device_eval_batch_size"], SCORED) * work.longest
        working = at_work(model.size.shape, tokens, model.width)
        phases.append(Phase("report card", working, other=pages(place, policy), optimizer=(learner.name,)))
    later = name == "reward" or (isinstance(settings.stage, PreferenceStage) and not beside(settings.stage))
    if settings.adapter.kind is AdapterKind.none:  # frozen weights stay mapped from their file
        phases += reading(roles, place, first=1 if later else None)
    frozen = name == "reward" and settings.adapter.kind is not AdapterKind.none
    return Ledger(roles, phases, beside=resident(model, place, tokenizers=1, looked_up=frozen))


def resident(model: Architecture, place: Place, *, tokenizers: int, looked_up: bool = False) -> int:
    """Return the bytes that a CPU process holds in addition to its models; negative if embeddings are ``looked_up``.

    Frozen weights stay in the memory-mapped file until they are read, and hardly any rows of an embedding that is only
    looked up are read.
    """
    if place.gpu:
        return 0
    shape = model.size.shape
    unread = shape.vocabulary * shape.hidden * model.width if looked_up else 0
    return tokenizers * TOKENIZER * shape.vocabulary - unread


def shares(settings: Settings, model: Architecture) -> bool:
    """Whether the stage will compute a prompt once for its responses."""
    stage = settings.stage
    if not isinstance(stage, RewardStage | PreferenceStage) or stage.shared_prefix is SharedPrefix.off:
        return False
    return refusal(model.config, settings.model.attention, stage.trainer.get("max_length")) is None


def beside(stage: PreferenceStage) -> bool:
    """Return whether the reference is computed at every step."""
    return not (stage.cache_reference or stage.reference_free)


def comparing(
    settings: Settings, model: Architecture, work: Work, place: Place, roles: list[Role], phases: list[Phase]
) -> list[Phase]:
    """Return ``phases`` with those of the reference; without an adapter, add it to ``roles`` as a second model.

    Cached log-probabilities of the reference are computed by the untrained policy before the first step; the second
    model is then loaded at the end, for the held-out comparison. So is it if no loss reads a reference.
    """
    [learner], stage = roles, settings.stage_as(PreferenceStage)
    whole = settings.adapter.kind is AdapterKind.none
    if whole and (settings.eval_set.prompts or not stage.reference_free):
        weights = place.ranks.weights(model.size.parameters, model.width, trained=False)
        title = "starting policy" if stage.reference_free else "reference"
        roles.append(Role(title, model.size.parameters, 0, settings.model.dtype.value, weights))
    if beside(stage):
        return phases
    first = None
    if not stage.reference_free:
        wide = head(settings, model, work.passed, work.scored, place, backward=False)
        first = Phase("reference", at_work(model.size.shape, work.passed, model.width), wide)
        phases = [first, *phases]
    phases = [phase._replace(holds=(learner.name,)) for phase in phases]
    if first is not None and isinstance(stage, OnlineDPOStage) and stage.reference is Reference.fixed:
        phases[0] = first  # the policy of a later round, and the first one as a second model
    if whole and settings.eval_set.prompts:
        phases.append(Phase("held out", other=pages(place, roles[1]), optimizer=(learner.name,)))
    return phases


def sampling(settings: Settings, model: Architecture, work: Work, place: Place, roles: list[Role]) -> Phase:
    """Return the phase in which responses are sampled and scored, and add to ``roles`` the reward model, if any."""
    [learner, *_], stage = roles, settings.stage_as(ScoredStage)
    kept = cache(model.size.shape, work.rows, work.longest, model.width)
    holds = (learner.name,)
    if stage.reward is not None:
        weights = place.ranks.weights(model.size.parameters, model.width, trained=False)
        roles.append(Role("reward model", model.size.parameters, 0, settings.model.dtype.value, weights))
        holds = (*holds, "reward model")
    return Phase("sampling", at_work(model.size.shape, work.rows * work.longest, model.width), cache=kept, holds=holds)


def learning(settings: Settings, model: Architecture, ranks: Ranks, name: str, scores: bool) -> Role:
    """Return the role that learns: all weights, or float32 adapters; with a head of one output if it ``scores``."""
    adapter, size, width = settings.adapter, model.size, model.width
    parameters = model.classifier if scores else size.parameters
    if adapter.kind is AdapterKind.none:
        held = (
            ranks.weights(parameters, width),
            ranks.gradients(parameters, width),
            ranks.optimizer(parameters, width),
        )
        return Role(name, parameters, parameters, settings.model.dtype.value, *held)
    # A classifier has one row instead of the output layer, which tied weights share with the embeddings.
    base = size.weights + (parameters - size.parameters) * width
    trained = size.adapter + (size.shape.hidden if scores else 0)
    weights = ranks.weights(1, base, trained=False) + ranks.weights(trained, FLOAT32)
    kind = "4 bits" if adapter.kind is AdapterKind.qlora else settings.model.dtype.value
    held = (weights, ranks.gradients(trained, FLOAT32), ranks.optimizer(trained, FLOAT32))
    return Role(name, parameters + trained, trained, kind, *held)


def steps(settings: Settings, model: Architecture, work: Work, place: Place, learner: Role) -> list[Phase]:
    """Return the phases of a step that can be its peak: the loss, and the start and end of the backward pass."""
    shape, width, trainer = model.size.shape, model.width, trainer_of(settings)
    passing = passes(settings, model, place)
    tokens = work.passed
    if work.seen:
        kept = passing.kept(1, tokens) + passing.branching(tokens, work.seen)
        kept -= passing.spared(tokens - work.scored, attention=True)
    else:
        kept = passing.kept(work.at_once, work.longest)
    if trainer.get("activation_offloading") and place.gpu:
        kept //= max(shape.layers // 2, 1)  # those of two layers are on the device
    moments = (learner.name,)
    gathered = place.ranks.gathered(model.layer, model.outside, width)
    largest = model.size.largest if settings.adapter.kind is AdapterKind.none else 0
    before = moments if trainer["gradient_accumulation_steps"] > 1 else ()
    wide, working = head(settings, model, tokens, work.scored, place, backward=True), at_work(shape, tokens, width)
    backward = kept + at_work(shape, tokens, width, work.scored)
    return [
        Phase("loss", kept, wide, 0, gathered + (largest if wide else 0), before, moments),
        Phase("backward", backward, 0, 0, gathered + largest, before, moments),
        Phase("end of backward", working, 0, 0, gathered + largest, moments, moments),
    ]


def passes(settings: Settings, model: Architecture, place: Place) -> Pass:
    """Return the forward pass; TRL's trainers of reward models, DPO and KTO disable dropout by default."""
    name, trainer = settings.stage.name, trainer_of(settings)
    dropout = not trainer.get("disable_dropout", name in ("reward", "dpo", "kto", "online_dpo"))
    mask = (1 if place.gpu else model.width) if dropout else 0
    return model.passing(settings, mask=mask, checkpointing=bool(trainer.get("activation_checkpointing")))


def head(settings: Settings, model: Architecture, tokens: int, scored: int, place: Place, *, backward: bool) -> int:
    """Return the bytes of logits: of every token in pretraining, of a tile in SFT, DPO and KTO, none in a reward model.

    With prefix sharing on a CPU in float32, DPO and KTO use this package's head, on the ``scored`` tokens only.
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
    """Return the phase of the final evaluation: no activations are kept, the optimizer's state is."""
    trainer, shape = trainer_of(settings), model.size.shape
    times = trainer["per_device_eval_batch_size"] / trainer["per_device_train_batch_size"]
    tokens, scored = round(work.passed * times), round(work.scored * times)
    wide = head(settings, model, tokens, scored, place, backward=False)
    gathered = place.ranks.gathered(model.layer, model.outside, model.width)
    return Phase("evaluating", at_work(shape, tokens, model.width), wide, other=gathered, optimizer=(learner.name,))


def reading(roles: list[Role], place: Place, first: int | None = None) -> list[Phase]:
    """Return the phase of loading on a CPU: the pages of the file are resident in addition to the weights."""
    if place.gpu:
        return []
    read = [role for role in roles[:first] if role.parameters > role.trainable or role.weights]
    return [
        Phase("loading", other=pages(place, role), holds=tuple(loaded.name for loaded in read[: number + 1]))
        for number, role in enumerate(read)
    ][-1:]


def pages(place: Place, role: Role) -> int:
    """Return the bytes of resident pages of the file while a role is loaded."""
    return 0 if place.gpu else role.weights
