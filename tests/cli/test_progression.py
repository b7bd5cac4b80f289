"""The whole chain in miniature: base -> sft -> reward -> dpo, ppo -> compare, on the embedded data."""

import json
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.runs.run import Run
from tests.conftest import FAST, TINY

STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["rlhf", *arguments])
    main.main()


def progression(root: Path, **more: list[str]) -> list[str]:
    own = {name: [*FAST[name], *more.get(name, [])] for name in STAGES}
    text = ", ".join(f"{name}: [{', '.join(repr(item) for item in items)}]" for name, items in own.items())
    return ["stage=progression", f"checkpoints={root}", "hardware=cpu", *TINY, f"stage.overrides={{{text}}}"]


def test_everything_once_then_nothing_then_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run(monkeypatch, *progression(tmp_path))
    first = {name: Run.open(tmp_path / "almanac" / name).manifest for name in STAGES}
    assert first["ppo"]["parents"]["policy"]["digest"] == first["sft"]["weights"]
    assert first["ppo"]["parents"]["reward"]["digest"] == first["reward"]["weights"]
    assert set(first["compare"]["parents"]) == {"base", "sft", "dpo", "ppo", "reward"}
    report = (tmp_path / "almanac" / "compare" / "report.md").read_text()
    assert "Who won the World Cup?" in report
    metrics = json.loads((tmp_path / "almanac" / "compare" / "metrics.json").read_text())
    assert set(metrics["models"]) == {"base", "sft", "dpo", "ppo"}
    assert metrics["models"]["sft"]["gold"]["low"] <= metrics["models"]["sft"]["gold"]["mean"]
    told = capsys.readouterr().out
    assert told.count("not run yet; running") == 6

    run(monkeypatch, *progression(tmp_path))
    told = capsys.readouterr().out
    assert told.count("up to date, skipped") == 6
    place, numbers, following = told.splitlines()[-3:]
    assert place == f"progression: {tmp_path}/almanac/compare/report.html"
    assert numbers.startswith("  win rate vs sft (gold): ")
    assert following.startswith("Next: python -m rlhf stage=publish ")

    released = []
    monkeypatch.setattr("rlhf.hardware.memory.release", lambda: released.append(True))
    run(monkeypatch, *progression(tmp_path, dpo=["stage.beta=0.5"]))
    assert len(released) == 2  # before each stage that runs
    told = " ".join(capsys.readouterr().out.split())
    assert "dpo: stage.beta was 0.1, now 0.5; running" in told
    assert "compare: its parent dpo has changed; running" in told
    assert told.count("up to date, skipped") == 4
    assert Run.open(tmp_path / "almanac" / "ppo").manifest == first["ppo"]


def test_a_stale_stage_that_was_interrupted_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def base(*more: str) -> list[str]:
        own = ", ".join(map(repr, [*FAST["base"], "stage.trainer.save_steps=1", *more]))
        common = ["stage=progression", f"checkpoints={tmp_path}", "hardware=cpu", *TINY]
        return [*common, "stage.stages=[base]", f"stage.overrides={{base: [{own}]}}"]

    run(monkeypatch, *base())
    old = Run.open(tmp_path / "almanac" / "base").manifest
    with monkeypatch.context() as patch:
        patch.setattr("rlhf.training.loop.Interruption.__enter__", lambda self: setattr(self, "asked", True) or self)
        patch.setattr("rlhf.training.loop.Interruption.__exit__", lambda self, *_: None)
        with pytest.raises(SystemExit):
            run(patch, *base("stage.trainer.learning_rate=1e-3"))
    told = capsys.readouterr().err
    assert "base has checkpoint-1, and this continues from it:\n  python -m rlhf stage=progression" in told
    assert "resume=true" not in told
    with pytest.raises(SystemExit):
        run(monkeypatch, *base("stage.trainer.learning_rate=1e-4"))
    told = capsys.readouterr().err
    assert "other settings (stage.trainer.learning_rate was 0.001, now 0.0001) with checkpoint-1 is here" in told
    assert Run.open(tmp_path / "almanac" / "base").manifest == old
    run(monkeypatch, *base("stage.trainer.learning_rate=1e-3"))
    assert "; continuing" in " ".join(capsys.readouterr().out.split())
    new = Run.open(tmp_path / "almanac" / "base").manifest
    assert new["resumed"]
    assert new["weights"] != old["weights"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("{ppo: ['stage.bta=3']}", "there is no setting stage.bta"),
        ("{ppo: ['+stage.bta=3']}", "there is no setting +stage.bta"),
        ("{dpo: 'stage.beta=0.3'}", "stage.overrides.dpo must be a list of settings, got 'stage.beta=0.3'"),
    ],
)
def test_a_mistake_in_a_later_stage_is_reported_before_the_first_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, overrides: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "stage=progression", f"checkpoints={tmp_path}", f"stage.overrides={overrides}")
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_over_seeds_has_a_chain_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = [item for item in progression(tmp_path) if not item.startswith("stage.overrides")]
    overrides = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in ("base", "sft"))
    run(monkeypatch, "-m", *shorter, "stage.stages=[base,sft]", f"stage.overrides={{{overrides}}}", "seed=1,2")
    manifests = {str(path.relative_to(tmp_path)): Run.open(path).manifest for path in _runs(tmp_path)}
    members = [f"almanac/progression/seed-{seed}" for seed in (1, 2)]
    assert set(manifests) == {f"{member}/{stage}" for member in members for stage in ("base", "sft")}
    assert len({manifest["weights"] for manifest in manifests.values()}) == 4
    for member in members:
        base, sft = manifests[f"{member}/base"], manifests[f"{member}/sft"]
        assert sft["parents"]["policy"]["digest"] == base["weights"]


def test_a_sweep_over_a_setting(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        monkeypatch, "-m", "stage=dpo", f"checkpoints={tmp_path}", "hardware=cpu", *TINY, *FAST["dpo"],
        f"stage.policy={chain}/almanac/sft", "stage.beta=0.1,0.3",
    )  # fmt: skip
    stages = [one.manifest["settings"]["stage"] for one in map(Run.open, _runs(tmp_path))]
    assert {stage["beta"] for stage in stages if stage["name"] == "dpo"} == {0.1, 0.3}
    assert sorted(stage["name"] for stage in stages) == ["dpo", "dpo", "sweep"]  # and what is said of them together


def _runs(root: Path) -> list[Path]:
    return [path.parent for path in root.rglob("run.json")]
