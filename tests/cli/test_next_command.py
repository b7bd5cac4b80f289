"""The command that is printed at the end of a stage: it runs as printed."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from rlhf.cli import main
from rlhf.cli.next_command import next_command, ready
from rlhf.storage.paths import bundled
from tests.conftest import FAST, TINY, composed, manifest


@pytest.fixture
def hydra_knows() -> Iterator[None]:
    """Composing works as within a command."""
    main.register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        yield


def after(stage: str, *overrides: str) -> str:
    """Return the command that follows ``stage``."""
    settings = composed(f"stage={stage}", *overrides)
    main.register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        return next_command(settings, [f"stage={stage}", *overrides])


def write(root: Path, stage: str, name: str = "almanac", **more: object) -> Path:
    """Write a finished run that nothing was trained for."""
    place = root / name / stage
    place.mkdir(parents=True, exist_ok=True)
    (place / "run.json").write_text(json.dumps(manifest(stage, name=name, **more)))
    return place


def write_rows(path: Path, *columns: str) -> str:
    path.write_text("".join(json.dumps(dict.fromkeys(columns, f"text {n}")) + "\n" for n in range(4)))
    return f"data.path={path}"


def test_the_chain_goes_forward_first(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "almanac", tmp_path / "almanac")
    place = f"checkpoints={tmp_path}"
    assert after("reward", place) == f"python -m rlhf stage=dpo {place}"
    write(tmp_path, "dpo")
    assert after("dpo", place) == f"python -m rlhf stage=ppo {place}"
    write(tmp_path, "ppo")
    assert after("ppo", place) == f"python -m rlhf stage=compare {place}"
    shutil.rmtree(tmp_path / "almanac" / "dpo")
    assert after("ppo", place) == f"python -m rlhf stage=dpo {place}"
    write(tmp_path, "dpo")
    write(tmp_path, "compare")
    assert after("dpo", place) == f"python -m rlhf stage=compare {place} overwrite=true"
    assert after("compare", place).startswith("python -m rlhf stage=publish")
    write(tmp_path, "publish")
    assert after("publish", place) == f"python -m rlhf -m stage=dpo stage.beta=0.05,0.1,0.3 {place}"


def test_finished_stages_and_stages_of_other_folders_are_not_proposed(chain: Path, tmp_path: Path) -> None:
    place = f"checkpoints={tmp_path}"
    write(tmp_path, "ppo", weights="p" * 64)
    held = {"ppo": {"path": "ppo", "stage": "ppo", "digest": "p" * 64, "revision": None}}
    write(tmp_path, "compare", parents=held, finished="2026-01-02T00:00:00+00:00")
    publish = f"python -m rlhf stage=publish {place} stage.run={tmp_path}/almanac/ppo"
    assert after("compare", place) == publish  # base and SFT are in another folder
    assert after("status", place) == publish
    assert " stage=sample " in after("ppo", place)  # the comparison has this run
    shutil.copytree(chain / "almanac", tmp_path / "almanac", dirs_exist_ok=True)
    for stage in ("publish", "dpo"):
        write(tmp_path, stage)
    write(tmp_path, "ppo", weights="q" * 64)
    assert after("ppo", place) == f"python -m rlhf stage=compare {place} overwrite=true"
    assert after("compare", place).startswith("python -m rlhf -m stage=dpo ")
    (tmp_path / "almanac" / "dpo" / ".jobs").mkdir()
    (tmp_path / "almanac" / "dpo" / ".jobs" / "stage.beta-0.1.json").write_text("{}")
    assert after("compare", place) == f"python -m rlhf {place}"


def test_what_the_user_gave_is_kept_and_quoted_for_the_shell(chain: Path, tmp_path: Path) -> None:
    root = tmp_path / "with a blank"
    shutil.copytree(chain / "almanac", root / "mine")
    given = [f"checkpoints='{root}'", "name=mine", "adapter=lora", "seed=3", "--config-dir=own conf"]
    told = shlex.split(after("reward", *given[:4], "stage.ensemble=1"))
    assert told == ["python", "-m", "rlhf", "stage=dpo", *given[:4]]
    settings = composed("stage=reward", *given[:4])
    main.register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        assert shlex.split(next_command(settings, given))[4:] == given


@pytest.mark.parametrize(
    ("columns", "stage", "proposed"),
    [
        (("prompt", "completion"), "sft", "sample"),  # no pairs in it: neither reward nor dpo would read it
        (("prompt", "chosen", "rejected"), "sft", "reward"),
    ],
)
def test_a_file_that_the_next_stage_cannot_read_is_not_proposed_to_it(
    chain: Path, tmp_path: Path, columns: tuple[str, ...], stage: str, proposed: str
) -> None:
    shutil.copytree(chain / "almanac", tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "reward")
    data = write_rows(tmp_path / "my.jsonl", *columns)
    told = after(stage, "experiment=none", "name=mine", f"checkpoints={tmp_path}", "data=local", data)
    assert f" stage={proposed} " in told
    assert data in told


def test_a_policy_that_was_given_is_given_again(chain: Path, tmp_path: Path) -> None:
    write(tmp_path, "dpo")
    policy = f"stage.policy={chain}/almanac/sft"
    told = after("dpo", f"checkpoints={tmp_path}", policy)
    assert told == f"python -m rlhf stage=reward checkpoints={tmp_path} {policy}"


def test_samples_are_labeled_and_labels_are_learned(chain: Path, tmp_path: Path) -> None:
    place = f"checkpoints={tmp_path}"
    shutil.copytree(chain / "almanac", tmp_path / "almanac")
    start = f"{tmp_path}/almanac/sft"
    parents = {"policy": {"path": start, "stage": "sft", "digest": None, "revision": None}}
    write(tmp_path, "sample", metrics={"responses": 8.0}, parents=parents)
    assert after("sample", place) == (
        f"python -m rlhf stage=label {place} judge=reward judge.model={tmp_path}/almanac/reward"
    )
    write_rows(write(tmp_path, "label") / "preferences.jsonl", "prompt", "chosen", "rejected")
    assert after("label", place, "judge=reward", f"judge.model={tmp_path}/almanac/reward") == (
        f"python -m rlhf stage=reward {place} name=almanac-labeled stage.policy={start} "
        f"data.path={tmp_path}/almanac/label/preferences.jsonl"
    )


def test_an_interrupted_stage_is_continued_if_it_is_the_same(chain: Path, tmp_path: Path, hydra_knows: None) -> None:
    from rlhf.runs.identity import Origin

    shutil.copytree(chain / "almanac", tmp_path / "almanac")
    given = [f"checkpoints={tmp_path}"]
    work = tmp_path / "almanac" / ".dpo.partial"
    (work / "resume" / "checkpoint-4").mkdir(parents=True)
    (work / "resume" / "checkpoint-4" / "digests.json").touch()
    content = Origin.of(main.settings_of(main.hydra.compose("config", ["stage=dpo", *given]))).content
    (work / "run.json").write_text(json.dumps(manifest("dpo", status="interrupted", content=content)))
    assert ready("dpo", given) == f"python -m rlhf stage=dpo {given[0]} resume=true"
    assert ready("dpo", [*given, "stage.beta=0.7"]) is None


def test_the_chain_of_the_latest_run_is_the_one_that_continues(chain: Path, tmp_path: Path) -> None:
    place = f"checkpoints={tmp_path}"
    shutil.copytree(chain / "almanac", tmp_path / "almanac")
    assert after("status", place) == f"python -m rlhf stage=dpo {place}"
    shutil.copytree(chain / "almanac", tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "reward")
    command = "python -m rlhf stage=sft experiment=almanac name=mine checkpoints=elsewhere seed=4 stage.sample_every=3"
    write(tmp_path, "sft", "mine", command=command, finished="2100-01-01T00:00:00+00:00")
    assert after("status", place) == f"python -m rlhf stage=reward experiment=almanac name=mine seed=4 {place}"
    assert after("status", place, "name=almanac") == f"python -m rlhf stage=dpo {place} name=almanac"
    assert after("status", place, "name=new") == f"python -m rlhf stage=progression {place} name=new"
    assert after("status", "checkpoints=nowhere") == "python -m rlhf stage=progression checkpoints=nowhere"
    # settings of an older version
    write(tmp_path, "sft", "mine", command="rlhf -m stage=sft adapter=gone", finished="2100-01-01T00:00:00+00:00")
    assert after("status", place).startswith("python -m rlhf ")


def test_the_printed_command_runs_as_printed(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(chain / "almanac", tmp_path / "it's" / "mine")
    monkeypatch.chdir(tmp_path)
    given = ["name=mine", 'checkpoints="it\'s"', "hardware=cpu", *TINY]
    monkeypatch.setattr("sys.argv", ["rlhf", "stage=sample", *given, *FAST["sample"]])
    main.main()
    out = capsys.readouterr().out
    told = out.splitlines()[-1]
    assert re.search(r"\nsample: it's/mine/sample/responses\.jsonl\s+\(?18 responses, EOS rate ", out)
    assert told.startswith("Next: python -m rlhf stage=label ")
    monkeypatch.setattr("sys.argv", shlex.split(told.removeprefix("Next: python -m ")))
    main.main()
    out = capsys.readouterr().out
    assert "label: it's/mine/label/preferences.jsonl" in out
    assert out.splitlines()[-1].startswith("Next: python -m rlhf stage=")
