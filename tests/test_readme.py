"""README.md: its commands run in their order on a tiny model, and its table is the measured one."""

import json
import re
import shlex
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from rlhf.cli import main
from rlhf.data import load
from tests.conftest import composed
from tests.docs import README, ROOT, blocks, commands, repeats, runnable, small

TEXT = README.read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(TEXT) <= 12_000


def test_every_command_runs(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [one for one in commands(TEXT) if "stage=ladder" not in one]  # an hour; tests/cli/test_ladder.py
    assert len(found) >= 12
    for arguments in found:
        if any(item.startswith("name=mine") for item in arguments) and "stage=dpo" in arguments:
            assert Path("checkpoints/mine/sft/run.json").exists()
        if runnable(arguments) and not (repeats(arguments) and "resume=true" not in arguments):
            monkeypatch.setattr("sys.argv", ["rlhf", *small(arguments)])
            main.main()
    for name in ("almanac/compare", "mine/dpo"):
        assert (Path("checkpoints") / name / "run.json").exists()


def test_the_quick_start_runs_as_printed(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").symlink_to(chain)
    [code] = blocks(TEXT, "python")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["trainer"].update == 2
    assert names["metrics"]["objective/scores"] <= 0


def test_the_test_line_is_what_ci_runs() -> None:
    section = TEXT[TEXT.index("<!-- test line -->") : TEXT.index("<!-- end -->")]
    assert 'pip install -e ".[test]" -c constraints.txt && pytest' in section
    assert "<!-- test line -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_mistake_that_is_shown_is_answered_so(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = next(block for block in blocks(TEXT, "") if block.startswith("$ python -m rlhf"))
    command, answer = shown.strip().splitlines()
    monkeypatch.setattr("sys.argv", ["rlhf", *shlex.split(command)[4:]])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err.strip() == answer


def test_the_rows_that_are_shown_are_read(tmp_path: Path) -> None:
    rows = next(block for block in blocks(TEXT, "") if block.startswith('{"prompt"')).strip().splitlines()
    for kind, row in zip(("demonstrations", "preferences", "prompts"), rows, strict=True):
        many = [row.replace("Peru", name) for name in ("Peru", "Chile", "Cuba", "Mali", "Oman", "Iran", "Iraq", "Togo")]
        (tmp_path / "rows.jsonl").write_text("\n".join(many) + "\n")
        settings = composed(f"data.path={tmp_path}/rows.jsonl", "data.holdout=0.3")
        assert len(load(settings.data, kind, "train", 0)) + len(load(settings.data, kind, "validation", 0)) == 8


def test_the_result_is_the_measured_one() -> None:
    ladder = json.loads((ROOT / "benchmarks" / "ladder.json").read_text())
    cells = [line.strip("| ").split(" | ") for line in ladder["published"]]
    lines = ["| " + " | ".join([row[0], *row[2:7]]) + " |" for row in cells]  # without runs and cost
    assert "\n".join(["<!-- ladder -->", *lines, "<!-- end -->"]) in TEXT
    assert ladder["commands"][0] in TEXT
    for method, row in zip(ladder["methods"], cells[2:], strict=True):
        assert row[0] == method["method"]
        assert row[2].startswith(f"{fmean(method['metrics']['gold'].values()):.3f} ±")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
