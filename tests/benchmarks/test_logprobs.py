import json
from pathlib import Path

import pytest

from benchmarks import logprobs


def test_the_kernels_agree_and_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(logprobs, "RESULT", tmp_path / "logprobs.json")
    monkeypatch.setattr("sys.argv", ["logprobs", "--rounds", "1", "--shapes", "8x4x16"])
    logprobs.main()
    rows = json.loads((tmp_path / "logprobs.json").read_text())["rows"]
    assert [(row["work"], row["against"]) for row in rows] == [
        (f"8 x 4 x 16, {way}", peer) for way in ("forward and backward", "forward") for peer in ("logits", "trl")
    ]
    assert "\n".join(logprobs.table(rows)) in capsys.readouterr().out
