import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.config import Settings
from rlhf.errors import ConfigError, ModelError
from rlhf.publishing import gguf_weights
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides
from tests.test_families import FAMILIES, made

GGUF = "an extra: pip install 'rlhf[gguf]'"


@pytest.fixture
def export(chain: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs an export and returns its directory."""

    def of(stage: str, *overrides: str) -> Path:
        run = f"stage.run={chain}/almanac/{stage}"
        execute(composed(*tiny_overrides("export", tmp_path), run, *overrides), tmp_path / "export")
        return tmp_path / "export"

    return of


def certificate(place: Path) -> dict[str, Any]:
    return json.loads((place / "certificate.json").read_text())


def test_merged_weights_are_those_of_the_run(
    export: Callable[..., Path], chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    tuned = tmp_path / "dpo"
    execute(beside_chain("dpo", "adapter=lora", "eval_set.prompts=0"), tuned)
    place = export("sft", f"stage.run={tuned}")
    merged = AutoModelForCausalLM.from_pretrained(place / "model")
    assert not list((place / "model").glob("adapter*"))
    base = AutoModelForCausalLM.from_pretrained(chain / "almanac" / "sft" / "model")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged.get_parameter(name), base.get_parameter(name))
    found = certificate(place)
    reader = found["readers"]["transformers"]
    assert (reader["kl_mean"], reader["same_token"], reader["same_answer"]) == (0.0, 1.0, 1.0)
    assert found["weights"] == Run.open(tuned).manifest["weights"]
    assert "| transformers |" in (place / "README.md").read_text()
    run = Run.open(place)
    assert run.manifest["metrics"] == {"kl_per_token": 0.0, "same_answer": 1.0}
    assert run.manifest["parents"]["run"]["stage"] == "dpo"
    assert str(tmp_path) not in (place / "model" / "tokenizer_config.json").read_text()


def test_a_reward_model_is_exported_with_its_head_and_only_merged(export: Callable[..., Path], chain: Path) -> None:
    for name in ("gguf", "ollama"):
        with pytest.raises(ConfigError, match=f"stage.format={name} has no place for the head of a reward model"):
            export("reward", f"stage.format={name}")
    place = export("reward")
    found = AutoModelForSequenceClassification.from_pretrained(place / "model")
    own = AutoModelForSequenceClassification.from_pretrained(chain / "almanac" / "reward" / "model")
    assert torch.equal(found.score.weight, own.score.weight)
    assert found.config.score_std > 0
    assert certificate(place)["scores"]["largest_difference"] == 0


def test_a_gguf_file_for_ollama_is_read_back(export: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("gguf", reason=GGUF)
    place = export("sft", "stage.format=ollama", "stage.quantization=f32")
    assert {path.name for path in place.iterdir()} >= {"almanac-sft-f32.gguf", "Modelfile", "README.md", "run.json"}
    assert (place / "Modelfile").read_text().startswith("FROM ./almanac-sft-f32.gguf\nTEMPLATE ")
    found = certificate(place)
    assert 0 <= found["readers"]["transformers"]["kl_mean"] < 1e-9
    assert found["readers"]["transformers"]["same_answer"] == 1
    assert (found["precision"], found["limit"], found["file"]) == ("f32", 1e-6, "almanac-sft-f32.gguf")
    assert Run.open(place).manifest["output"] == found["sha256"]
    assert "KL per token" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_gpt2_and_pythia_are_read_back(export: Callable[..., Path], tmp_path: Path, family: str) -> None:
    pytest.importorskip("gguf", reason=GGUF)
    found = FAMILIES[family]
    sizes = found.config | ({"n_positions": 1024} if family == "gpt2" else {})
    model = made(found._replace(config=sizes), tmp_path / "foreign")
    place = export("sft", f"stage.run={model}", "stage.format=gguf", "stage.quantization=f16")
    readers = certificate(place)["readers"]
    assert readers["transformers" if family == "gpt2" else "gguf"]["kl_mean"] < 1e-4
    assert [path.name for path in place.glob("*.gguf")] == ["foreign-f16.gguf"]


def test_another_model_is_refused_and_nothing_is_written(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason=GGUF)
    weights = gguf_weights.named_weights
    monkeypatch.setattr(
        gguf_weights, "named_weights", lambda model: ((name, value.flip(0)) for name, value in weights(model))
    )
    with pytest.raises(ModelError, match="exported as f32 and read by transformers, is another model: its KL"):
        export("sft", "stage.format=gguf", "stage.quantization=f32")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name]


def test_a_format_that_is_not_written_names_another(export: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="stage.format=onnx is not written here: set stage.format=merged and convert"):
        export("sft", "stage.format=onnx")


def test_an_adapter_is_exported_for_the_file_of_its_base(
    export: Callable[..., Path], chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason=GGUF)
    tuned = tmp_path / "dpo"
    execute(beside_chain("dpo", "adapter=lora", "eval_set.prompts=0", "stage.trainer.learning_rate=0.05"), tuned)
    options = ("stage.format=gguf", "stage.weights=adapter", "stage.quantization=f32")
    place = export("sft", f"stage.run={tuned}", *options)
    assert [path.name for path in place.glob("*.gguf")] == ["almanac-dpo-lora-f32.gguf"]
    found = certificate(place)
    assert 0 <= found["readers"]["transformers"]["kl_mean"] < 1e-9
    assert Run.open(place).manifest["output"] == found["sha256"]
    card = (place / "README.md").read_text()
    assert "`llama-cli -m BASE.gguf --lora almanac-dpo-lora-f32.gguf`" in card
    assert f"stage.run={chain}/almanac/sft" in card
    with pytest.raises(ConfigError, match="stage.weights=adapter needs an adapter, and stage.run=.* has whole weights"):
        export("sft", *options, "overwrite=true")
    with pytest.raises(ConfigError, match="stage.weights=adapter is written as stage.format=gguf, not as ollama"):
        export("sft", "stage.format=ollama", "stage.weights=adapter")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0"])
def test_llama_cpp_reads_the_same_model(export: Callable[..., Path], quantization: str) -> None:
    """On SmolLM2-135M if RLHF_TEST_MODELS has it, else on the tiny chain's model."""
    pytest.importorskip("gguf", reason=GGUF)
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    real = Path(os.environ.get("RLHF_TEST_MODELS", "/nowhere")) / "SmolLM2-135M-Instruct"
    more = [f"stage.run={real}", "stage.max_response_length=24"] if real.is_dir() else []
    place = export("sft", "stage.format=gguf", f"stage.quantization={quantization}", "stage.prompts=4", *more)
    found = certificate(place)
    assert found["readers"]["llama.cpp"]["kl_mean"] <= found["limit"]
    [file] = place.glob("*.gguf")
    llama = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    assert llama.tokenize(b" Which tree? It's 1234\n\n  tall.", add_bos=False)
