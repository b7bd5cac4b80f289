"""Stages on a fake GPU, which refuses operators with tensors of both devices: no GPU is necessary to find these."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.config import Settings
from rlhf.hardware import precision
from rlhf.modeling.decoding import draw
from rlhf.stages import execute
from tests.fake_gpu import GPU, NAME, Device

QUICK = ("eval_set.prompts=0", "stage.trainer.max_steps=1", "stage.sample_prompts=1", "stage.sample_length=2")
UPDATE = ("eval_set.prompts=0", "stage.updates=1", "stage.sample_prompts=0")
WORK = {
    "base": ("base", *QUICK),
    "sft": ("sft", *QUICK, "adapter=lora"),
    "dpo": ("dpo", *QUICK),
    "kto": ("kto", *QUICK),
    "online_dpo": ("online_dpo", *QUICK, "stage.rounds=1"),
    "raft": ("raft", *QUICK),
    "reward": ("reward", *QUICK),
    "ppo": ("ppo", "eval_set.prompts=2", "stage.updates=1", "stage.ledger=1"),
    "rloo": (
        "ppo", *UPDATE, "stage.advantage=rloo", "stage.samples=2", "adapter=lora", "stage.equal_groups=resample",
    ),
    "value head": ("ppo", *UPDATE, "stage.critic_kind=value_head", "stage.ema=0.9"),
    "distilled": (
        "ppo", *UPDATE, "stage.reward=null", "stage.teacher={chain}/almanac/base", "stage.ptx_coef=0.5",
        "stage.ptx_block_length=16",
    ),
}  # fmt: skip
REWARD = "stage.reward={chain}/almanac/reward"
ASKED = {  # stages that train nothing
    "compare": ("compare", "stage.models={{sft: {chain}/almanac/sft}}", REWARD, "stage.prompts=2"),
    "sample": ("sample", "stage.policy={chain}/almanac/sft", REWARD, "stage.prompts=2"),
    "evaluate_reward": ("evaluate_reward", REWARD),
}


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
def test_no_operator_of_a_training_mixes_devices(
    chain: Path,
    beside_chain: Callable[..., Settings],
    on_gpu: Callable[[Settings, Path], Device],
    tmp_path: Path,
    work: str,
) -> None:
    stage, *options = (one.format(chain=chain) for one in WORK[work])
    device = on_gpu(beside_chain(stage, *options), tmp_path / "run")
    assert device.reads["_local_scalar_dense"] > 0  # the loss was on the GPU


def test_no_operator_of_ppo_on_one_base_mixes_devices(
    beside_chain: Callable[..., Settings], on_gpu: Callable[[Settings, Path], Device], tmp_path: Path
) -> None:
    """The reward is an adapter and a head on the base of policy, reference and critic."""
    card = ("stage.statistics_prompts=2", "stage.probe_rows=0")
    on_gpu(beside_chain("reward", *QUICK, *card, "adapter=lora"), tmp_path / "reward")
    one_base = ("adapter=lora", "stage.share_base_model=true", f"stage.reward={tmp_path}/reward")
    assert on_gpu(beside_chain("ppo", *UPDATE, *one_base), tmp_path / "run").reads["_local_scalar_dense"] > 0


@pytest.mark.parametrize("work", ASKED)
def test_no_operator_of_a_measurement_mixes_devices(
    chain: Path,
    beside_chain: Callable[..., Settings],
    on_gpu: Callable[[Settings, Path], Device],
    tmp_path: Path,
    work: str,
) -> None:
    stage, *options = (one.format(chain=chain) for one in ASKED[work])
    assert on_gpu(beside_chain(stage, *options), tmp_path / "run").reads["_to_copy"] > 0  # ids, scores


def test_no_operator_of_a_conversation_mixes_devices(
    chain: Path,
    beside_chain: Callable[..., Settings],
    on_gpu: Callable[[Settings, Path], Device],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Which tree?\n"))
    own = (f"checkpoints={chain}", "stage.max_response_length=2")
    assert on_gpu(beside_chain("chat", *own), tmp_path / "run").reads["_to_copy"] > 0
    assert "reward " in capsys.readouterr().out


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
