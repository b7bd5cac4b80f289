from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf import models
from rlhf.config import Input, Settings
from rlhf.errors import DataError
from rlhf.parents import find_parent
from rlhf.run import Run
from rlhf.stages import execute


def test_it_records_where_it_comes_from(chain: Path) -> None:
    base, sft = Run.open(chain / "almanac" / "base"), Run.open(chain / "almanac" / "sft")
    assert sft.manifest["parents"]["policy"]["digest"] == base.manifest["weights"]
    assert sft.manifest["tokenizer"] == base.manifest["tokenizer"]
    assert sft.manifest["weights"] != base.manifest["weights"]
    assert (sft.directory / "samples.jsonl").exists()


def test_lora_saves_the_adapter_alone_and_loads_merged(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = beside_chain("sft", "adapter=lora", "adapter.dropout=0.0", "stage.trainer.learning_rate=0.1")
    execute(settings, tmp_path / "sft")
    run = Run.open(tmp_path / "sft")
    assert {path.name for path in run.model.glob("*.safetensors")} == {"adapter_model.safetensors"}
    parent = find_parent("policy", Input(str(tmp_path / "sft"), ("sft",)), settings)
    tokenizer = models.load_tokenizer(parent, settings.model)
    merged = models.load_policy(parent, settings.model, tokenizer)
    base = AutoModelForCausalLM.from_pretrained(chain / "almanac" / "base" / "model")
    ids = torch.tensor([tokenizer("Which city is the capital of Peru?")["input_ids"]])
    assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-3)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_text_of_the_prompt_costs_nothing(chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """The loss counts completions alone: the labels of the prompt are -100."""
    from trl import SFTConfig, SFTTrainer

    from rlhf import training
    from rlhf.data import load

    settings = beside_chain("sft")
    parent = find_parent("policy", Input(f"{chain}/almanac/base", ("base",)), settings)
    tokenizer = models.load_tokenizer(parent, settings.model)
    run = Run.start(tmp_path / "sft", settings)
    rows = load(settings.data, "demonstrations", "train", 0).select_columns(["prompt", "completion"])
    trainer = SFTTrainer(
        model=models.load_policy(parent, settings.model, tokenizer),
        args=training.arguments(SFTConfig, settings, run, completion_only_loss=True),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        answer = tokenizer.decode(ids[labels != -100])
        assert answer.endswith("<|end|>")
        assert "<|user|>" not in answer
        assert "<|assistant|>" not in answer
    run.finish({})


def test_an_invalid_row_is_named(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        execute(beside_chain("sft", f"data.path={bad}"), tmp_path / "sft")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_an_empty_file_is_named(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        execute(beside_chain("sft", f"data.path={empty}"), tmp_path / "sft")
