"""conf/: every file composes, a stage has one name everywhere, and nothing is left to guess."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf.config import STAGES
from rlhf.storage.paths import PACKAGE, bundled
from tests.conftest import composed

CONF = bundled("conf")
TESTS = Path(__file__).parent


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_a_stage_has_one_name_everywhere() -> None:
    modules = {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__"} | {"progression"}
    tests = {path.stem.removeprefix("test_") for path in (TESTS / "stages").glob("test_*.py")} - {"init"} | {
        "progression"
    }
    assert set(STAGES) == set(names("stage")) == modules == tests
    for name, stage in STAGES.items():
        assert stage.__name__.lower() == f"{name.replace('_', '')}stage"
    assert (PACKAGE / "cli" / "progression.py").exists()
    assert (TESTS / "cli" / "test_progression.py").exists()


def test_conf_is_not_shadowed_by_a_copy_in_the_package() -> None:
    assert not (PACKAGE / "conf").exists()


@pytest.mark.parametrize("experiment", names("experiment"))
@pytest.mark.parametrize("stage", STAGES)
def test_every_experiment_composes_for_every_stage(experiment: str, stage: str) -> None:
    settings = composed(f"experiment={experiment}", f"stage={stage}", *needed(experiment))
    assert settings.stage.name == stage
    assert experiment in ("none", settings.name)
    # The old name of activation_checkpointing: beside the new one, which every stage sets, it would be passed over.
    assert "gradient_checkpointing" not in getattr(settings.stage, "trainer", {})


def needed(experiment: str) -> list[str]:
    """Return the settings without a default: the pairs of the controlled sentiment experiment are sampled first."""
    return ["data.preferences.path=pairs.jsonl"] if experiment == "imdb-sentiment" else []


@pytest.mark.parametrize("model", names("model"))
def test_every_model_composes(model: str) -> None:
    given = ["model.path=my_model"] if model == "local" else []
    assert composed("stage=sft", f"model={model}", *given).model.name == model


@pytest.mark.parametrize("data", names("data"))
def test_every_data_set_composes(data: str) -> None:
    given = ["data.preferences.path=pairs.jsonl"] if data == "imdb" else []
    assert composed("stage=sft", f"data={data}", *given).data.name == data


@pytest.mark.parametrize("group", ["adapter", "hardware", "tracker"])
def test_every_option_composes(group: str) -> None:
    for option in names(group):
        composed("stage=sft", f"{group}={option}")


def test_every_recipe_belongs_to_an_experiment_and_a_stage() -> None:
    for recipe in names("recipe"):
        experiment, _, stage = recipe.rpartition("-")
        assert experiment in names("experiment"), recipe
        assert stage in STAGES, recipe


@pytest.mark.parametrize("path", sorted(CONF.glob("stage/*.yaml")), ids=lambda path: path.stem)
def test_a_stage_file_gives_every_value(path: Path) -> None:
    """A dataclass has no defaults, so a value that is missing here would be a ``???`` for the user."""
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert "???" not in str(values)
    fields = {field.name for field in dataclasses.fields(STAGES[path.stem])}
    assert set(values) - {"defaults"} == fields


@pytest.mark.parametrize("path", sorted(CONF.glob("recipe/*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_where_its_values_come_from(path: Path) -> None:
    """Every value has its source beside it, save where the recipe's top says that its values were found by trial."""
    lines = path.read_text(encoding="utf-8").splitlines()
    top = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    values = [line for line in lines if not re.fullmatch(r"\s*(#.*|\w+:\s*)?", line)]
    assert values
    if "Found by trial" not in top:
        assert not [line for line in values if not re.search(r" # \S", line)]


def test_a_file_of_ones_own_is_not_judged_by_the_almanac() -> None:
    assert composed("stage=reward").data.ceiling == "rlhf.almanac:noise_ceiling"
    own = composed("stage=reward", "data.path=mine.jsonl").data
    assert (own.gold, own.judge, own.ceiling) == (None, None, None)
    assert composed("data.path=mine.jsonl", "data.gold=math:sqrt").data.gold == "math:sqrt"


@pytest.mark.parametrize("stage", ["base", "sft", "reward", "dpo", "kto", "ppo"])
@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_an_adapter_takes_ten_times_the_rate_unless_one_is_given(stage: str, adapter: str) -> None:
    def rates(*overrides: str) -> list[float]:
        made = composed(f"stage={stage}", "experiment=none", "model=gpt2", *overrides).stage
        return [made.learning_rate, made.critic_learning_rate] if stage == "ppo" else [made.trainer["learning_rate"]]

    whole = rates()
    assert rates(f"adapter={adapter}") == [float(f"{10 * rate:.3g}") for rate in whole]
    assert rates(f"adapter={adapter}", "adapter.learning_rate_factor=1") == whole
    key = "stage.learning_rate" if stage == "ppo" else "stage.trainer.learning_rate"
    assert rates(f"adapter={adapter}", f"{key}=7e-6")[0] == 7e-6
