"""Two processes share a run: the results and the errors are those of one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlhf import stages
from rlhf.config import Settings
from rlhf.errors import DataError, RunError, TrainingError
from rlhf.hardware import launch
from rlhf.modeling import loading
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.manifest import read_manifest
from tests import together
from tests.conftest import composed, tiny_overrides

TWO = ("hardware.strategy=ddp", "hardware.processes=2")
# Plain gradient descent: Adam would amplify the rounding errors of gradients near 0.
SGD = (
    "+stage.trainer.optim=sgd",
    "stage.trainer.learning_rate=0.1",
    "stage.trainer.lr_scheduler_type=constant",
    "stage.trainer.max_steps=3",
    "stage.trainer.per_device_eval_batch_size=5",  # 24 rows: one process and two both have a partial batch
)
CARD = ("stage.probe_rows=0", "stage.statistics_prompts=2", "stage.sample_prompts=0")
OPTIONS = {
    "base": (*SGD, "stage.block_length=16"),
    "sft": (
        *SGD,
        "stage.trainer.gradient_accumulation_steps=2",
        "stage.trainer.activation_checkpointing=true",
        "stage.trainer.train_sampling_strategy=random",  # groups of similar length depend on the rows of one process
    ),
    "reward": (*SGD, *CARD, "adapter=lora", "stage.residual=[length]"),
    "dpo": (*SGD, "stage.loss=[sigmoid,sft]"),  # a mean over pairs, and one over tokens
    "simpo": (*SGD, "stage.loss=[simpo]"),
    "kto": SGD,
    "ppo": (),
    "online_dpo": (*SGD, "stage.rounds=1", "stage.batch_size=10"),  # a later round would sample from other last bits
    "raft": (*SGD, "stage.batch_size=10", "data.prompts.limit=25"),  # 24 rows to train on: no partial batch
    "distilled": ("stage.reward=null", "stage.ptx_coef=0.5", "stage.ptx_block_length=16", "stage.ema=0.5"),
    "branch": ("stage.updates=3",),
}
STAGES = {name: {"distilled": "ppo", "branch": "ppo", "simpo": "dpo"}.get(name, name) for name in OPTIONS}
# Weights are at most 1 and move by 1e-3 or more, so 1e-6 is a few of float32's last bits. PPO uses Adam, which
# amplifies the rounding errors of gradients near 0; its weights move by 4e-2.
TOLERANCE = {"ppo": 1e-5, "distilled": 1e-5, "branch": 1e-5}


class Outcome(NamedTuple):
    """The runs of the stages in one process and in two, and the values that the two processes exchanged."""

    one: Path
    two: Path
    folder: Path
    seen: dict


def settings_of(name: str, chain: Path, root: Path, *overrides: str) -> Settings:
    stage = STAGES[name]
    policy = "base" if stage == "sft" else "sft"
    key = {"sft": "model.pretrained", "base": "model.pretrained"}.get(stage, "stage.policy")
    parents = [] if stage == "base" else [f"{key}={chain}/almanac/{policy}"]
    parents += [f"stage.reward={chain}/almanac/reward"] if stage in ("ppo", "online_dpo", "raft") else []
    parents += [f"stage.teacher={chain}/almanac/base"] if name == "distilled" else []
    parents += [f"stage.branch_from={root.parent}/kept/ppo@2"] if name == "branch" else []
    return composed(*tiny_overrides(stage, root), *parents, *OPTIONS[name], *overrides)


@pytest.fixture(scope="module")
def outcome(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    root = tmp_path_factory.mktemp("ranks")
    (root / "tokenizer").symlink_to(chain / "almanac" / "sft" / "model")
    execute(settings_of("ppo", chain, root / "kept", "stage.keep_every=2"), root / "kept" / "ppo")
    jobs = [(settings_of(stage, chain, root / "two", *TWO), root / "two" / stage) for stage in OPTIONS]
    seen = launch.start(together.stages_and_shards, jobs, root, hardware=jobs[0][0].hardware)
    for stage in OPTIONS:
        rows = [] if STAGES[stage] == "ppo" else ["stage.trainer.per_device_train_batch_size=8"]
        execute(settings_of(stage, chain, root / "one", *rows), root / "one" / stage)
    return Outcome(root / "one", root / "two", root, seen)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(next((directory / "model").glob("*.safetensors")))


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("stage", OPTIONS)
def test_two_processes_end_with_the_weights_of_one(outcome: Outcome, stage: str) -> None:
    """Two processes with 4 rows each, one with 8; in PPO two with half of the prompts each."""
    assert distance(weights(outcome.one / stage), weights(outcome.two / stage)) < TOLERANCE.get(stage, 1e-6)


@pytest.mark.parametrize("stage", OPTIONS)
def test_two_processes_log_what_one_logs(outcome: Outcome, stage: str) -> None:
    """Every number of every training step and every held-out evaluation agrees."""
    one, two = (
        [json.loads(line) for line in (root / stage / "metrics.jsonl").read_text().splitlines()]
        for root in (outcome.one, outcome.two)
    )
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for line, other in zip(one, two, strict=True):
        for key in line.keys() - {"time"}:
            # Rounding decides which of two equal logits is larger.
            if not key.endswith("/mean_token_accuracy"):
                assert other[key] == pytest.approx(line[key], rel=1e-4, abs=1e-5), (key, line["step"])


@pytest.mark.parametrize("stage", OPTIONS)
def test_one_process_writes(outcome: Outcome, stage: str) -> None:
    """The files are the same, and run.json records the number of processes and the strategy."""
    files = [
        sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        for root in (outcome.one / stage, outcome.two / stage)
    ]
    assert files[0] == files[1]
    hardware = Run.open(outcome.two / stage).manifest["hardware"]
    assert (hardware["processes"], hardware["strategy"]) == (2, "ddp")
    hardware = Run.open(outcome.one / stage).manifest["hardware"]
    assert (hardware["processes"], hardware["strategy"]) == (1, "none")


@pytest.mark.parametrize("stage", OPTIONS)
def test_runs_with_the_same_global_batch_have_the_same_identity(outcome: Outcome, stage: str) -> None:
    contents = [Run.open(root / stage).manifest["content"] for root in (outcome.one, outcome.two)]
    assert contents[0] == contents[1]


def test_processes_agree(outcome: Outcome) -> None:
    assert outcome.seen == {"told": "of 0", "anywhere": [True, True, False]}


def test_a_model_in_shards_is_saved_whole(outcome: Outcome) -> None:
    """FSDP2 on gloo: one process loads the model that two have saved, and it took the step of a whole model."""
    saved = {name: weights_in(outcome.folder / name) for name in ("whole", "shards", "adapter_whole", "adapter_shards")}
    assert distance(saved["whole"], saved["shards"]) < 1e-6
    assert distance(saved["adapter_whole"], saved["adapter_shards"]) < 1e-6
    assert len(saved["adapter_whole"]) == 8  # two layers, two projections, two matrices each, without the base model
    loaded = AutoModelForCausalLM.from_pretrained(outcome.folder / "shards")
    assert loading.gathered(loaded) is None
    fresh = together.model_of(loaded.config.vocab_size, loaded.config.pad_token_id, False)
    assert distance(dict(loaded.state_dict()), dict(fresh.state_dict())) > 1e-3


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def test_a_killed_process_ends_the_run_and_another_number_of_processes_resumes_it(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two processes is killed after one of three steps; one process continues to the same weights."""
    steps = ("stage.trainer.save_steps=1", "stage.trainer.gradient_accumulation_steps=1")
    place, whole = tmp_path / "sft", tmp_path / "whole"
    monkeypatch.setattr(stages, "_perform", together.dying)
    begun = time.monotonic()
    with pytest.raises(
        TrainingError, match="rank 1 was ended by SIGKILL .* resume=true continues from the latest checkpoint"
    ):
        execute(settings_of("sft", chain, tmp_path, *TWO, *steps), place)
    assert time.monotonic() - begun < 300  # most of it is the start, on a busy machine
    manifest = read_manifest(tmp_path / ".sft.partial")
    assert manifest["status"] == "failed"
    assert manifest["reason"].startswith("TrainingError: rank 1 was ended by SIGKILL")
    monkeypatch.undo()

    one = (*steps, "stage.trainer.per_device_train_batch_size=8")
    with pytest.raises(RunError, match="per_device_train_batch_size was 8, now 4"):
        execute(settings_of("sft", chain, tmp_path, *steps, "resume=true"), place)
    execute(settings_of("sft", chain, tmp_path, *one, "resume=true"), place)
    execute(settings_of("sft", chain, tmp_path, *one), whole)
    assert Run.open(place).manifest["resumed"]
    assert distance(weights(place), weights(whole)) < 1e-6
    lines = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in (place, whole)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("refused", DataError, "^row 7 of mine.jsonl has no prompt$"),
        ("broken", RuntimeError, "rank 1 failed:(.|\n)*ZeroDivisionError: by nothing"),
        ("killed", TrainingError, "rank 1 was ended by SIGKILL"),
    ],
)
def test_the_error_of_the_first_process_that_fails_is_reported(
    how: str, kind: type[Exception], text: str, capfd
) -> None:
    """The other process fails because it misses the first; neither its error nor the agent's traceback is shown."""
    hardware = composed("stage=sft", "hardware=cpu", *TWO).hardware
    before = dict(os.environ)
    with pytest.raises(kind, match=text):
        launch.start(together.failing, how, hardware=hardware)
    assert os.environ == before
    assert "ChildFailedError" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGTERM, "terminated from outside"), (signal.SIGKILL, "often out of memory"), (signal.SIGSEGV, "a crash")],
)
def test_how_a_process_was_ended_is_reported(number: signal.Signals, cause: str) -> None:
    with pytest.raises(TrainingError, match=rf"^rank 1 was ended by {number.name} \({cause}\), and the others with it"):
        raise launch._reason({}, (1, -number))


def test_an_invalid_run_is_refused_before_a_process_is_started(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "start", None)
    with pytest.raises(RunError, match="has a finished run of stage=sft: overwrite=true"):
        execute(settings_of("sft", chain, tmp_path, *TWO), chain / "almanac" / "sft")


@pytest.mark.slow
def test_torchrun_by_hand(chain: Path, tmp_path: Path) -> None:
    """One directory and one table on the screen; a mistake is a one-line error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    command += [
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--local-addr",
        "127.0.0.1",
        "-m",
        "rlhf",
        *tiny_overrides("sft", tmp_path),
    ]
    command += [f"model.pretrained={chain}/almanac/base", "hardware.strategy=ddp"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("greedy completions") == 1
    assert Run.open(tmp_path / "almanac" / "sft").manifest["hardware"]["processes"] == 2
    command += ["overwrite=true", "hardware.processes=3"]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1
    assert "asked for 3 processes (hardware.processes=3, hardware.nodes=1), but 2 were started" in again.stderr
