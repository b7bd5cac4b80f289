"""Experiment trackers through accelerate, the same for TRL's trainers and the PPO trainer."""

from dataclasses import asdict
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from rlhf.config import Settings
from rlhf.hardware.device import torch_device
from rlhf.runs.identity import flatten
from rlhf.runs.run import Run
from rlhf.storage.secrets import redact


def open_tracker(settings: Settings, run: Run) -> GeneralTracker:
    """Return the tracker that ``settings.tracker`` selects, with the settings without secrets.

    TensorBoard's files are written to the run's directory.
    """
    PartialState(cpu=torch_device(settings.hardware).type == "cpu")  # trackers read from it which process writes
    kind = settings.tracker.kind.value
    tracker_class = LOGGER_TYPE_TO_CLASS[kind]
    options: dict[str, Any] = {}
    if tracker_class.requires_logging_directory:
        options["logging_dir"] = str(run.work)
    title = kind if kind == "tensorboard" else settings.tracker.project
    tracker = tracker_class(title, **options)
    tracker.start()
    flat = flatten(redact(asdict(settings)))
    tracker.store_init_configuration({key: _simple(value) for key, value in flat.items()})
    return tracker


def _simple(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(getattr(value, "value", value))
