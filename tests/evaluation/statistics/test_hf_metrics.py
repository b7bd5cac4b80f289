"""Modules of Evaluate return the values of the functions, download nothing and leave no files."""

import json
import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest

from rlhf.evaluation.judges.votes import Compared, length_matched
from rlhf.evaluation.statistics.hf_metrics import (
    CalibrationError,
    Distinct,
    InstructionFollowing,
    LengthControlledWinRate,
    Perplexity,
    WinRate,
)
from rlhf.evaluation.statistics.metrics import win_rate


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a metric used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))


def test_distinct() -> None:
    assert Distinct().compute(predictions=["a a b", "a b"], n=1) == {"distinct": 2 / 5}
    assert Distinct().compute(predictions=["a a b", "a b"]) == {"distinct": 2 / 3}


def test_win_rate() -> None:
    found = WinRate().compute(predictions=[2.0, 1.0, 0.0], references=[1.0, 1.0, 1.0], draws=100, seed=3)
    assert tuple(found.values()) == win_rate([[2.0], [1.0], [0.0]], [[1.0]] * 3, 100, 3)
    assert found["win_rate"] == 0.5


def test_perplexity() -> None:
    found = Perplexity().compute(predictions=[2.0, 4.0], references=[1, 2])
    assert found == {"perplexity": pytest.approx(7.389056, rel=1e-6)}


def test_length_matched_win_rate() -> None:
    preferred, longer = [1.0, 0.5, 0.0, 1.0], [3.0, 1.0, -2.0, -1.0]
    found = LengthControlledWinRate().compute(predictions=preferred, references=longer, draws=100, seed=3)
    pairs = [Compared(np.array([p]), np.array([d])) for p, d in zip(preferred, longer, strict=True)]
    assert tuple(found.values()) == length_matched(pairs, 100, 3)


def test_instructions_followed() -> None:
    asked = [
        {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]},
        {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["b"]}]},
    ]  # fmt: skip
    found = InstructionFollowing().compute(predictions=["a", "a b"], references=list(map(json.dumps, asked)))
    assert found == {"prompts": 0.5, "instructions": 2 / 3}


def test_calibration_error() -> None:
    assert CalibrationError().compute(predictions=[0.75, 0.75], references=[1.0, 0.0]) == {"calibration_error": 0.25}


def test_a_module_can_be_used_again_and_leaves_no_file(tmp_path: Path) -> None:
    metric = Distinct()
    assert metric.compute(predictions=["a b"], n=1) == {"distinct": 1.0}
    for text in ("a a", "a a"):
        metric.add(prediction=text)
    assert metric.compute(n=1) == {"distinct": 0.25}
    assert not (tmp_path / "cache").exists()
