"""Collection is paused for the first import of torch only, and always enabled again."""

import gc
import subprocess
import sys

import pytest

from rlhf.hardware import collector

FIRST = """
import gc
from rlhf.hardware import collector
before = gc.get_freeze_count()
try:
    with collector.paused():
        assert not gc.isenabled()
        import torch
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
assert gc.isenabled()
assert gc.get_freeze_count() - before > 100_000  # a later collection does not search them
"""


def test_the_first_import_of_torch_runs_without_collections() -> None:
    subprocess.run([sys.executable, "-c", FIRST], check=True, timeout=120)


def test_later_imports_freeze_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    before = gc.get_freeze_count()
    with collector.paused():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_a_user_who_has_disabled_collection_keeps_it_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = gc.get_freeze_count()
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() == before
