import json
from pathlib import Path

import pytest

from benchmarks import gpu, sides


def test_each_piece_of_work_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = ["--device", "cpu", "--small", "--output", str(tmp_path / "gpu.json"), "--work", "rl"]
    monkeypatch.setattr("sys.argv", ["gpu", *given])  # the other sides run in test_preference_work.py and test_ppo.py
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    [row] = found["rows"]
    assert found["device"] == "cpu"
    assert all(row[name] > 0 for name in ("samples_per_second", "tokens_per_second", "peak_mib", "utilization"))
    assert f"rl, tiny: {row['samples_per_second']} samples/s" in capsys.readouterr().out


def test_a_machine_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit, match="torch sees no GPU: use a machine with one"):
        gpu.main()


def test_a_piece_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setitem(gpu.WORK, "ppo", (str(tmp_path / "endless.py"), gpu.SAMPLED))
    monkeypatch.setattr(gpu, "LIMIT", 0.1)
    row = gpu.measure("ppo", "tiny", "cpu", 1, 1.0)
    assert row == {"work": "ppo", "shape": "tiny", "error": "ppo, tiny ended with exit code -9; its output is above"}


@pytest.mark.parametrize("work", gpu.WORK)
@pytest.mark.parametrize("shape", gpu.BATCHES)
def test_every_side_has_a_specification(work: str, shape: str) -> None:
    spec = gpu.specification(work, shape, "cuda")
    assert (sides.HERE / gpu.WORK[work][0]).exists()
    assert spec["device"] == "cuda"
    assert "vocab_size" not in spec
    assert gpu.useful(work, {"epochs": 4}, 10.0, 3) == {
        "dpo": 240, "reward": 180, "ppo": 30 * (2 * 6 * 4 + 4 * 2), "rl": 300, "rollout": 120
    }[work]  # fmt: skip
