import json
from pathlib import Path

import pytest

from benchmarks import scoring


def test_the_scores_agree_with_those_of_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(scoring, "RESULT", tmp_path / "scoring.json")
    monkeypatch.setattr("sys.argv", ["scoring", "--rounds", "1", "--tiny"])
    scoring.main()
    [row] = json.loads((tmp_path / "scoring.json").read_text())["rows"]
    assert row["difference"] <= scoring.ALIKE
    assert "\n".join(scoring.table([row])) in capsys.readouterr().out
