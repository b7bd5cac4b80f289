"""The command line: help, one-line errors before torch is imported, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import rlhf
from rlhf.cli import main
from tests.conftest import composed

# Runs the command line, then says on stderr whether torch was imported.
PROBE = (
    "import sys; from rlhf.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
)

# Runs the command lines in a JSON list, one after the other.
ALL = """
import contextlib, io, json, os, sys
from rlhf.cli.main import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, told, code = ["rlhf", *arguments], io.StringIO(), 0
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    found.append([code, told.getvalue(), "torch" in sys.modules, os.listdir()])
print(json.dumps(found))
"""


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


MISTAKES = [
    (["stage=dpo", "stage.bta=0.2"], "there is no setting stage.bta; did you mean stage.beta?"),
    *(
        (
            [f"stage={stage}", "stage.branch_from=checkpoints/almanac/ppo@40"],
            f"there is no setting stage.branch_from in stage={stage}: only stage=ppo has it",
        )
        for stage in ("base", "sft", "reward", "dpo", "kto", "online_dpo", "raft", "merge")
    ),
    (["stage=dpo", "stage.rounds=2"], "there is no setting stage.rounds in stage=dpo: only stage=online_dpo has it"),
    (["stage=dop"], "unknown stage 'dop'; choose from base, "),
    (["stage=dop"], "did you mean dpo?"),
    (["dpo"], "dpo is not a setting: did you mean stage=dpo?"),
    (["generate"], "unknown stage 'generate'; choose from base, "),
    (["generate"], "; stage=chat answers messages, stage=sample writes responses to prompts"),
    (["prgression"], "; did you mean progression?"),
    (["--stage", "dpo"], "there is no option --stage: settings are key=value; did you mean stage=dpo?"),
    (["stage=dpo", "stage.learning_rate=1e-5"], "did you mean stage.trainer.learning_rate?"),
    (["stage=dpo", "stage.epochs=2"], "did you mean stage.trainer.num_train_epochs?"),
    (["stage=dpo", "stage.beta=ü"], "stage.beta=ü cannot be read: put "),
    (["-m", "stage=dpo", "seed=glob(*)"], "seed=glob(*) matches nothing, since seed is not a config group"),
    (["-m", "stage=dpo", "seed=range(3,3)"], "names no value, so no job would run"),
    (
        ["-m", "stage=dpo", "stage.beta=0.1,0.2", "stage.beta=0.3"],
        "stage.beta is given twice, as 0.1,0.2 and as 0.3, and a sweep would drop one of them: leave one out",
    ),
    (["model=gpt2", "model.architecture.hidden_size=64"], "sets a key below a setting that is null"),
    (["stage=dpo", "stage.beta=hot"], "stage.beta: Value 'hot' of type 'str' could not be converted to Float"),
    (["stage=dpo", "stage.beta=-1"], "stage.beta must be positive, got -1.0"),
    (["stage=dpo", "stage.policy=null"], "stage.policy cannot be null: set a value"),
    (["name=null"], "name cannot be null: set a value"),
    (["nam=x"], "there is no setting nam; did you mean name?"),
    (
        ["stage=sft", "stage.trainer.max_len=3"],
        "did you mean stage.trainer.max_length?; +stage.trainer.max_len=... adds it",
    ),
    (["stage=sft", "model=local"], "model.path has no value: set model.path=..."),
    (["stage=dpo", "stage.beta=0.1,0.2"], "add -m to sweep over the values"),
    (["stage=dpo", "+stage.bta=1"], "there is no setting +stage.bta; did you mean stage.beta?"),
    (
        ["stage=sft", "+stage.trainer.max_steps=3"],
        "+stage.trainer.max_steps adds a setting that exists: leave out the +",
    ),
    (["stage=sft", "~stage.nothing"], "~ cannot delete a setting, since 'stage.nothing' does not exist: leave it out"),
    (["overwrite=maybe"], "overwrite: Value 'maybe' is not a valid bool"),
    (["stage=dpo"], "which does not exist: run stage=sft first: python -m rlhf stage=sft"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    """Run MISTAKES in one process; return exit code, standard error, whether torch is imported, and files left."""
    given = json.dumps([arguments for arguments, _ in MISTAKES])
    place = tmp_path_factory.mktemp("mistakes")
    result = subprocess.run([sys.executable, "-c", ALL, given], cwd=place, capture_output=True, text=True, timeout=300)
    return json.loads(result.stdout)


@pytest.mark.parametrize(("number", "message"), [(i, message) for i, (_, message) in enumerate(MISTAKES)])
def test_a_mistake_is_one_sentence_before_torch_is_imported(answers: list[list], number: int, message: str) -> None:
    code, told, torch_imported, left = answers[number]
    [told] = told.strip().splitlines()
    assert code == 1
    assert told.startswith("rlhf: ")
    assert message in told
    assert not torch_imported
    assert left == []


@pytest.mark.parametrize("words", [["--help"], ["-sc", "query=bash"]])
def test_help_and_completion_import_nothing_that_only_a_run_needs(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import sys; from rlhf.cli.main import main\ntry: main()\n"
        "finally: print(*sys.modules, sep=chr(10), file=sys.stderr)"
    )
    line = {"COMP_LINE": "rlhf stage=", "COMP_POINT": "11"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=os.environ | line
    )
    assert "dpo" in done.stdout
    imported = {name for name in done.stderr.split() if name.startswith("rlhf.")}
    assert "rlhf.cli.compose" in imported
    assert not imported & {"rlhf.cli.sweep", "rlhf.runs.directory", "rlhf.storage.digests", "rlhf.console"}


def test_the_version_is_ours(tmp_path: Path) -> None:
    result = command("--version", cwd=tmp_path)
    assert (result.stdout, result.returncode) == (f"rlhf {rlhf.__version__}\n", 0)


def test_a_bare_command_says_what_comes_next(tmp_path: Path) -> None:
    result = command(cwd=tmp_path)
    assert result.returncode == 0
    assert "python -m rlhf stage=progression" in result.stdout
    assert result.stderr.strip() == "False"
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_shows_what_would_run(tmp_path: Path) -> None:
    result = command("stage=dpo", "--cfg", "job", cwd=tmp_path)
    assert OmegaConf.create(result.stdout).stage.beta == 0.1
    assert list(tmp_path.iterdir()) == []


def test_groups_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "recipe").mkdir()
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    (tmp_path / "mine" / "recipe" / "mine-dpo.yaml").write_text("# @package _global_\nstage: {beta: 0.7}\n")
    result = command("--config-dir", "mine", "experiment=mine", "stage=dpo", "--cfg", "job", cwd=tmp_path)
    job = OmegaConf.create(result.stdout)
    assert (job.name, job.stage.beta) == ("mine", 0.7)


def test_the_command_line_beats_the_recipe() -> None:
    assert composed("stage=sft", "stage.trainer.learning_rate=0.5").stage.trainer["learning_rate"] == 0.5


def test_one_failing_job_of_a_sweep_does_not_stop_the_others(tmp_path: Path) -> None:
    result = command("-m", "stage=status", "seed=-1,1", cwd=tmp_path)
    assert result.returncode == 1
    assert "seed must not be negative" in result.stderr
    assert "python -m rlhf stage=progression" in result.stdout


def test_completion_offers_the_stages(tmp_path: Path) -> None:
    result = command("-sc", "install=bash", cwd=tmp_path)
    assert result.returncode == 0
    assert "complete -o nospace" in result.stdout


def test_the_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    monkeypatch.setattr("sys.argv", ["rlhf", "stage=dpo", "stage.bta=1"])
    for _ in range(2):  # the second time is not taken for a user who asked for tracebacks
        with pytest.raises(SystemExit):
            main.main()
    assert dict(os.environ) == before
