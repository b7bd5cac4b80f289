from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import DataError
from rlhf.run import Run
from rlhf.stages import execute


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_it_moves_away_from_the_reference(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path, adapter: str
) -> None:
    """At the first step policy and reference agree, so the loss is log 2; training then widens the margin."""
    overrides = [
        "stage.loss=[sigmoid]",
        f"adapter={adapter}",
        "stage.trainer.learning_rate=0.01",
        "stage.trainer.warmup_steps=0",
    ]
    metrics = execute(beside_chain("dpo", *overrides, "stage.trainer.max_steps=6"), tmp_path / "dpo")
    run = Run.open(tmp_path / "dpo")
    first = (run.directory / "metrics.jsonl").read_text().splitlines()[0]
    assert '"train/loss": 0.6931' in first
    assert run.manifest["parents"]["policy"]["digest"] == Run.open(chain / "almanac" / "sft").manifest["weights"]
    assert metrics["eval/loss"] != pytest.approx(0.6931, abs=1e-4)
    assert metrics["objective"] == metrics["eval/rewards/accuracies"]


def test_equal_responses_are_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    same = tmp_path / "same.jsonl"
    same.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    with pytest.raises(DataError, match=r"same\.jsonl:1"):
        execute(beside_chain("dpo", f"data.path={same}"), tmp_path / "dpo")
