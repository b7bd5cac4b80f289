"""Each path of a stage is null, empty, missing or present, with each adapter: it runs, or raises a one-line error."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlhf.cli.messages import explain
from rlhf.config import STAGES, Settings, TrainedStage
from rlhf.errors import RlhfError
from rlhf.planning.workload import tokenizer_of
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides

PATHS = {
    "base": ("stage.policy",),
    "sft": ("stage.policy", "model.pretrained"),
    "reward": ("stage.policy",),
    "dpo": ("stage.policy",),
    "kto": ("stage.policy",),
    "ppo": ("stage.policy", "stage.reward", "stage.critic", "stage.teacher"),
    "online_dpo": ("stage.policy", "stage.reward"),
    "raft": ("stage.reward",),
    "merge": ("stage.policy",),
    "sample": ("stage.policy", "stage.reward"),
    "evaluate_reward": ("stage.policy", "stage.reward"),
    "compare": ("stage.reward", "stage.reference", "stage.models", "stage.models.sft"),
    "label": ("stage.sample", "stage.samples"),
    "publish": ("stage.run", "stage.base", "stage.comparison"),
    "export": ("stage.run",),
    "inspect": ("stage.tokenizer", "data.path"),
}
MODEL = ("model.path=null", "model.architecture=null", "model.chat_template=null")
DATA = ("data.text.path=null", "data.demonstrations.path=null", "data.preferences.path=null", "data.prompts.path=null")


def outcome(make: Callable[[], Settings], run: Callable[[Settings], object]) -> str | None:
    """Return the sentence of a mistake, or None; any other exception is one of the kind that this test looks for."""
    try:
        run(make())
    except (RlhfError, OmegaConfBaseException, HydraException) as error:
        return explain(error)
    return None


def check(told: str | None) -> None:
    assert told is None or (told and "\n" not in told and "=None" not in told), told


@pytest.mark.parametrize(
    ("stage", "key", "adapter"),
    [
        (stage, key, adapter)
        for stage, keys in PATHS.items()
        for key in keys
        for adapter in (("none", "lora") if issubclass(STAGES[stage], TrainedStage) else ("none",))
    ],
)
def test_a_path_that_is_null_or_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, key: str, adapter: str
) -> None:
    """Until a model is loaded; the stages themselves have tests with the models that they accept."""

    def stop(*_: object, **__: object) -> None:
        raise RlhfError("a model is loaded")

    monkeypatch.setattr("rlhf.modeling.loading._load", stop)
    monkeypatch.setattr("rlhf.modeling.from_scratch.LlamaForCausalLM", stop)
    for value in ("null", "''", "nowhere/at/all"):
        own = [*tiny_overrides(stage, tmp_path), f"adapter={adapter}", f"{key}={value}"]
        place = tmp_path / f"run-{len(value)}"
        told = outcome(lambda own=own: composed(*own), lambda given, place=place: execute(given, place))
        check(told)
        assert place.exists() == (told is None)


@pytest.mark.parametrize("stage", ["base", "sft", "dpo", "ppo"])
@pytest.mark.parametrize("given", [MODEL[:1], MODEL[:2], MODEL[1:], MODEL[::2], MODEL, *([one] for one in DATA), DATA])
def test_a_model_or_data_that_are_null(tmp_path: Path, stage: str, given: tuple[str, ...]) -> None:
    """stage=plan reads the same settings before there is any run."""
    own = [*tiny_overrides(stage, tmp_path), *given]
    for run in (tokenizer_of, lambda settings: execute(settings, tmp_path / "run")):
        check(outcome(lambda: composed(*own), run))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage=base", "adapter=lora"],
            "adapter=lora needs a trained model, and stage.policy=null starts from random",
        ),
        (["stage=base", "adapter=qlora"], "adapter=qlora needs a trained model, and stage.policy=null starts from"),
        (
            ["stage=base", "model.chat_template=null"],
            "stage.policy=null trains a new model, and model.chat_template is",
        ),
        (
            ["stage=base", "model.path=a/b", "stage.policy=null", "model.architecture=null"],
            "stage.policy=null trains a new model, and model.architecture is null: set one of them",
        ),
    ],
)
def test_a_new_model_needs_all_of_its_parts_and_no_adapter(overrides: list[str], message: str) -> None:
    assert message in str(outcome(lambda: composed(*overrides), lambda _: None))


def test_a_plan_of_a_chain_without_a_first_model_is_refused(tmp_path: Path) -> None:
    given = composed(*tiny_overrides("sft", tmp_path), "model.chat_template=null")
    told = outcome(lambda: given, tokenizer_of)
    assert told == "model.path=null trains a new model, and model.chat_template is null: set one of them"
