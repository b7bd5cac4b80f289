"""The precision of matrix products: the rule, its effect on a run, and the steps that half precision loses."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config import Settings
from rlhf.errors import ConfigError
from rlhf.hardware import precision
from rlhf.runs.identity import content
from rlhf.runs.run import Run
from rlhf.stages import execute


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    monkeypatch.setattr(precision, "torch_device", lambda hardware: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


@pytest.mark.parametrize(
    ("overrides", "has_units", "expected"),
    [
        ([], True, True),
        ([], False, False),
        (["hardware.autocast=off"], True, False),
        (["hardware.autocast=on"], False, True),
        (["model.dtype=bfloat16"], True, False),
        (["adapter=qlora"], True, False),
        (["adapter=lora"], True, True),
    ],
)
def test_the_hardware_decides_unless_the_settings_do(
    settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    has_units: bool,
    expected: bool,
) -> None:
    pretend_gpu(monkeypatch, has_units)
    assert precision.autocasts(settings("dpo", "hardware=gpu", *overrides)) is expected


def test_the_rule_for_another_machine(settings: Callable[..., Settings]) -> None:
    assert precision.autocasts(settings("dpo"), on_gpu=True)
    assert not precision.autocasts(settings("dpo", "model.dtype=bfloat16"), on_gpu=True)
    assert not precision.autocasts(settings("dpo"), on_gpu=False)


def test_a_cpu_uses_bfloat16_only_on_request(settings: Callable[..., Settings]) -> None:
    assert not precision.autocasts(settings("dpo"))
    assert precision.autocasts(settings("dpo", "hardware.autocast=on"))
    assert precision.told(settings("dpo")) == "dpo: float32 on the CPU"


@pytest.mark.parametrize("other", ["model.dtype=bfloat16", "adapter=qlora"])
def test_autocast_needs_float32_weights(settings: Callable[..., Settings], other: str) -> None:
    with pytest.raises(ConfigError, match=r"hardware.autocast=on rounds .* give one or the other"):
        settings("ppo", "hardware.autocast=on", other)


def test_autocast_is_part_of_the_identity_of_a_run(settings: Callable[..., Settings]) -> None:
    plain, asked = (content(settings("dpo", *given), {}) for given in ([], ["hardware.autocast=on"]))
    assert asked == plain | {"hardware.autocast": "on"}


def test_a_product_is_rounded_only_within_the_context() -> None:
    x = torch.eye(2) * (1 + 2**-12)
    with precision.autocast("cpu", True):
        assert (x @ x).float().equal(torch.eye(2))
    with precision.autocast("cpu", False):
        assert not (x @ x).equal(torch.eye(2))


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("sft", []),
        ("reward", []),
        ("dpo", []),
        ("dpo", ["adapter=lora", "stage.shared_prefix=off"]),
        ("ppo", ["stage.gold=null"]),
        ("ppo", ["stage.gold=null", "stage.critic_kind=value_head", "adapter=lora", "stage.micro_batch_size=1"]),
    ],
    ids=["sft", "reward", "dpo", "dpo, adapter", "ppo", "ppo, critic on an adapter"],
)
def test_a_stage_learns_nearly_the_same_with_autocast(
    beside_chain: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture, stage: str, overrides: list
) -> None:
    """Weights stay in float32 and move nearly as without autocast, but not bit for bit: products are rounded."""
    found = {}
    for way in ("off", "on"):
        execute(beside_chain(stage, f"hardware.autocast={way}", *overrides), tmp_path / way)
        run = Run.open(tmp_path / way)
        assert run.manifest["hardware"]["autocast"] is (way == "on")
        assert ("bfloat16 matrix products (autocast) on the CPU" in capsys.readouterr().out) is (way == "on")
        found[way] = load_file(next((tmp_path / way / "model").glob("*.safetensors")))
    assert {value.dtype for value in found["on"].values()} == {torch.float32}
    differences = [(found["on"][name] - found["off"][name]).abs().max().item() for name in found["off"]]
    assert 0 < max(differences) < 0.05


@pytest.mark.parametrize(("kind", "share"), [(torch.float32, 0.0), (torch.float16, 0.25), (torch.bfloat16, 0.5)])
def test_steps_that_are_rounded_away(kind: torch.dtype, share: float) -> None:
    """Half the distance to the next number in [2^e, 2^(e+1)) is 2^(e-8) in bfloat16, 2^(e-11) in float16."""
    weights = torch.nn.Linear(4, 1, bias=False).to(kind)
    with torch.no_grad():
        weights.weight.copy_(torch.tensor([[1.5, 0.3, 0.03, 0.0003]]))
    # 2e-4 is below 2^-8 and 2^-10 of the first two in bfloat16, and below 2^-11 of the first in float16
    assert precision.lost(weights, 2e-4) == share


def test_training_that_changes_no_weight_is_reported(capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(100, 100)
    precision.tell_lost("dpo", model, "stage.trainer.learning_rate", 5e-7)
    assert capsys.readouterr().out == ""
    precision.tell_lost("dpo", model.to(torch.bfloat16), "stage.trainer.learning_rate", 5e-7)
    told = r"dpo: stage.trainer.learning_rate=5e-07 is rounded away in 99\.\d % of the weights, which are in"
    assert re.search(told, capsys.readouterr().out)
    precision.tell_lost("dpo", model, "stage.trainer.learning_rate", 1e-2)
    assert capsys.readouterr().out == ""
