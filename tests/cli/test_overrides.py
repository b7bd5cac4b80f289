"""Overrides on the command line: text is not changed by the grammar of overrides."""

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.cli.main import register, settings_of
from rlhf.cli.overrides import arguments_of, named_by_path, parsed, searched, stages_of, typed
from rlhf.errors import ConfigError
from rlhf.storage.paths import bundled

NUMBERS = ["1_1_1", "1.10", "12e4567", "1e3", "007", "true", "-1", "inf", "nan", "5."]


def composed_as_typed(*given: str):
    register()
    _, overrides = arguments_of(given)
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        return settings_of(compose(config_name="config", overrides=overrides))


@pytest.mark.parametrize("text", [*NUMBERS, "12:30", "1.10-rc", "ünï", "a;b", "a b", "file (1).jsonl", "a=b"])
def test_text_settings_keep_what_was_typed(text: str) -> None:
    keys = ("name", "model.revision", "data.path", "stage.seeds")
    made = composed_as_typed("stage=compare", *(f"{key}={text}" for key in keys), "stage.questions=[1.10,x]")
    assert (made.name, made.model.revision, made.data.path, made.stage.seeds) == (text,) * 4
    assert made.stage.questions == ["1.10", "x"]


def test_so_do_tags_branches_and_texts_in_mappings() -> None:
    made = composed_as_typed("stage=publish", "stage.tag=1.10", "stage.branch=1e3")
    assert (made.stage.tag, made.stage.branch) == ("1.10", "1e3")
    assert composed_as_typed("stage=compare", "stage.models={sft: 1.10, b: 2}").stage.models == {
        "sft": "1.10",
        "b": "2",
    }


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_in_a_sweep_each_value_is_kept(one: str, other: str) -> None:
    for form in ("{},{}", "choice({},{})", "choice({}, '{}')", "shuffle({},{})"):
        item = typed(f"name={form.format(one, other)}", ["dpo"])
        jobs = [parsed(f"name={value}").value() for value in parsed(item).sweep_string_iterator()]
        assert sorted(jobs) == sorted([one, other])


@pytest.mark.parametrize(
    "item",
    [
        "seed=1", "stage.beta=1e-1", "name=plain", "name='1.10'", "name=null", "name=range(1,3)", "overwrite=true",
        "stage.trainer.max_steps=3", "hydra.sweeper.n_trials=3", "~data.path", "model=gpt2", "stage.loss=[ipo]",
        "stage.rewards={a: {weight: 1.0}}",
    ],
)  # fmt: skip
def test_values_that_are_no_text_or_already_text_are_unchanged(item: str) -> None:
    assert typed(item, ["dpo"]) == item


def test_a_setting_of_a_reward_term_is_text_too() -> None:
    assert typed("stage.rewards.a.run=1.10", ["ppo"]) == "stage.rewards.a.run='1.10'"
    assert typed("stage.rewards.a.weight=1.10", ["ppo"]) == "stage.rewards.a.weight=1.10"


def test_options_and_overrides_are_distinguished() -> None:
    given = ["--config-dir", "mine", "stage=dpo", "-m", "name=1.10,2"]
    assert arguments_of(given) == (["--config-dir", "mine", "-m"], ["stage=dpo", "name='1.10','2'"])
    assert searched(["--config-dir", "mine", "-m"]) == searched(["--config-dir=mine"]) == ["--config-dir=mine"]
    assert arguments_of(["-sc", "install=bash"]) == (["-sc"], ["install=bash"])


def test_from_names_the_update_to_branch_from() -> None:
    branch = "stage.branch_from=checkpoints/a/ppo@40"
    assert named_by_path(["from=checkpoints/a/ppo@40", "name=b"]) == ["stage=ppo", branch, "name=b"]
    assert named_by_path(["name=b", "stage=kto", "from=checkpoints/a/ppo@40"]) == ["name=b", "stage=kto", branch]
    swept = arguments_of(["-m", "name=b", "from=checkpoints/a/ppo@20,checkpoints/a/ppo@40"])[1]
    assert swept == ["stage=ppo", "name=b", "stage.branch_from=checkpoints/a/ppo@20,checkpoints/a/ppo@40"]


def test_the_stages_of_a_command() -> None:
    assert stages_of(["stage=dpo,ppo", "seed=1"]) == ["dpo", "ppo"]
    assert stages_of([]) == ["status"]


def test_a_glob_over_a_group_runs_as_before() -> None:
    assert arguments_of(["-m", "model=glob(gpt*)"])[1] == ["model=glob(gpt*)"]
    with pytest.raises(ConfigError, match="matches no option of the group model"):
        arguments_of(["-m", "model=glob(qq*)"])
    assert named_by_path(["model=a/b,c/d"]) == ["model=a/b,c/d"]
