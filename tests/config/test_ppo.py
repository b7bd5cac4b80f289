"""The rules on PPO's settings; each error is one sentence with the key and the value."""

import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage.critic_kind=value_head", "stage.critic=x"],
            "stage.critic_kind=value_head starts a new head .* stage.critic=x would be ignored: set",
        ),
        (["stage.value_coef=0"], "stage.value_coef must be positive, got 0"),
        (["stage.kl_in=loss"], "stage.kl_in=loss cannot have stage.kl_estimator=k1, .* set stage.kl_estimator=k2"),
        (["stage.kl_target=6", "stage.kl_coef=0"], "stage.kl_target scales stage.kl_coef, which is 0"),
        (["stage.kl_target=0"], "stage.kl_target must be positive, got 0.0"),
        (["stage.kl_gain=0"], "stage.kl_gain must be positive, got 0.0"),
        (["stage.clip_low=1.1"], r"stage.clip_low must lie in \(0, 1\], got 1.1"),
        (["stage.clip_high=0"], "stage.clip_high must be positive, got 0.0"),
        (["stage.dual_clip=1"], "stage.dual_clip must be above 1, or null, got 1.0"),
        (["stage.value_clip=0"], "stage.value_clip must be positive, got 0.0"),
        (["stage.target_kl=-1"], "stage.target_kl must be positive, got -1.0"),
        (["stage.entropy_coef=-0.1"], "stage.entropy_coef must not be negative, got -0.1"),
        (["stage.micro_batch_size=0"], "stage.micro_batch_size must be positive, got 0"),
        (["stage.micro_batch_tokens=-1"], "stage.micro_batch_tokens must be positive, got -1"),
        (["stage.rollout.rows=0"], "stage.rollout.rows must be positive, got 0"),
        (["stage.rollout.vllm_memory=1"], r"stage.rollout.vllm_memory must lie in \(0, 1\), got 1"),
        (["stage.rollout.engine=vllm"], "stage.rollout.engine=vllm samples .* set stage.importance_cap=2"),
        (["stage.advantage=rloo"], "stage.advantage=rloo compares .* stage.samples=1: set it to 2 or more"),
        (["stage.samples=2", "stage.equal_groups=drop"], "stage.equal_groups=drop is for estimators that compare"),
        (["stage.advantage=reinforce", "stage.critic=x"], "stage.advantage=reinforce has no critic, so stage.critic=x"),
        (["stage.advantage=reinforce", "stage.critic_warmup_updates=2"], "nothing would be trained in the first"),
        (["stage.advantage=grpo", "stage.samples=2", "stage.gamma=0.9"], "so stage.gamma=0.9 would be ignored"),
        (["stage.overlong_buffer=999"], "stage.overlong_buffer must be at most stage.max_response_length="),
        (["stage.kl_ratio_gradient=true"], "stage.kl_ratio_gradient=true has no effect with stage.kl_in=reward"),
        (
            ["stage.rollout.engine=vllm", "stage.importance_cap=2", "stage.rollout.vllm_mode=server"],
            "vllm_mode=server needs the server's address: set stage.rollout.vllm_url",
        ),
        (["stage.advantage=reverse_kl"], "stage.advantage=reverse_kl is the one of a teacher: set stage.teacher"),
        (["stage.teacher=x", "stage.advantage=gae"], "so stage.advantage=gae would be ignored: leave it out"),
        (["stage.teacher=x", "stage.reward=y"], "stage.teacher replaces the reward, so stage.reward and"),
        (["stage.teacher=x", "stage.kl_target=6"], "so stage.kl_target and stage.kl_in=loss would be ignored"),
        (["stage.branch_from=x"], "stage.branch_from must name a run and an update, such as x@10, got 'x'"),
        (
            ["stage.branch_from=x@60", "stage.updates=60"],
            "stage.updates must be above the update of stage.branch_from=x@",
        ),
        (["stage.importance_cap=0.5"], "stage.importance_cap must be at least 1, or null, got 0.5"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed("stage=ppo", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["stage.kl_in=loss", "stage.kl_estimator=k2"],
        ["stage.kl_in=loss", "stage.kl_estimator=k3"],
        ["stage.kl_target=6", "stage.dual_clip=3", "stage.value_clip=null", "stage.target_kl=0.015"],
        ["stage.rollout.engine=vllm", "stage.importance_cap=2", "stage.micro_batch_tokens=null"],
        ["stage.loss_mean=response", "stage.importance_cap=2", "stage.entropy_coef=0.01", "stage.whiten_rewards=true"],
    ],
)
def test_what_makes_sense_composes(overrides: list[str]) -> None:
    assert composed("stage=ppo", *overrides).stage.name == "ppo"
