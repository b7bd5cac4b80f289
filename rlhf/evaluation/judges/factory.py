"""Builds the judge of the settings."""

from string import Template

from rlhf.config import JudgeKind, Settings
from rlhf.errors import ConfigError
from rlhf.evaluation.judges.endpoint import EndpointJudge
from rlhf.evaluation.judges.judge import Judge, LocalJudge, RewardJudge, template
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.rewards import RewardModel, function
from rlhf.rewards.spending import Spending
from rlhf.runs.run import Run


def build(settings: Settings, run: Run) -> Judge:
    """Return the judge of ``settings.judge``; its model is the parent in the role ``judge``.

    Raises:
        ConfigError: it cannot be built, or the judge is human.
        ModelError: its model cannot be loaded.
    """
    judge = settings.judge
    if judge.kind is JudgeKind.function and judge.function is not None:
        return RewardJudge(function(judge.function))
    if judge.kind is JudgeKind.endpoint:
        return EndpointJudge(judge, template(judge.template))
    if judge.kind is JudgeKind.local:
        return local(settings, run, template(judge.template))
    if judge.kind is not JudgeKind.reward:
        raise ConfigError(
            f"judge={judge.kind.value} cannot be asked here: set judge to function, reward, local or endpoint"
        )
    return RewardJudge(reward_model(settings, run, "judge"))


def reward_model(settings: Settings, run: Run, role: str) -> RewardModel:
    """Return the reward model of a parent, with the judge's limits on length and batch."""
    tokenizer = loading.load_tokenizer(run[role], settings.model)
    reward = loading.load_reward_model(run[role], settings.model, tokenizer).to(torch_device(settings.hardware))
    judge = settings.judge
    return RewardModel(reward, tokenizer, max_length=judge.max_length, batch_size=judge.batch_size)


def local(settings: Settings, run: Run, text: Template, spending: Spending | None = None) -> LocalJudge:
    """Return the language model in the role ``judge``, which is asked with the template ``text``."""
    judge = settings.judge
    tokenizer = loading.load_tokenizer(run["judge"], settings.model)
    policy = loading.load_policy(run["judge"], settings.model, tokenizer).to(torch_device(settings.hardware))
    lengths = {"max_length": judge.max_length, "batch_size": judge.batch_size}
    return LocalJudge(policy.requires_grad_(False), tokenizer, text, **lengths, spending=spending)
