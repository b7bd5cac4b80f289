import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import chat
from rlhf.data.templates import chat_template
from rlhf.modeling.from_scratch import new_tokenizer


def test_the_answers_are_the_same_and_both_sides_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    tokenizer = new_tokenizer(["The old oak by the river is taller than the elm."] * 9, 300, chat_template("almanac"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(chat, "RESULT", tmp_path / "chat.json")
    words = ["--rounds", "1", "--models", str(tmp_path / "tiny"), "--prompts", "24", "--tokens", "4"]
    monkeypatch.setattr("sys.argv", ["chat", *words])
    chat.main()
    [row] = json.loads((tmp_path / "chat.json").read_text())["rows"]
    assert (row["model"], row["prompt"], row["tokens"], row["rounds"]) == ("tiny", 24, 4, 1)
    assert all(side["first_seconds"] > 0 for side in row["sides"].values())
    assert "\n".join(chat.table([row])) in capsys.readouterr().out
