"""A number of tokens turned into the number of steps, updates, prompts or rounds that a stage can train for."""

from statistics import fmean

from rlhf.config import CriticKind, OnlineDPOStage, PPOStage, RAFTStage, ScoredStage, Settings, TrainerStage
from rlhf.data.formats import Kind
from rlhf.data.sources import source_of
from rlhf.errors import ConfigError
from rlhf.planning.workload import counted, made, trained

COUNTED: dict[str, Kind] = {"sft": "demonstrations", "reward": "preferences", "dpo": "preferences", "kto": "thumbs"}


def within(settings: Settings, budget: int) -> list[str]:
    """Return the overrides that train for about ``budget`` tokens, sampled and trained together, and at least a step.

    A token counts once if it is sampled, and once for every epoch and every model that trains on it. Sampled responses
    are expected to be as long as the chosen ones of the preference pairs, or, without pairs, as long as allowed.

    Raises:
        ConfigError: the stage has no setting for the length of its training.
    """
    stage = settings.stage
    if isinstance(stage, PPOStage):
        return [f"stage.updates={max(round(budget / tokens_of_an_update(settings)), 1)}"]
    if isinstance(stage, RAFTStage | OnlineDPOStage):
        return of_samples(settings, budget)
    if isinstance(stage, TrainerStage) and stage.name in COUNTED:
        work = trained(settings, counted(settings, COUNTED[stage.name]), 1)
        return [f"stage.trainer.max_steps={max(round(budget / (work.tokens / work.steps)), 1)}"]
    raise ConfigError(f"stage.budget={budget} cannot be applied to stage={stage.name}: set stage.budget=null")


def of_samples(settings: Settings, budget: int) -> list[str]:
    """Return the overrides of RAFT or online DPO, as if all pairs of responses had different scores.

    A small budget uses fewer prompts. A larger one than all prompts allow takes more responses per prompt in RAFT, and
    more rounds in online DPO, which may not stop early.
    """
    stage, (available, prompt, response) = settings.stage, lengths(settings)
    assert isinstance(stage, RAFTStage | OnlineDPOStage)
    epochs, rows = stage.trainer["num_train_epochs"], made(stage) * (2 if isinstance(stage, OnlineDPOStage) else 1)
    learned = epochs * rows * (prompt + response)  # per prompt
    whole = ["stage.trainer.max_steps=-1"] if stage.trainer["max_steps"] > 0 else []
    if isinstance(stage, RAFTStage):
        prompts = round(budget / (stage.samples * response + learned))
        samples = max(round((budget / available - learned) / response), stage.samples)
        more = [f"stage.samples={samples}"] if prompts > available else []
        return [*whole, f"stage.prompts={min(max(prompts, 2), available)}", *more]
    each = stage.samples * response + learned
    prompts = min(max(round(budget / stage.rounds / each), 2), available)
    rounds = max(round(budget / (prompts * each)), 1)
    return [*whole, f"stage.prompts={prompts}", f"stage.rounds={rounds}", "stage.stop_early=false"]


def lengths(settings: Settings) -> tuple[int, float, float]:
    """Return the number of prompts, their mean length, and the expected length of a sampled response, in tokens."""
    stage, prompts = settings.stage_as(ScoredStage), counted(settings, "prompts")
    response: float = stage.max_response_length
    if source_of(settings.data, "preferences").paths:
        response = min(fmean(own for _, own, *_ in counted(settings, "preferences").lengths), response)
    return prompts.count, fmean(length for length, *_ in prompts.lengths), response


def tokens_of_an_update(settings: Settings) -> float:
    """Return the tokens that an update of PPO is expected to sample and to train on."""
    stage, (_, prompt, response) = settings.stage_as(PPOStage), lengths(settings)
    learners = 1 + int(stage.has_critic and stage.critic_kind is CriticKind.separate)
    return stage.rows * (response + (prompt + response) * stage.epochs * learners)
