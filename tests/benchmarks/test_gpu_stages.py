"""The checks on a GPU in small: what passes, what fails, and the memory that runs out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_stages
from rlhf.config import STAGES
from tests.conftest import composed


def place(root: Path, limit: float = 60) -> gpu_stages.Place:
    return gpu_stages.Place(root, "cpu", limit)


def test_every_stage_is_in_the_chain_but_those_that_wait_for_people_or_train_several_chains() -> None:
    assert set(STAGES) - {*gpu_stages.CHAIN, "progression"} == {
        "chat", "ladder", "overoptimize", "publish", "sweep", "watch",
    }  # fmt: skip


def test_names_differ_and_four_bits_need_a_gpu_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_stages, "find_spec", lambda name: name)
    on_gpu, on_cpu = ([name for name, _ in gpu_stages.checks(device)] for device in ("cuda", "cpu"))
    assert len(set(on_gpu)) == len(on_gpu)
    assert {name for name in on_gpu if "qlora" in name} == set(on_gpu) - set(on_cpu) != set()


def test_every_command_has_valid_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_stages, "find_spec", lambda name: name)
    found = [check for _, check in gpu_stages.checks("cuda") if isinstance(check, gpu_stages.Stage)]
    assert len(found) > 30
    for check in found:
        composed(*place(tmp_path).words(check.words, check.name))
    composed(*place(tmp_path).words([*gpu_stages.DPO, *gpu_stages.BRANCH, *gpu_stages.LARGE], "whole"))
    composed(*place(tmp_path).words([*gpu_stages.LONG, *gpu_stages.BRANCH], "killed"))


def test_an_outcome_has_the_output_of_a_command(tmp_path: Path) -> None:
    passed, told = place(tmp_path).run([sys.executable, "-c", "print('done')"])
    assert (passed, told) == (True, "done")
    passed, told = place(tmp_path).run([sys.executable, "-c", "raise SystemExit('not done')"])
    assert (passed, told) == (False, "not done")
    passed, told = place(tmp_path, 0.1).run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert (passed, told) == (False, "did not end in 0.1 s")


def test_a_failed_check_is_recorded_with_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"base": (True, "a\nthe end"), "dpo, lora": (False, "a\ntraceback"), "left out": (False, "")}
    made = [(name, lambda _, one=one: gpu_stages.Outcome(*one)) for name, one in outcomes.items()]
    monkeypatch.setattr(gpu_stages, "checks", lambda device: made)
    result = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["gpu_stages", "--device", "cpu", "--only", "lora", "--output", str(result)])
    with pytest.raises(SystemExit) as ended:
        gpu_stages.main()
    assert ended.value.code == 1
    rows = json.loads(result.read_text())["rows"]
    assert [(row["check"], row["passed"], row["told"]) for row in rows] == [
        ("base", True, "the end"), ("dpo, lora", False, "a\ntraceback"),
    ]  # fmt: skip


def test_a_machine_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_stages"])
    with pytest.raises(SystemExit, match="torch sees no GPU: use a machine with one"):
        gpu_stages.main()


@pytest.mark.slow
@pytest.mark.parametrize(("room", "code"), [(0, 0), (2, 1)])
def test_memory_that_does_not_suffice_runs_out(tmp_path: Path, room: int, code: int) -> None:
    words = ["stage=base", "hardware=cpu", f"checkpoints={tmp_path}", "curves=[]", "eval_set.prompts=0"]
    words += ["stage.trainer.max_steps=1", "data.text.limit=50", "data.text.held_out_limit=4"]
    words += ["stage.trainer.per_device_train_batch_size=1", "stage.trainer.per_device_eval_batch_size=1"]
    words += ["stage.sample_prompts=0"]
    command = [sys.executable, "-m", "benchmarks.gpu_stages", "--limited", str(room), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert (gpu_stages.PEAK in done.stdout) == (code == 0)


@pytest.mark.slow
def test_memory_runs_out_and_a_killed_run_continues(tmp_path: Path) -> None:
    for name, check in list(gpu_stages.checks("cpu"))[:2]:  # base and sft
        assert check(place(tmp_path, 300)).passed, name
    assert gpu_stages.out_of_memory(place(tmp_path, 300)).passed
    passed, told = gpu_stages.resumed(place(tmp_path, 300))
    assert (passed, told) == (True, "weights of the same bytes: True")
