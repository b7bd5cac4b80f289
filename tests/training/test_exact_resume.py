"""Parts of resuming without training; tests/test_resume.py resumes every stage to the same bits."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from rlhf.training.exact_resume import Keeper, take_up_if_trained, written_at


def checkpoint(folder: Path, step: int, **interval: Any) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    state = TrainerState(global_step=step, max_steps=4, best_model_checkpoint=str(folder / "checkpoint-2"))
    state.save_to_json(str(made / "trainer_state.json"))
    (made / "logs.json").write_text('{"metrics.jsonl": 3}')
    (made / "interval.json").write_text(json.dumps({"losses": [0.5], "since": 2, "metrics": None} | interval))
    return made


def trainer(folder: Path, best: bool = False, processes: int = 1) -> Any:
    args = SimpleNamespace(
        load_best_model_at_end=best, output_dir=str(folder), world_size=processes, process_index=processes - 1
    )
    loaded: list[str] = []
    return SimpleNamespace(
        args=args, loaded=loaded, _load_from_checkpoint=loaded.append, _tr_loss=torch.zeros(()),
        _globalstep_last_logged=0, _metrics={"train": {}},
    )  # fmt: skip


def test_the_lengths_of_the_logs_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    assert written_at(None) is None
    assert written_at(checkpoint(tmp_path, 2)) == {"metrics.jsonl": 3}


@pytest.mark.parametrize(("best", "loaded"), [(False, "checkpoint-4"), (True, "checkpoint-2")])
def test_only_a_checkpoint_of_the_last_step_is_taken_up(tmp_path: Path, best: bool, loaded: str) -> None:
    made = trainer(tmp_path, best)
    assert not take_up_if_trained(made, checkpoint(tmp_path, 3))
    assert made.loaded == []
    assert take_up_if_trained(made, checkpoint(tmp_path, 4))
    assert made.loaded == [str(tmp_path / loaded)]
    assert made.state.global_step == 4


@pytest.mark.parametrize(("processes", "losses", "own"), [(1, [0.5], 0.5), (2, [0.5, 1.5], 1.5), (1, [0.5, 1.5], 1.0)])
def test_sums_continue_and_later_checkpoints_go(
    tmp_path: Path, processes: int, losses: list[float], own: float
) -> None:
    """A process continues from its own sum, or from the mean if the number of processes has changed."""
    last = checkpoint(tmp_path, 2, losses=losses, metrics={"entropy": [1.0]})
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 3)
    made = trainer(tmp_path, processes=processes)
    state = SimpleNamespace(is_world_process_zero=True)
    Keeper(made, None, last).on_train_begin(made.args, state, TrainerControl())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert made._tr_loss.item() == own
    assert made._globalstep_last_logged == 2
    assert made._metrics == {"train": {"entropy": [1.0]}}
