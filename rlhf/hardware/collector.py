"""Imports without garbage collection, which would take a tenth of the start-up and find nothing to free."""

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused() -> Generator[None]:
    """Collect no garbage during the imports in this context, and exclude from later collections what they leave.

    Only for the first import of torch: what is alive later may be a model, which must be collected.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
