"""One update of a transformers Trainer per request, for the sides of benchmarks.ppo and benchmarks.rl."""

import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class Turns(TrainerCallback):
    """Let ``train``, which runs in a separate thread, make one update per request."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.failed: BaseException | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.go.acquire()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done.release()
        self.go.acquire()

    def run(self, train: Callable[[], None]) -> None:
        try:
            train()
        except BaseException as error:
            self.failed = error
            self.done.release()

    def next(self) -> None:
        """Let one update happen; raise the error that ended ``train``, if any."""
        self.go.release()
        self.done.acquire()
        if self.failed is not None:
            raise self.failed
