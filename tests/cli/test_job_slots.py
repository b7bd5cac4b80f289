"""How many jobs work at once, and what each may take."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf.cli import job_slots

HOLD = "import sys, time; from rlhf.cli import job_slots as slots\nfrom pathlib import Path\n" + (
    "with slots.one(Path(sys.argv[1])) as threads: print(threads, flush=True); time.sleep(float(sys.argv[2]))"
)


def job(folder: Path, seconds: float, count: int) -> subprocess.Popen:
    environment = {**os.environ, job_slots.JOBS_AT_ONCE: str(count), job_slots._GPUS: ""}
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_third_job_waits_until_one_of_two_is_gone(tmp_path: Path) -> None:
    first, second = job(tmp_path, 60, 2), job(tmp_path, 60, 2)
    assert first.stdout.readline()
    assert second.stdout.readline()
    third = job(tmp_path, 0, 2)
    time.sleep(1)
    assert third.poll() is None
    first.kill()  # its slot is free, however it ended
    assert third.wait(timeout=60) == 0
    second.kill()
    for process in (first, second, third):
        process.communicate()


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_slots, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [job_slots.share(count) for count in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [job_slots.share(count) for count in (1, 2, 3)] == [3, 3, 2]
    monkeypatch.setenv(job_slots.JOBS_AT_ONCE, "-1")
    assert job_slots.at_once() == 8
    monkeypatch.delenv(job_slots.JOBS_AT_ONCE)
    assert job_slots.at_once() is None


def test_each_job_has_a_separate_gpu_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_slots, "_taken", {})
    monkeypatch.setenv(job_slots.JOBS_AT_ONCE, "3")
    monkeypatch.setenv(job_slots._GPUS, "4,5")
    with job_slots.one(tmp_path / "elsewhere"):
        pass
    assert job_slots._taken[str((tmp_path / "elsewhere").resolve())][0] == 0
    assert job_slots.gpus() == ["4"]
    other = job(tmp_path / "elsewhere", 0, 3)
    assert other.wait(timeout=60) == 0
    other.communicate()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["slot-0", "slot-1"]
    with job_slots.one(tmp_path / "elsewhere"):
        assert job_slots.gpus() == ["4"]
    for _, file in job_slots._taken.values():
        file.close()


def test_without_a_launcher_a_job_takes_what_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(job_slots.JOBS_AT_ONCE, raising=False)
    with job_slots.one(tmp_path) as threads:
        assert threads is None
    assert list(tmp_path.iterdir()) == []
