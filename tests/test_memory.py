"""What models take: the formulas against tensors that are really kept, and a meter against memory really taken."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from rlhf import memory
from rlhf.memory import Line, Measured, Meter, Plan, Shape, adam, cache, kept, vocabulary_wide

MIB = 2**20


def llama(layers: int = 2, hidden: int = 64, inner: int = 192, keys: int = 4) -> LlamaForCausalLM:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": keys}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes, **heads)).eval()


def really_kept(model: Any, rows: int, length: int) -> int:
    """Bytes of the tensors that autograd holds on to, parameters aside."""
    parameters = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, 50, (rows, length))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=1)
    assert output.logits.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("rank", [None, 2, 16], ids=["whole", "rank 2", "rank 16"])
@pytest.mark.parametrize(("hidden", "inner", "keys"), [(64, 192, 4), (64, 192, 2), (64, 384, 4), (128, 192, 4)])
def test_what_layers_keep_is_what_autograd_holds(rank: int | None, hidden: int, inner: int, keys: int) -> None:
    """Two layers more keep what the formula says of two layers: what is outside of the layers cancels."""
    found = []
    for layers in (2, 4):
        model = llama(layers, hidden, inner, keys)
        shape = Shape.of(model.config)
        if rank is not None:
            model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
        found.append((really_kept(model, 3, 40), kept(shape, 3 * 40, 4, rank)))
    (few, planned_few), (many, planned_many) = found
    assert many - few == pytest.approx(planned_many - planned_few, rel=0.01)


def test_a_cache_is_what_transformers_keeps() -> None:
    model = llama(keys=2)
    ids = torch.randint(0, 50, (3, 20))
    with torch.no_grad():
        layers = model(ids, use_cache=True).past_key_values.layers
    held = sum(tensor.untyped_storage().nbytes() for layer in layers for tensor in (layer.keys, layer.values))
    shape = Shape.of(model.config)
    assert held == cache(shape, 3, 20, 4) - held // 2  # the formula has one layer more, in the making


def test_adam_keeps_two_moments() -> None:
    layer = torch.nn.Linear(30, 20, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    [state] = optimizer.state.values()
    assert sum(value.nbytes for value in state.values() if value.dim()) == adam(600, 4)


def test_logits_are_float32_whatever_the_model_is() -> None:
    assert vocabulary_wide(Shape(1, 1, 1, 1, 1, 1000), 7, 2) == 7 * 1000 * 2 * 4


def test_shapes_of_other_architectures() -> None:
    assert Shape.of(GPT2Config(n_embd=24, n_layer=3, n_head=2, vocab_size=9)) == Shape(3, 24, 96, 2, 24, 9)
    text = SimpleNamespace(hidden_size=8, num_hidden_layers=2, vocab_size=5, state_size=4)  # without attention
    config = SimpleNamespace(get_text_config=lambda: text)
    assert Shape.of(config) == Shape(2, 8, 32, 0, 0, 5)


def line(role: str, weights: int, activations: int, trained: int = 0) -> Line:
    return Line(role, weights // 4, trained, "float32", weights, trained * 4, trained * 8, activations)


def test_the_peak_has_the_activations_of_one_role_at_a_time() -> None:
    """100 + 40 + 3 trained parameters of 12 bytes stay; 70 is the most that works at once."""
    plan = Plan([line("policy", 100, 70, trained=3), line("reference", 40, 60)])
    assert plan.peak == 100 + 40 + 36 + 70
    record = plan.record()
    assert record["planned"] == 246
    assert record["roles"]["policy"]["optimizer"] == 24


def test_the_peak_may_be_reached_while_weights_are_read() -> None:
    """100 and 40 are loaded, and 100 pages of the larger file are mapped; at work it is 140 and 30."""
    lines = [line("policy", 100, 30), line("reference", 40, 20)]
    assert Plan(lines).peak == 170
    assert Plan(lines, reads=True).peak == 240


def test_a_meter_measures_what_is_taken_since_it_was_made() -> None:
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


def test_where_peaks_are_not_forgotten_the_measure_is_a_bound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("rlhf.memory.Path.write_text", refuse)
    measured = Meter(torch.device("cpu")).read()
    assert not measured.exact
    memory.compare("ppo", Plan([line("policy", 100, 70)]), measured)
    assert "measured at most" in capsys.readouterr().out


def test_the_deviation_is_told_and_recorded(capsys: pytest.CaptureFixture) -> None:
    plan = Plan([line("policy", 90 * MIB, 30 * MIB)])
    found = memory.compare("ppo", plan, Measured("cpu", 5, 100 * MIB, True))
    assert capsys.readouterr().out == "ppo: 100 MiB measured, 120 MiB planned: +20%\n"
    assert found["deviation"] == 0.2
    assert found["planned"] == 120 * MIB
    assert found["measured"] == {"device": "cpu", "before": 5, "peak": 100 * MIB, "exact": True}


def test_the_table_says_what_is_too_much(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan([line("policy", 2 * 2**30, 70 * MIB, trained=1000), line("reference", 2**30, 80 * MIB)])
    show: Callable[[], None] = lambda: memory.show("ppo", plan, torch.device("cpu"))  # noqa: E731
    monkeypatch.setattr("rlhf.memory.available", lambda device: 4 * 2**30)
    monkeypatch.setattr("rlhf.progress.console.width", 140, raising=False)
    show()
    shown = capsys.readouterr().out
    assert "together" in shown
    assert "ppo: 3.08 GiB at the peak beside 4 GiB free on this machine\n" in shown
    monkeypatch.setattr("rlhf.memory.available", lambda device: 2**30)
    show()
    assert "which is too much: lower stage.micro_batch_tokens" in capsys.readouterr().out


def test_numbers_as_a_person_reads_them() -> None:
    assert [memory.size(n) for n in (0, 1536, 5 * MIB, 3 * 2**30)] == ["0 B", "1.5 KiB", "5 MiB", "3 GiB"]
    assert [memory.count(n) for n in (7, 1500, 135_000_000, 7e9)] == ["7", "1.5 k", "135 M", "7 B"]
