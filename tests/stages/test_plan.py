"""stage=plan and hardware.plan=true, from the command line: what is said, and how they end."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import main
from tests.conftest import FAST, TINY

QUICK = ("stage.probe_seconds=1",)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["rlhf", *arguments])
    main.main()


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading any is a failure."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)
    monkeypatch.setattr("rlhf.modeling.loading._load", refuse)


def test_the_progression_is_planned_before_any_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    own = "stage.overrides={sft: ['stage.trainer.max_steps=7']}"
    run(monkeypatch, "stage=plan", f"checkpoints={tmp_path}", "hardware=cpu", *TINY, *QUICK, own)
    told = capsys.readouterr().out
    for stage in ("base", "sft", "reward", "dpo", "ppo"):
        assert f"{stage}: fits: " in told
    assert "sft: 7 steps" in told
    assert told.count("measured: ") == 5
    assert told.splitlines()[0].strip() == "plan"  # the summary, before the tables of each stage
    assert told.index("base: memory of one device") > told.index("┘")
    assert not list(tmp_path.iterdir())


def test_one_stage_is_planned_as_it_would_run(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    policy = f"stage.policy={chain}/almanac/sft"
    given = ("stage=dpo", f"checkpoints={tmp_path}", "hardware=cpu", *TINY, *FAST["dpo"], policy)
    run(monkeypatch, *given, "hardware.plan=true")
    told = " ".join(capsys.readouterr().out.split())
    assert f"parameters ({chain}/almanac/sft)".replace(" ", "") in told.replace(" ", "")
    assert "dpo: 2 steps" in told
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_ends_with_1_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = ("experiment=tldr-pythia", "stage.stages=[dpo]", "stage.device=a100-80gb", "stage.memory_gib=8")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "stage=plan", *given)
    assert ended.value.code == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "dpo: does not fit: " in told
    assert "dpo: with " in told
    assert "assumed: 8 operations per parameter and token, 40% of 312 TFLOP/s" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("stage=plan", "stage.stages=[compare]"), "stage.stages must name one of base, sft, reward, dpo, kto, ppo"),
        (("stage=plan", "stage.device=a100"), "stage.device must be one of this, a100-80gb"),
        (("stage=plan", "stage.memory_gib=24"), "stage.tflops is null"),
        (("stage=plan", "stage.gpus=8", "stage.strategy=none"), "stage.gpus=8 cannot divide"),
        (("stage=inspect", "hardware.plan=true"), "stage=inspect does not train: leave it out"),
        (
            ("stage=plan", "experiment=tldr-pythia", "stage.stages=[base]"),
            "data.text.path is null, so there are no text: set data.text.path=",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert len(told.strip().splitlines()) == 1
