import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.data import check_splits, load, splits
from rlhf.errors import DataError
from tests.data.test_load import PAIRS, write

TRAIN = [{"prompt": f"Q{n}", "completion": "A"} for n in range(6)]


@pytest.fixture
def checked(settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., None]:
    """Return a function that checks demonstrations against prompts, as stage=sft does."""

    def of(train: list[dict], prompts: list[dict], *more: str) -> None:
        paths = [f"data.demonstrations.path={write(tmp_path / 'd.jsonl', train)}"]
        (tmp_path / "p").mkdir(exist_ok=True)
        write(tmp_path / "p" / "train.jsonl", [{"prompt": "else"}])
        write(tmp_path / "p" / "test.jsonl", prompts)
        given = settings("sft", "data=local", "data.holdout=0.3", *paths, f"data.prompts.path={tmp_path / 'p'}", *more)
        rows = {split: load(given.data, "demonstrations", split, 0) for split in ("train", "validation")}
        check_splits(given.data, "demonstrations", rows, 0)

    return of


def test_training_on_prompts_of_the_comparison_is_refused(
    checked: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [{"prompt": f"Q{n}"} for n in range(6)]
    with pytest.raises(
        DataError, match=r"rows of data\.prompts \(test\) .* that is also in data\.demonstrations \(train\)"
    ):
        checked(TRAIN, prompts)
    with caplog.at_level(logging.WARNING, logger="rlhf"):
        checked(TRAIN, prompts, "data.allow_leaks=true")
    assert "rows of data.prompts (test)" in caplog.text
    checked(TRAIN, [{"prompt": "new"}])


def test_each_problem_is_one_warning(checked: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rlhf"):
        checked(TRAIN * 2, [{"prompt": "new"}])
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("data.demonstrations (train): ")
    assert line.endswith("(50.0%) repeat an earlier row")


def test_unreadable_prompts_are_left_to_the_stage_that_reads_them(checked: Callable[..., None], tmp_path: Path) -> None:
    checked(TRAIN, [{"prompt": ""}])


@pytest.mark.parametrize("stage", ["base", "sft", "reward", "dpo", "kto", "ppo"])
def test_every_training_stage_refuses_a_leak(beside_chain: Callable, chain: Path, tmp_path: Path, stage: str) -> None:
    from rlhf.stages import execute

    rows = [row | {"completion": "yes", "text": f"{row['prompt']} {n}"} for n, row in enumerate(PAIRS[:20])]
    for name in ("train", "validation", "test"):
        write(tmp_path / "rows" / f"{name}.jsonl", rows)
    with pytest.raises(DataError, match=r"\d+ rows of data\..* \(100\.0%\) .*: remove them, or accept them with"):
        execute(beside_chain(stage, f"data.path={tmp_path / 'rows'}"), tmp_path / stage)
    assert not (tmp_path / stage).exists()


@pytest.mark.parametrize(("prompts", "read"), [(200, False), (3, True)])
def test_a_file_that_the_hash_divides_is_not_read_again_for_its_prompts(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: int, read: bool
) -> None:
    """No hash of three prompts is below 0.05, so the prompt with the smallest is held out."""
    rows = [{"prompt": f"Q{n}", "chosen": "A", "rejected": "B"} for n in range(prompts)]
    given = settings("dpo", "data=local", f"data.path={write(tmp_path / 'rows.jsonl', rows)}")
    found = {split: load(given.data, "preferences", split, 0) for split in ("train", "validation")}
    names = []
    monkeypatch.setattr(splits, "evaluated_on", lambda *_: names.append("read") or {})
    check_splits(given.data, "preferences", found, 0)
    assert bool(names) is read
    monkeypatch.undo()
    [asked] = splits.evaluated_on(given.data, "preferences", 0).values()
    assert not set(asked["prompt"]) & set(found["train"]["prompt"])
