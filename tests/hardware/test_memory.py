"""Shapes and the cache, and a meter compared with known allocations."""

import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from rlhf.hardware import memory
from rlhf.hardware.memory import Measured, Meter, Shape, cache
from rlhf.modeling.decoding import cache_argument

MIB = 2**20


def llama(layers: int = 2, hidden: int = 64, inner: int = 192, keys: int = 4) -> LlamaForCausalLM:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": keys}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes, **heads)).eval()


def test_a_cache_is_what_transformers_keeps() -> None:
    model = llama(keys=2)
    ids = torch.randint(0, 50, (3, 20))
    with torch.no_grad():
        made = model(ids, use_cache=True)
    layers = made[cache_argument(model)].layers
    held = sum(tensor.untyped_storage().nbytes() for layer in layers for tensor in (layer.keys, layer.values))
    shape = Shape.of(model.config)
    assert held == cache(shape, 3, 20, 4) - held // 2  # the formula has one layer more, for the copy


def test_shapes_of_other_architectures() -> None:
    assert Shape.of(GPT2Config(n_embd=24, n_layer=3, n_head=2, vocab_size=9)) == Shape(3, 24, 96, 2, 24, 9)
    text = SimpleNamespace(hidden_size=8, num_hidden_layers=2, vocab_size=5, state_size=4)  # without attention
    config = SimpleNamespace(get_text_config=lambda: text)
    assert Shape.of(config) == Shape(2, 8, 32, 0, 0, 5)


def test_a_meter_measures_memory_taken_since_its_creation() -> None:
    held = torch.ones(40 * MIB // 4)
    torch.ones(300 * MIB // 4)  # an earlier peak
    meter = Meter(torch.device("cpu"))
    before = meter.read().peak
    taken = torch.ones(100 * MIB // 4)
    del taken
    measured = meter.read()
    assert held[0] == 1
    assert measured.device == "cpu"
    if measured.exact:
        assert before < 20 * MIB
        assert 90 * MIB < measured.peak < 130 * MIB
    else:
        assert measured.peak >= 100 * MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="not Linux")
def test_the_peak_of_a_parent_process_does_not_count() -> None:
    """getrusage(2) would report the parent's 300 MiB for a child that did nothing."""
    held = bytearray(300 * MIB)
    code = "import torch; from rlhf.hardware.memory import Meter; print(Meter(torch.device('cpu')).read().peak)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50 * MIB
    assert len(held) == 300 * MIB


def test_without_a_reset_of_the_peak_the_measurement_is_a_bound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("rlhf.hardware.memory.Path.write_text", refuse)
    measured = Meter(torch.device("cpu")).read()
    assert not measured.exact
    memory.compare("ppo", 170, measured)
    assert "ppo: peak at most " in capsys.readouterr().out


def test_the_deviation_is_printed_and_recorded(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    found = memory.compare("ppo", 120 * MIB, Measured("cpu", 5, 100 * MIB, True))
    assert capsys.readouterr().out == "ppo: peak 100 MiB (planned 120 MiB, 20% too high)\n"
    assert found["deviation"] == 0.2
    assert found["planned"] == 120 * MIB
    assert found["measured"] == {"device": "cpu", "before": 5, "peak": 100 * MIB, "exact": True}


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps it")
def test_kept_memory_is_named_in_the_measurement(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    memory.compare("ppo", 120 * MIB, Measured("cpu", 5, 200 * MIB, True))
    memory.compare("ppo", 120 * MIB, Measured("cuda", 5, 100 * MIB, True))
    assert capsys.readouterr().out.splitlines() == [
        "ppo: peak 200 MiB, with freed memory that is kept for reuse (planned 120 MiB, 40% too low)",
        "ppo: peak 100 MiB (planned 120 MiB, 20% too high)",
    ]


def test_readable_numbers() -> None:
    assert [memory.size(n) for n in (0, 1536, 5 * MIB, 3 * 2**30)] == ["0 B", "1.5 KiB", "5 MiB", "3 GiB"]
    assert [memory.count(n) for n in (7, 1500, 135_000_000, 7e9)] == ["7", "1.5 k", "135 M", "7 B"]


FAULTS = """
import resource, sys, torch
from rlhf.hardware.memory import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
for _ in range(20):  # only after some allocations the same place is reused
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Counts the page faults of a repeated allocation of 32 MiB."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(how: str, **variables: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, env=clean | variables, capture_output=True, check=True, text=True).stdout)

    assert faults("kept") < 100
    assert faults("given back") > 100


def test_garbage_is_freed_before_memory_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    class Left:
        pass

    returned = []
    monkeypatch.setattr(memory, "give_back", lambda: returned.append(gone() is None))
    left = Left()
    left.itself = left
    gone = weakref.ref(left)
    del left
    memory.release()
    assert returned == [True]


def test_malloc_variables_of_the_user_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not memory.keep_freed()
