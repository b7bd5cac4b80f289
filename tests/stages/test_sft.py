import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from rlhf.config import Input, Settings
from rlhf.data import load
from rlhf.data.tokens import Form
from rlhf.errors import ConfigError, DataError
from rlhf.modeling import loading
from rlhf.runs.parents import find_parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.training import loop
from rlhf.training.arguments import arguments


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
    tokenizer = loading.load_tokenizer(parent, settings.model)
    merged = loading.load_policy(parent, settings.model, tokenizer)
    base = AutoModelForCausalLM.from_pretrained(chain / "almanac" / "base" / "model")
    ids = torch.tensor([tokenizer("Which city is the capital of Peru?")["input_ids"]])
    assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-3)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_text_of_the_prompt_costs_nothing(chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    """Only completions count in the loss: the labels of the prompt are -100."""
    settings = beside_chain("sft")
    parent = find_parent("policy", Input(f"{chain}/almanac/base", ("base",)), settings)
    tokenizer = loading.load_tokenizer(parent, settings.model)
    run = Run.start(tmp_path / "sft", settings)
    rows = load(settings.data, "demonstrations", "train", 0).select_columns(["prompt", "completion"])
    trainer = SFTTrainer(
        model=loading.load_policy(parent, settings.model, tokenizer),
        args=arguments(SFTConfig, settings, run, completion_only_loss=True),
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


def test_rows_that_trl_cuts_or_leaves_out_are_counted(
    beside_chain: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Rows equal TRL's: in length if nothing is cut, in number if the limit is 36 tokens."""
    prepared = {}
    train = loop.train

    def spy(trainer: SFTTrainer, run: Run, *rest) -> dict[str, float]:
        prepared[run.directory.name] = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
        return train(trainer, run, *rest)

    monkeypatch.setattr(loop, "train", spy)
    for longest in ("null", "36"):
        execute(beside_chain("sft", f"stage.trainer.max_length={longest}"), tmp_path / longest)
    recorded = {name: Run.open(tmp_path / name).manifest["data"]["demonstrations"] for name in prepared}
    lost = omissions(recorded["36"]["train"])[1]
    told = f"{lost} of 24 rows of demonstrations/train: prompt fills stage.trainer.max_length=36, left out"
    assert told in capsys.readouterr().out
    for split in ("train", "validation"):
        long = sum(len(ids) > 36 for ids in prepared["null"][split]["input_ids"])
        left_out = 24 - len(prepared["36"][split])
        assert 0 < left_out < long < 24
        assert omissions(recorded["36"][split]) == (long - left_out, left_out)
        assert omissions(recorded["null"][split]) == (0, 0)


def omissions(record: dict[str, int]) -> tuple[int, int]:
    return record["longer than max_length, cut"], record["prompt fills max_length, left out"]


def test_a_length_that_leaves_no_row_is_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    message = r"every prompt of data.demonstrations \(train\) is at least as long as .*max_length=3: raise it"
    with pytest.raises(DataError, match=message):
        execute(beside_chain("sft", "stage.trainer.max_length=3"), tmp_path / "sft")


@pytest.mark.parametrize(("strategy", "cut"), [("bfd", True), ("wrapped", False)])
def test_rows_that_are_joined_before_they_are_cut_are_not_counted(
    beside_chain: Callable[..., Settings], tmp_path: Path, strategy: str, cut: bool
) -> None:
    settings = beside_chain("sft", "stage.trainer.max_length=36")
    tokenizer = loading.load_tokenizer(
        find_parent("policy", settings.stage.inputs()["policy"], settings), settings.model
    )
    rows = {"train": load(settings.data, "demonstrations", "train", 0)}
    run = Run.start(tmp_path / "sft", settings)
    run.record_data("demonstrations", "train", rows["train"])
    args = SimpleNamespace(packing=True, packing_strategy=strategy, max_length=36)
    loop.tokenized(run, settings, rows, Form.completions, tokenizer, args)
    assert (omissions(run.manifest["data"]["demonstrations"]["train"]) != (0, 0)) is cut
    run.finish({})


@pytest.mark.parametrize(("render", "chats"), [("auto", True), ("text", False)])
def test_strings_are_put_as_the_settings_say_and_the_saved_template_is_that_of_training(
    beside_chain: Callable[..., Settings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    render: str,
    chats: bool,
) -> None:
    path = tmp_path / "strings.jsonl"
    rows = [{"prompt": f"What is {n}?", "completion": f" It is {n}."} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    execute(beside_chain("sft", f"data.path={path}", f"data.render={render}"), tmp_path / "sft")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "sft" / "model")
    assert (tokenizer.chat_template is not None) is chats
    said = "each string prompt is one user message" if chats else "prompts are plain text, and the saved model has no"
    assert f"sft: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["assistant_only_loss", "completion_only_loss"])
def test_trl_has_no_say_in_which_turns_are_learned(
    beside_chain: Callable[..., Settings], tmp_path: Path, key: str
) -> None:
    message = f"stage.trainer.{key}=True is not used, since stage.turns=all trains on every turn .*: remove it"
    with pytest.raises(ConfigError, match=message):
        execute(beside_chain("sft", f"+stage.trainer.{key}=true"), tmp_path / "sft")


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
