"""The entry of the command line: the same output as without its short ways, and no import of Hydra."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf
from rlhf.cli import start
from rlhf.cli.help import help_text

HEAVY = ("hydra", "omegaconf", "torch", "rlhf.config")
PROBE = f"""
import sys
from rlhf.cli.start import main
try: main()
finally: print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def command(place: Path, *words: str, line: str = "") -> subprocess.CompletedProcess:
    given = os.environ | {"COMP_LINE": line}
    return subprocess.run(
        [sys.executable, "-c", PROBE, *words], cwd=place, capture_output=True, text=True, timeout=120, env=given
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--version"], f"rlhf {rlhf.__version__}"),
        (["--help"], help_text([])),
        (["-h"], help_text([])),
        (["-sc", "query=bash"], "stage=dpo"),
    ],
)
def test_version_help_and_completion_import_no_hydra(tmp_path: Path, words: list[str], told: str) -> None:
    result = command(tmp_path, *words, line="rlhf stage=dp")
    assert (result.stdout, result.stderr.strip(), result.returncode) == (f"{told}\n", "", 0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], ""),
        (["stage=dpo", "--help"], ""),
        (["--help", "experiment=hh"], ""),
        (["--hydra-help"], ""),
        (["-sc", "install=bash"], ""),
        (["-sc", "query=bash"], "rlhf hydra."),
        (["-sc", "query=bash"], "python -m rlhf stage="),
    ],
)
def test_other_commands_are_left_to_hydra(monkeypatch: pytest.MonkeyPatch, words: list[str], line: str) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert start.quick(words) is None


@pytest.mark.parametrize("name", ["dop", "dpoo", "nothing"])
def test_an_unknown_stage_is_refused_as_by_hydra(tmp_path: Path, name: str) -> None:
    result = command(tmp_path, f"stage={name}", "seed=1")
    sentence, imported = result.stderr.splitlines()
    assert (result.stdout, result.returncode, imported) == ("", 1, "rlhf.config")
    whole = [sys.executable, "-c", PROBE.replace("start", "main"), f"stage={name}", "seed=1"]
    assert subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True).stderr.splitlines()[0] == sentence
    assert sentence.startswith(f"rlhf: unknown stage '{name}'; choose from base, chat, ")


def test_an_unknown_stage_is_left_to_hydra_in_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert start.unknown_stage(["stage=nothing"])
    left = (["stage=dpo"], ["-m", "stage=nothing"], ["stage=dpo,nothing"], ["stage='nothing'"], ["stage="], [])
    assert [start.unknown_stage(words) for words in left] == [None] * len(left)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert start.unknown_stage(["stage=nothing"]) is None


def test_hydra_completes_the_rest(tmp_path: Path) -> None:
    result = command(tmp_path, "-sc", "query=bash", line="rlhf stage=dpo stage.sample_length=")
    assert result.stdout == "stage.sample_length=40\n"


def test_a_reader_may_stop_reading(tmp_path: Path) -> None:
    line = f"{sys.executable} -m rlhf --help | head -n 1"
    result = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("Take a language model")
    assert result.stderr == ""
