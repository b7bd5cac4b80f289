import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.holdout=0"], "data.holdout must be positive, got 0.0"),
        (["data.holdout=1.5"], r"data.holdout must lie in \(0, 1\], got 1.5"),
        (["data.pairing.score_ratio=0.5"], r"data.pairing.score_ratio must lie in \[1, 1000000\], got 0.5"),
        (["data.preferences.mix={a.jsonl: 0}"], r"data.<source>.mix\[a.jsonl\] must be positive and finite, got 0"),
        (
            ["data.preferences.mix={a.jsonl: much}"],
            r"data.<source>.mix\[a.jsonl\] must be positive and finite, got 'mu",
        ),
        (["data.preferences.mix=[a.jsonl]"], r"data.<source>.mix must be null, or map files, folders or Hub ids to"),
        (["adapter.rank=0"], "adapter.rank must be positive, got 0"),
        (["hardware.device=tpu"], "hardware.device must be auto, cpu, cuda or mps, got 'tpu'"),
        (["hardware=ddp", "hardware.device=mps"], "hardware.strategy must stay none on an Apple GPU, got 'ddp'"),
        (["hardware.processes=2"], r"hardware.processes=2 on hardware.nodes=1 cannot divide .*: set hardware=ddp"),
        (["hardware=ddp", "hardware.processes=0"], "hardware.processes must be positive, got 0"),
        (["hardware=ddp", "hardware.node_rank=1"], "hardware.node_rank must be below hardware.nodes=1, got 1"),
        (["hardware=ddp", "hardware.nodes=2"], "hardware.rendezvous must be the host:port at which the machines meet"),
        (["hardware=fsdp", "hardware.device=cpu"], "hardware.device must be cuda under hardware.strategy=fsdp"),
        (["hardware=fsdp", "hardware.oom_retry=true"], "hardware.oom_retry must be false under fsdp, got True"),
        (["stage=ppo", "hardware=fsdp"], "hardware.strategy=fsdp cannot shard the policy .*: set hardware=ddp"),
        (["seed=-1"], "seed must not be negative, got -1"),
        (["overwrite=true", "resume=true"], "contradict each other"),
        (["stage.name=mine"], "stage.name=mine cannot rename a stage: leave it out, and set name to write elsewhere"),
        (["adapter.target_modules=3"], "adapter.target_modules must be null, a pattern or a list of names, got 3"),
        (["adapter.target_modules=[q_proj,3]"], r"be null, a pattern or a list of names, got \['q_proj', 3\]"),
        (["adapter.target_modules=[]"], r"be null, a pattern or a list of names, got \[\]"),
        (["~model.architecture.vocabulary"], "model.architecture.vocabulary must be a whole number, got None"),
        (["model.architecture.vocabulary=many"], "model.architecture.vocabulary must be a whole number, got 'many'"),
        (["model.architecture=null"], "model.path is null and model.architecture is null"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_a_mix_takes_the_place_of_the_path() -> None:
    source = composed("stage=dpo", "data.preferences.mix={a/b.jsonl: 0.7, org/name@v1: 0.3}").data.preferences
    assert source.paths == ("a/b.jsonl", "org/name@v1")
    assert source.mix == {"a/b.jsonl": 0.7, "org/name@v1": 0.3}
    assert composed("stage=dpo", "data=local").data.preferences.paths == ()
