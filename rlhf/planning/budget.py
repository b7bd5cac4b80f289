"""A number of tokens turned into the number of steps or updates that a stage can train for."""

from statistics import fmean

from rlhf.config import CriticKind, PPOStage, Settings, TrainerStage
from rlhf.data.formats import Kind
from rlhf.data.sources import source_of
from rlhf.errors import ConfigError
from rlhf.planning.workload import counted, trained

COUNTED: dict[str, Kind] = {"sft": "demonstrations", "reward": "preferences", "dpo": "preferences", "kto": "thumbs"}


def steps(settings: Settings, budget: int) -> str:
    """Return the override that trains for about ``budget`` tokens, sampled and trained together, and at least a step.

    A token counts once if it is sampled, and once for every epoch and every model that trains on it. Sampled responses
    are expected to be as long as the chosen ones of the preference pairs, or, without pairs, as long as allowed.

    Raises:
        ConfigError: the stage has no setting for the length of its training.
    """
    stage = settings.stage
    if isinstance(stage, PPOStage):
        return f"stage.updates={max(round(budget / tokens_of_an_update(settings)), 1)}"
    if isinstance(stage, TrainerStage) and stage.name in COUNTED:
        work = trained(settings, counted(settings, COUNTED[stage.name]), 1)
        return f"stage.trainer.max_steps={max(round(budget / (work.tokens / work.steps)), 1)}"
    raise ConfigError(f"stage.budget={budget} cannot be applied to stage={stage.name}: set stage.budget=null")


def tokens_of_an_update(settings: Settings) -> float:
    """Return the tokens that an update of PPO is expected to sample and to train on."""
    stage = settings.stage_as(PPOStage)
    prompt = fmean(length for length, *_ in counted(settings, "prompts").lengths)
    response: float = stage.max_response_length
    if source_of(settings.data, "preferences").paths:
        chosen = fmean(own for _, own, *_ in counted(settings, "preferences").lengths)
        response = min(chosen, response)
    learners = 1 + int(stage.has_critic and stage.critic_kind is CriticKind.separate)
    return stage.rows * (response + (prompt + response) * stage.epochs * learners)
