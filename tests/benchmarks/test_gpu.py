import json
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks import gpu, sides


def test_both_sides_of_a_piece_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = ["--device", "cpu", "--small", "--output", str(tmp_path / "gpu.json"), "--work", "reward"]
    monkeypatch.setattr("sys.argv", ["gpu", *given])  # the other sides run in test_preference_work.py and test_ppo.py
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    [row] = found["rows"]
    assert found["device"] == "cpu"
    assert list(row["sides"]) == ["ours", f"trl {version('trl')}"]
    for side in row["sides"].values():
        assert all(side[name] > 0 for name in ("samples_per_second", "tokens_per_second", "peak_mib", "utilization"))
    assert 0 < row["spread"][0] <= row["ratio"] <= row["spread"][1]
    assert f"reward, tiny, ours: {row['sides']['ours']['samples_per_second']} samples/s" in capsys.readouterr().out


@pytest.mark.slow
def test_every_piece_runs_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--small", "--output", str(tmp_path / "gpu.json")])
    gpu.main()
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["work"]: len(row["sides"]) for row in rows} == dict.fromkeys(gpu.WORK, 2) | {"ppo": 1}


def test_a_machine_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit, match="torch sees no GPU: use a machine with one"):
        gpu.main()


def test_a_piece_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setitem(gpu.WORK, "ppo", (str(tmp_path / "endless.py"), "none", gpu.SAMPLED))
    row = gpu.measure("ppo", "tiny", "cpu", 1, 1.0, limit=0.1)
    assert row.pop("error") == "ours ended with exit code -9; its output is above"
    assert row == {"work": "ppo", "shape": "tiny", "sides": {}}


def test_our_side_is_measured_without_a_peer_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.py").write_text(
        "from sides import serve\nserve(lambda spec: lambda number: {'samples': 2, 'tokens': 9, 'parameters': 5})\n"
    )
    (tmp_path / "theirs.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setitem(gpu.WORK, "rl", (str(tmp_path / "ours.py"), str(tmp_path / "theirs.py"), gpu.SAMPLED))
    row = gpu.measure("rl", "tiny", "cpu", 2, 1.0)
    assert row["error"] == f"trl {version('trl')} ended with exit code 3; its output is above"
    assert row["sides"]["ours"]["rounds"] == 2
    assert "ratio" not in row


def test_a_row_replaces_that_of_the_same_piece_on_the_same_device(tmp_path: Path) -> None:
    place = tmp_path / "gpu.json"
    row = {"work": "rl", "shape": "1B", "ratio": 1}
    assert gpu.merged(place, "cpu", row) == [row]
    place.write_text(json.dumps({"device": "cpu", "rows": [row, row | {"shape": "135M"}]}))
    assert gpu.merged(place, "cpu", row | {"ratio": 2}) == [row | {"shape": "135M"}, row | {"ratio": 2}]
    assert gpu.merged(place, "H200", row) == [row]


def test_the_peer_has_the_best_settings_that_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: name)
    assert gpu.best("dpo", "1B", "cuda") == {"attention": "flash_attention_2", "liger": True}
    assert gpu.best("dpo", "1B", "cpu") == {}
    assert gpu.best("rollout", "1B", "cuda") == {"cache": "static"}
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert gpu.best("rl", "1B", "cuda") == {}
    assert list(gpu.sides_of("ppo", "1B", "cuda", None)) == ["ours"]
    assert list(gpu.sides_of("ppo", "1B", "cuda", "python")) == ["ours", gpu.ppo.PEER]


@pytest.mark.parametrize("work", gpu.WORK)
@pytest.mark.parametrize("shape", gpu.BATCHES)
def test_every_side_has_a_specification(work: str, shape: str) -> None:
    spec = gpu.specification(work, shape, "cuda")
    assert all((sides.HERE / name).exists() for name in gpu.WORK[work][:2])
    assert spec["device"] == "cuda"
    assert "vocab_size" not in spec
    assert gpu.useful(work, {"epochs": 4}, 10.0, 3) == {
        "dpo": 240, "reward": 180, "ppo": 30 * (2 * 6 * 4 + 4 * 2), "rl": 300, "rollout": 120
    }[work.partition(",")[0]]  # fmt: skip
