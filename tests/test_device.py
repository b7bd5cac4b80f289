"""Stages on a fake GPU, which refuses operators with tensors of both devices: no GPU is necessary to find these."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.config import Settings
from rlhf.hardware import precision
from rlhf.modeling.decoding import draw
from rlhf.stages import execute
from tests.fake_gpu import GPU, NAME, Device

QUICK = ("eval_set.prompts=0", "stage.trainer.max_steps=1")
WORK = {
    "dpo": ("dpo", *QUICK),
    "reward": ("reward", *QUICK),
    "ppo": ("ppo", "eval_set.prompts=2", "stage.updates=1", "stage.ledger=1"),
    "rloo": (
        "ppo", "eval_set.prompts=0", "stage.updates=1", "stage.advantage=rloo", "stage.samples=2", "adapter=lora",
        "stage.equal_groups=resample",
    ),
    "value head": ("ppo", "eval_set.prompts=0", "stage.updates=1", "stage.critic_kind=value_head", "stage.ema=0.9"),
}  # fmt: skip


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings, Path], Device]:
    """Execute a stage on the fake GPU, and return the GPU."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(GPU))
    monkeypatch.setattr(precision, "told", lambda settings: "")  # the name of the GPU

    def executed(settings: Settings, directory: Path) -> Device:
        object.__setattr__(settings.hardware, "device", NAME)
        with Device() as device:
            execute(settings, directory)
        return device

    return executed


@pytest.mark.parametrize("work", WORK)
def test_no_operator_of_a_stage_mixes_devices(
    beside_chain: Callable[..., Settings], on_gpu: Callable[[Settings, Path], Device], tmp_path: Path, work: str
) -> None:
    device = on_gpu(beside_chain(*WORK[work]), tmp_path / "run")
    assert device.reads["_local_scalar_dense"] > 0  # the loss was on the GPU


def test_no_operator_of_a_comparison_mixes_devices(
    chain: Path, beside_chain: Callable[..., Settings], on_gpu: Callable[[Settings, Path], Device], tmp_path: Path
) -> None:
    parents = (f"stage.models={{sft: {chain}/almanac/sft}}", f"stage.reward={chain}/almanac/reward", "stage.prompts=2")
    assert on_gpu(beside_chain("compare", *parents), tmp_path / "run").reads["_to_copy"] > 0


def test_mixed_devices_are_refused() -> None:
    """The fake GPU finds a mistake, in an operator and in a function of this package, and accepts what a GPU does."""
    with Device() as device:
        ours, theirs = torch.ones(2, 3, device=GPU), torch.ones(2, 3)
        for mixed in (
            lambda: ours + theirs,
            lambda: theirs[ours.long()],
            lambda: torch.cat([ours, theirs]),
            lambda: torch.rand(2, device=GPU, generator=torch.Generator()),
            lambda: draw(ours, torch.rand(2), 1.0),
        ):
            with pytest.raises(RuntimeError, match="mixes devices"):
                mixed()
        theirs.copy_(ours + torch.tensor(1.0))
        assert (ours[torch.tensor([1])] + theirs.to(GPU)[:1]).device == GPU
        assert not device.reads["_local_scalar_dense"]
        assert ours.sum().item() == 6.0
        assert theirs.tolist() == [[2.0] * 3] * 2
        assert device.reads == {"copy_": 1, "_local_scalar_dense": 1}
