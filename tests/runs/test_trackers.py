from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError
from rlhf.stages import execute


def test_metrics_reach_tensorboard_and_secrets_do_not(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = beside_chain("sft", "tracker=tensorboard", "tracker.project=hf_abcdefghijklmnop")
    execute(settings, tmp_path / "sft")
    # Files are numbered per process; the later one has the hyperparameters.
    events = min((tmp_path / "sft").rglob("events.out.tfevents.*"), key=lambda path: int(path.suffix[1:]))
    accumulator = EventAccumulator(str(events.parent)).Reload()
    assert len(accumulator.Scalars("train/loss")) == 2
    assert not [
        path for path in (tmp_path / "sft").rglob("*") if path.is_file() and b"hf_abcdefgh" in path.read_bytes()
    ]


def test_a_tracker_that_is_not_installed(settings: Callable[..., Settings], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="tracker=mlflow needs a package that is not installed: pip install mlflow"):
        execute(settings("base", "tracker=mlflow"), tmp_path / "base")
