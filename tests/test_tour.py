"""docs/tour.ipynb: its cells run in order, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import main, progression
from tests.conftest import FAST, TINY, composed
from tests.docs import ROOT

CELLS = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
STAGES = ("base", "sft", "reward", "dpo", "compare")
SMALL = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
OTHER = subprocess.run


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess:
        if words[:3] != [sys.executable, "-m", "rlhf"]:
            return OTHER(words, **options)
        given = words[3:]
        commands = progression.commands_of(composed(*given), progression.common(given))
        assert [composed(*own).stage.name for own in commands.values()] == list(STAGES)
        shorter = [word for word in given if not word.startswith("stage.overrides=")]
        monkeypatch.setattr("sys.argv", ["rlhf", *shorter, *TINY, f"stage.overrides={{{SMALL}}}"])
        main.main()
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)  # Agg has no window
    names: dict[str, Any] = {}
    for code in CODE:
        exec(code, names)
    assert list(names["compared"]["models"]) == ["base", "sft", "dpo"]
    assert "better than SFT: " in capsys.readouterr().out
    assert [axes.get_lines()[0].get_xdata()[-1] for axes in names["panels"]] == [2, 2]
    names["plt"].close("all")
