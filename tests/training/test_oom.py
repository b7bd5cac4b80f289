"""Memory that runs out changes how rows are taken, and nothing that is learned from them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from rlhf.config import Settings
from rlhf.errors import TrainingError
from rlhf.modeling import forward
from rlhf.stages import execute
from rlhf.training.oom import HalvedSteps, Parts, halve_steps, ran_out

CPU_TEXT = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
# Plain gradient descent: for a gradient near 0, Adam would divide one rounding error by another.
STEPS = (
    "+stage.trainer.optim=sgd",
    "stage.trainer.learning_rate=0.1",
    "stage.trainer.max_grad_norm=1e9",
    "stage.trainer.lr_scheduler_type=constant",
)
TOLERANCE = 1e-6  # float32: a few last bits of weights up to 1, which move by 1e-3 and more: sums in another order


class FailsBackward(torch.autograd.Function):
    """Memory runs out in the middle of the backward pass: the layers above have their gradients already."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(CPU_TEXT)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Limit memory to a share of the largest pass with gradients so far; return the list of passes that did not fit.

    In tokens, padding included: pairs that share a prompt lie in one row, however many they are.
    """
    forward, seen, limits = LlamaDecoderLayer.forward, [0], []

    def limited(self: LlamaDecoderLayer, hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and self.training and self.self_attn.layer_idx == 0:
            size = hidden_states.shape[:2].numel()
            if not limits:
                seen.append(size)
            elif limits[0](size):
                hidden_states = FailsBackward.apply(hidden_states)
        return forward(self, hidden_states, *arguments, **named)

    def suffices_for(share: float, backward: bool = False, from_call: int = 0) -> list[int]:
        calls, failed, most = [], [], share * max(seen)

        def fails(size: int) -> bool:
            calls.append(size)
            if size <= most or len(calls) <= from_call:
                return False
            failed.append(size)
            if not backward:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return True

        limits.append(fails)
        return failed

    monkeypatch.setattr(LlamaDecoderLayer, "forward", limited)
    return suffices_for


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(next((directory / "model").glob("*.safetensors")))


def logged(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


CARD = ["stage.trainer.per_device_train_batch_size=5", "stage.probe_rows=0", "stage.statistics_prompts=2"]
CASES = {
    "sft": ("sft", ["stage.trainer.per_device_train_batch_size=5"], {}),
    # The second of two steps that share an optimizer step fails half-way through its backward pass.
    "accumulated": ("sft", ["stage.trainer.gradient_accumulation_steps=2"], {"backward": True, "from_call": 1}),
    "base": ("base", ["stage.block_length=16"], {}),
    "reward": (
        "reward", [*CARD, "stage.trainer.center_rewards_coefficient=0.1", "stage.residual=[length]"], {},
    ),
    "rankings": ("reward", [*CARD, "stage.loss=plackett_luce"], {}),
    "dpo": ("dpo", ["stage.trainer.per_device_train_batch_size=5"], {"backward": True}),
    "kto": ("kto", ["stage.trainer.per_device_train_batch_size=6"], {}),  # one reference point for all parts
    "stored": ("dpo", ["stage.loss=[sigmoid,sft]", "stage.cache_reference=true"], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_short_of_memory_ends_as_one_that_is_not(
    beside_chain: Callable[..., Settings],
    memory: Callable[..., list[int]],
    tmp_path: Path,
    case: str,
    capsys: pytest.CaptureFixture,
) -> None:
    """Weights of all parameters and every logged metric of training, after two steps of a high learning rate."""
    stage, overrides, how = CASES[case]
    settings = beside_chain(stage, *STEPS, *overrides)
    execute(settings, tmp_path / "whole")
    failed = memory(0.5, **how)
    capsys.readouterr()
    execute(settings, tmp_path / "halved")
    assert failed
    assert "out of memory: micro-batches now have" in capsys.readouterr().out
    whole, halved = weights(tmp_path / "whole"), weights(tmp_path / "halved")
    assert max((whole[name] - halved[name]).abs().max().item() for name in whole) < TOLERANCE
    for one, other in zip(logged(tmp_path / "whole"), logged(tmp_path / "halved"), strict=True):
        assert one.keys() == other.keys()
        for key in ("train/loss", "train/grad_norm", "train/entropy", "train/accuracy", "train/rewards/margins"):
            if key in one and not (stage == "kto" and "margins" in key):  # of each part, which may have one label
                # TRL measures entropy by token and each part has its own number: weighed by rows it is only near.
                assert other[key] == pytest.approx(one[key], rel=1e-2 if key == "train/entropy" else 1e-4, abs=1e-5)


@pytest.mark.parametrize("critic", ["separate", "value_head"])
def test_ppo_that_is_short_of_memory_ends_as_one_that_is_not(
    beside_chain: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    critic: str,
) -> None:
    """Memory for one row, in what is evaluated and what is learned from. Adam moves the weights by 4e-2."""
    settings = beside_chain("ppo", "stage.gold=null", "eval_set.prompts=0", f"stage.critic_kind={critic}")
    execute(settings, tmp_path / "whole")
    capsys.readouterr()
    limit_ppo(monkeypatch, 1)
    execute(settings, tmp_path / "halved")
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("ppo: out of memory: micro-batches now have at most 1 row;") == 1
    whole, halved = weights(tmp_path / "whole"), weights(tmp_path / "halved")
    assert max((whole[name] - halved[name]).abs().max().item() for name in whole) < 1e-5
    limit_ppo(monkeypatch, 0)
    with pytest.raises(TrainingError, match="micro-batch of one row"):
        execute(settings, tmp_path / "none")


def limit_ppo(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    own = forward.response_outputs

    def limited(model: Any, inputs: forward.Rows, *others: Any) -> Any:
        if len(inputs.input_ids) > most:
            raise RuntimeError(CPU_TEXT)
        return own(model, inputs, *others)

    monkeypatch.setattr(forward, "response_outputs", limited)


def test_one_row_that_is_too_much_ends_the_run(
    beside_chain: Callable[..., Settings], memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    assert memory(0) == []
    with pytest.raises(TrainingError, match="memory does not suffice for a micro-batch of one row"):
        execute(beside_chain("sft"), tmp_path / "sft")


def test_nothing_is_halved_unless_requested(
    beside_chain: Callable[..., Settings], memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    memory(0)
    with pytest.raises(torch.OutOfMemoryError):
        execute(beside_chain("sft", "hardware.oom_retry=false"), tmp_path / "sft")


def test_a_loss_of_a_whole_batch_is_refused(
    beside_chain: Callable[..., Settings], memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    memory(0)
    told = r"stage.loss=\['aot'\] compares pairs with each other: start again with .*size=2 and .*steps=2"
    with pytest.raises(TrainingError, match=told):
        execute(beside_chain("dpo", "stage.loss=[sigmoid,aot]"), tmp_path / "dpo")
    memory(0)
    with pytest.raises(TrainingError, match=r"out of memory, and stage\.batch_sum=0\.5 compares pairs with each other"):
        execute(beside_chain("reward", "stage.batch_sum=0.5"), tmp_path / "reward")


def test_of_several_processes_the_sentence_says_what_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = SimpleNamespace(per_device_train_batch_size=8, gradient_accumulation_steps=1)
    trainer = SimpleNamespace(training_step=step, args=args)
    halve_steps(trainer, "sft", paired=False)
    with pytest.raises(TrainingError, match="one of 2 processes: start again with .*size=4 and .*steps=2, which take"):
        trainer.training_step(None, {})


def test_what_memory_that_ran_out_is_known_by() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert ran_out(RuntimeError(CPU_TEXT))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"))


def test_parts_are_doubled_and_stay_so(capsys: pytest.CaptureFixture) -> None:
    parts, undone = Parts("ppo"), []

    def work() -> int:
        if parts.count < 4:
            raise torch.OutOfMemoryError
        return parts.count

    assert parts.attempt(work, 16, lambda: undone.append(parts.count)) == 4
    assert parts.attempt(work, 16) == 4
    assert undone == [1, 2]
    lines = capsys.readouterr().out.split("ppo: ")[1:]
    assert [line.split()[8] for line in lines] == ["8", "4"]
    with pytest.raises(ValueError, match="another"):
        parts.attempt(lambda: int("another"), 16)


def test_a_part_of_pairs_has_both_responses_of_each() -> None:
    steps = object.__new__(HalvedSteps)
    steps.paired, steps.parts = True, Parts("dpo")
    steps.parts.count = 2
    rows = torch.arange(6)[:, None]  # chosen 0, 1, 2; rejected 3, 4, 5
    parts = steps._split({"input_ids": rows, "margin": torch.tensor([10.0, 11.0, 12.0])})
    assert [part["input_ids"].flatten().tolist() for part, *_ in parts] == [[0, 1, 3, 4], [2, 5]]
    assert [part["margin"].tolist() for part, *_ in parts] == [[10.0, 11.0], [12.0]]
    assert [share for _, share, _ in parts] == pytest.approx([2 / 3, 1 / 3])
