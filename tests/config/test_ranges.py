"""Every number among the settings has a finite range: a random value is accepted or refused with a one-line error."""

import math
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments
from trl import DPOConfig, RewardConfig, SFTConfig

from rlhf.config import STAGES, RewardTermSettings, Settings
from rlhf.config.library_errors import blame
from rlhf.config.ranges import OURS, REFUSED, TRAINER, Range, require_trainer, require_warmup
from rlhf.errors import ConfigError, RlhfError
from rlhf.stages import execute
from rlhf.training.arguments import check
from tests.conftest import composed

CONFIGS = {"base": TrainingArguments, "sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig}
DECIDED = ("seed", "data_seed", "save_total_limit", "beta", "label_smoothing")  # by us, in the calls of ``arguments``


def kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def is_number(hint: Any) -> bool:
    return any(kind in (int, float, list[float]) for kind in kinds(hint))


def dataclasses() -> set[type]:
    """Every dataclass of the settings."""
    found: set[type] = set()
    waiting: list[type] = [Settings, RewardTermSettings, *STAGES.values()]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += [one for hint in get_type_hints(kind).values() for one in kinds(hint) if is_dataclass(one)]
    return found


@pytest.mark.parametrize("kind", sorted(dataclasses(), key=lambda kind: kind.__name__))
def test_every_number_of_ours_has_a_range(kind: type) -> None:
    known = {name for one in kind.__mro__ for name in OURS.get(one.__name__, {})}
    numbers = {field.name for field in fields(kind) if is_number(get_type_hints(kind)[field.name])}
    assert numbers == known


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_another_setting_decides_is_refused_with_the_reason(name: str) -> None:
    """torch_compile is among them: stage=dpo fails with a compiled model."""
    with pytest.raises(ConfigError, match=f"stage.trainer.{name} cannot be set, since .{{10,}}: leave it out"):
        require_trainer({name: True})


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_every_number_of_a_trainer_has_a_range_or_is_decided(kind: type) -> None:
    hints = get_type_hints(kind)
    numbers = {field.name for field in fields(kind) if field.init and is_number(hints[field.name])}
    assert not numbers - {*TRAINER, *REFUSED, *DECIDED}


def test_ranges_are_finite_and_no_name_is_left_over() -> None:
    ranges = [*TRAINER.values(), *(one for table in OURS.values() for one in table.values())]
    assert all(math.isfinite(one.low) and math.isfinite(one.high) for one in ranges)
    assert {*TRAINER, *REFUSED} <= {field.name for kind in CONFIGS.values() for field in fields(kind)}
    assert not {*TRAINER} & {*REFUSED}
    known = {one.__name__ for kind in dataclasses() for one in kind.__mro__}
    assert set(OURS) <= known


@pytest.mark.parametrize(
    ("allowed", "value", "rule"),
    [
        (Range(1, 9), 0, "be positive"),
        (Range(0, 9, open_low=True), 0.0, "be positive"),
        (Range(0, 9), -1, "not be negative"),
        (Range(0, 2**32, open_high=True), 2**32, "lie in [0, 4294967296)"),
        (Range(0, 1, open_high=True), 1, "lie in [0, 1)"),
        (Range(0, 1, open_low=True), math.inf, "lie in (0, 1]"),
        (Range(0, 1), math.nan, "lie in [0, 1]"),
        (Range(0, 1), -math.inf, "lie in [0, 1]"),
    ],
)
def test_a_value_outside_its_range_is_reported_with_the_rule(allowed: Range, value: float, rule: str) -> None:
    assert value not in allowed
    assert allowed.rule(value) == rule


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        ("sft", "stage.trainer.max_steps=0", "stage.trainer.max_steps must be positive, got 0"),
        ("ppo", "stage.adam_epsilon=inf", "stage.adam_epsilon must lie in [1e-16, 1], got inf"),
        ("dpo", "stage.trainer.max_grad_norm=-1", "stage.trainer.max_grad_norm must not be negative, got -1"),
        ("dpo", "stage.trainer.max_grad_norm=nan", "stage.trainer.max_grad_norm must lie in [0, 1000000000], got nan"),
        ("reward", "+stage.trainer.center_rewards_coefficient=-100", "must not be negative, got -100"),
        ("ppo", "stage.temperature=inf", "stage.temperature must lie in [0.001, 100], got inf"),
        ("ppo", "stage.temperature=1e-300", "stage.temperature must lie in [0.001, 100], got 1e-300"),
        ("ppo", "stage.warmup_updates=1000", "stage.warmup_updates must be at most stage.updates="),
        ("sft", "stage.trainer.save_steps=0", "stage.trainer.save_steps must be positive, got 0"),
        ("sft", "stage.trainer.save_steps=-1", "stage.trainer.save_steps must be positive, got -1"),
        ("sft", "adapter.rank=100000", "adapter.rank must lie in [1, 4096], got 100000"),
        ("sft", "+stage.trainer.neftune_noise_alpha=nan", "neftune_noise_alpha must lie in (0, 1000], got nan"),
        ("dpo", "stage.loss=[sigmoid,sigmoid]", "stage.loss must name one loss or more, each once, got"),
        ("sft", "+stage.trainer.ignore_data_skip=true", "since a resumed run would see other rows"),
        ("sft", "+stage.trainer.push_to_hub=true", "push_to_hub cannot be set, since stage=publish uploads"),
        ("dpo", "eval_set.temperature=nan", "eval_set.temperature must lie in [0.001, 100], got nan"),
        ("compare", "stage.max_prompt_length=0", "stage.max_prompt_length must be positive, got 0"),
        ("ppo", "stage.rewards={a: {function: 'a:b', weight: .inf}}", "stage.rewards.a.weight must"),
    ],
)  # fmt: skip
def test_what_was_accepted_and_wrong_is_refused(stage: str, override: str, message: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011  Hydra wraps it
        composed(f"stage={stage}", override)
    told = error.value
    while told.__cause__ is not None:
        told = told.__cause__
    assert isinstance(told, ConfigError)
    assert message in str(told)


def test_a_warm_up_ends_within_the_training() -> None:
    require_warmup(3, 3)
    require_trainer({"warmup_steps": 0.5, "max_steps": 1})
    with pytest.raises(ConfigError, match=r"warmup_steps=100000 is longer than the training, whose last step is 3,"):
        require_trainer({"warmup_steps": 100000, "max_steps": 3})


whole = cache(lambda stage: composed(f"stage={stage}", "hardware=cpu"))
ODD = st.sampled_from([0, -1, 1, math.nan, math.inf, -math.inf, 1e-300, 1e300, 10**12, -0.0, 0.5, 2, 1.5])


def drawn(allowed: Range, hint: Any) -> st.SearchStrategy:
    """A value that is odd, or one of the range."""
    whole_numbers = float not in kinds(hint) and list[float] not in kinds(hint)
    inside = (
        st.integers(math.ceil(allowed.low), math.floor(allowed.high))
        if whole_numbers
        else st.floats(allowed.low, allowed.high, exclude_min=allowed.open_low, exclude_max=allowed.open_high)
    )
    return inside | (ODD.map(lambda value: int(value) if math.isfinite(value) else 0) if whole_numbers else ODD)


def is_one_sentence(error: RlhfError) -> None:
    assert str(error)
    assert "\n" not in str(error)


def places(node: Any) -> list[tuple[tuple[str, ...], Range, Any]]:
    """Every number of the settings ``node``: its path, its range, its type."""
    hints = get_type_hints(type(node))
    table = {name: one for kind in type(node).__mro__ for name, one in OURS.get(kind.__name__, {}).items()}
    found = [((name,), one, hints[name]) for name, one in table.items()]
    for field in fields(node):
        value = getattr(node, field.name)
        if is_dataclass(value):
            found += [((field.name, *path), allowed, hint) for path, allowed, hint in places(value)]
    return found


def put(node: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return replace(node, **{name: put(getattr(node, name), tuple(rest), value) if rest else value})


@pytest.mark.parametrize("stage", sorted(STAGES))
@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_number_of_ours_is_accepted_or_refused_with_a_one_line_error(stage: str, data: st.DataObject) -> None:
    node = whole(stage)
    path, allowed, hint = data.draw(st.sampled_from(places(node)))
    value = data.draw(drawn(allowed, hint))
    try:
        put(node, path, value)
    except ConfigError as error:
        is_one_sentence(error)
    else:
        assert value in allowed


@pytest.mark.parametrize("stage", sorted(CONFIGS))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_number_of_a_trainer_is_accepted_or_refused_with_a_one_line_error(stage: str, data: st.DataObject) -> None:
    kind = CONFIGS[stage]
    hints = get_type_hints(kind)
    name = data.draw(st.sampled_from(sorted(name for name in TRAINER if name in hints)))
    value = data.draw(drawn(TRAINER[name], hints[name]))
    given = whole(stage).stage.trainer | {name: value if list[float] not in kinds(hints[name]) else [value]}
    try:
        require_trainer(given)
        check(kind, given)
        with blame("stage.trainer"):
            kind(output_dir="unused", use_cpu=True, **given)
    except ConfigError as error:
        is_one_sentence(error)
    else:
        assert value in TRAINER[name] or (name, value) == ("max_steps", -1)


# Settings that take hours if they are large, or need several processes.
SLOW = (
    "per_device", "gradient_acc", "num_train_epochs", "max_steps", "dataloader", "ddp_", "max_length", "pad_to",
)  # fmt: skip
SIZED = ("updates", "batch_size", "minibatches", "epochs", "max_prompt_length", "max_response_length", "rows")
TRAINED = ("sft", "reward", "dpo", "ppo")


@pytest.mark.slow
@pytest.mark.parametrize("stage", TRAINED)
@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_drawn_settings_train_a_step_or_are_refused_with_a_one_line_error(
    stage: str, data: st.DataObject, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    step = "stage.updates=1" if stage == "ppo" else "stage.trainer.max_steps=1"
    node = replace(beside_chain(stage, step, "eval_set.prompts=0"), overwrite=True)
    if stage == "ppo":
        known = [one for one in places(node) if one[0][0] == "stage" and "sample" not in one[0][1]]
        path, allowed, hint = data.draw(st.sampled_from([one for one in known if one[0][-1] not in SIZED]))
        value = data.draw(drawn(allowed, hint))
    else:
        hints = get_type_hints(CONFIGS[stage])
        known = sorted(name for name in TRAINER if name in hints and not name.startswith(SLOW))
        path, value = ("stage", "trainer"), None
        name = data.draw(st.sampled_from(known))
        one = data.draw(drawn(TRAINER[name], hints[name]))
        value = node.stage.trainer | {name: [one] if list[float] in kinds(hints[name]) else one}
    try:
        execute(put(node, path, value), tmp_path / stage)
    except RlhfError as error:
        is_one_sentence(error)
