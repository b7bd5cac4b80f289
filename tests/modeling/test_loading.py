import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.config import Input, Settings
from rlhf.data import templates
from rlhf.errors import LineageError, ModelError
from rlhf.modeling import loading
from rlhf.runs.parents import Parent, find_parent
from rlhf.stages import execute
from tests.conftest import composed


def plain_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "a", "b", "c"])}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def small() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=6,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Parent:
    small().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Parent("policy", str(folder), None)


def test_a_model_without_a_template_is_given_one(settings: Callable[..., Settings], tmp_path: Path) -> None:
    parent = save_model(tmp_path, plain_tokenizer(eos_token="</s>"))
    model = settings("sft", "model.chat_template=plain").model
    assert "User: " in loading.load_tokenizer(parent, model).chat_template
    with pytest.raises(ModelError, match="model.chat_template=nothing is neither a file nor one of almanac, plain"):
        templates.chat_template("nothing")


ENDING = "{% for m in messages %}{{ m['content'] + '<s>' }}{% endfor %}"


def test_of_several_templates_the_default_is_used_and_strings_are_turns(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    given = plain_tokenizer(eos_token="</s>", bos_token="<s>")
    given.chat_template = {"default": ENDING, "tool_use": "x"}
    tokenizer = loading.load_tokenizer(save_model(tmp_path, given), settings("sft", "model.chat_template=plain").model)
    assert tokenizer.chat_template == ENDING
    assert tokenizer.strings_are_turns


def test_the_stand_in_puts_no_strings_and_a_file_replaces_a_template(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    given = plain_tokenizer(eos_token="</s>", bos_token="<s>")
    parent = save_model(tmp_path / "bare", given)
    plain = settings("sft", "model.chat_template=plain").model
    assert not loading.load_tokenizer(parent, plain).strings_are_turns
    (tmp_path / "own.jinja").write_text(ENDING)
    given.chat_template = "another"
    file = settings("sft", f"model.chat_template={tmp_path}/own.jinja").model
    for place in (parent, save_model(tmp_path / "other", given)):
        tokenizer = loading.load_tokenizer(place, file)
        assert tokenizer.chat_template == ENDING
        assert tokenizer.strings_are_turns
    assert loading.load_tokenizer(place, plain).chat_template == "another"


def test_a_policy_ends_where_its_template_ends_a_turn(settings: Callable[..., Settings], tmp_path: Path) -> None:
    given = plain_tokenizer(eos_token="</s>", bos_token="<s>", pad_token="<unk>")
    given.add_special_tokens({"additional_special_tokens": ["<end>"]})
    given.chat_template = ENDING.replace("<s>", "<end>")
    policy = small()
    policy.generation_config.eos_token_id = [2, 4, 1]  # left of another vocabulary: a letter, and the beginning
    policy.save_pretrained(tmp_path)
    given.save_pretrained(tmp_path)
    parent, model = Parent("policy", str(tmp_path), None), settings("sft").model
    loaded = loading.load_policy(parent, model, loading.load_tokenizer(parent, model))
    assert loaded.generation_config.eos_token_id == [2, 6]
    loaded.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["eos_token_id"] == [2, 6]


def test_plain_template_by_hand() -> None:
    tokenizer = plain_tokenizer(eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = templates.chat_template("plain")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]
    prompt = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*talk, {"role": "assistant", "content": "b"}], tokenize=False)
    assert prompt == "<s>System: Be brief.\n\nUser: a?\n\nAssistant:"
    assert whole == prompt + " b</s>\n\n"


def test_a_tokenizer_that_was_changed_since_is_refused(
    chain: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(chain / "almanac" / "sft", tmp_path / "sft")
    (tmp_path / "sft" / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    parent = find_parent("policy", Input(str(tmp_path / "sft"), ("sft",)), settings("dpo"))
    with pytest.raises(LineageError, match="has another chat_template than"):
        loading.load_tokenizer(parent, settings("dpo").model)


@pytest.mark.parametrize("place", ["sft", "sft/model"], ids=["run", "folder"])
def test_a_new_head_starts_small(chain: Path, settings: Callable[..., Settings], place: str) -> None:
    """std 1/sqrt(h+1), here with h = 16; the sample's own standard deviation is within 60 % for 16 numbers."""
    parent = find_parent("policy", Input(f"{chain}/almanac/{place}", ("sft",)), settings("reward"))
    tokenizer = loading.load_tokenizer(parent, settings("reward").model)
    torch.manual_seed(0)
    reward = loading.load_reward_model(parent, settings("reward").model, tokenizer)
    assert reward.score.weight.shape == (1, 16)
    assert reward.score.weight.std().item() == pytest.approx(1 / math.sqrt(17), rel=0.6)
    assert reward.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_head_learns_in_half_precision(
    beside_chain: Callable[..., Settings], chain: Path, tmp_path: Path, adapter: str
) -> None:
    """At 1e-5, which bfloat16 rounds away in weights of 0.1; it is saved, loaded and merged as it was trained."""
    settings = beside_chain("reward", f"adapter={adapter}", "model.dtype=bfloat16", "stage.trainer.learning_rate=1e-5")
    execute(settings, tmp_path / "reward")
    [file] = (tmp_path / "reward" / "model").glob("*.safetensors")
    [head] = [value for name, value in load_file(file).items() if name.endswith("score.weight")]
    assert head.dtype is torch.float32
    torch.manual_seed(settings.seed)
    tokenizer = loading.load_tokenizer(Parent("policy", f"{chain}/almanac/sft/model", None), settings.model)
    start = loading.load_reward_model(Parent("policy", f"{chain}/almanac/sft/model", None), settings.model, tokenizer)
    assert start.dtype is torch.bfloat16
    assert start.score.weight.dtype is torch.float32
    assert 0 < (head - start.score.weight).abs().max() < 1e-4
    again = loading.load_reward_model(Parent("policy", f"{tmp_path}/reward/model", None), settings.model, tokenizer)
    assert torch.equal(again.score.weight, head)
    assert again(torch.tensor([[5, 6, 7]])).logits.dtype is torch.float32


@pytest.mark.parametrize("place", ["reward", "reward/model"], ids=["run", "folder"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_head_that_is_there_is_kept(
    beside_chain: Callable[..., Settings], tmp_path: Path, place: str, adapter: str
) -> None:
    settings = beside_chain("reward", f"adapter={adapter}")
    execute(settings, tmp_path / "reward")
    [file] = (tmp_path / "reward" / "model").glob("*.safetensors")
    [head] = [value for name, value in load_file(file).items() if name.endswith("score.weight")]
    parent = find_parent("policy", Input(f"{tmp_path}/{place}", ("reward",)), settings)
    tokenizer = loading.load_tokenizer(parent, settings.model)
    assert torch.equal(loading.load_reward_model(parent, settings.model, tokenizer).score.weight, head)


def test_a_file_that_is_not_a_model(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        loading.load_tokenizer(Parent("policy", str(tmp_path), None), settings("sft").model)


@pytest.mark.slow
def test_a_gguf_file(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    found = sorted(Path(os.environ.get("RLHF_TEST_MODELS", "/nowhere")).glob("**/*.gguf"))
    if not found:
        pytest.skip("RLHF_TEST_MODELS names no folder with a GGUF file")
    one = composed("stage=sft", "model=local", f"model.path={found[0]}")
    parent = find_parent("policy", Input(str(found[0]), ("base",)), one)
    tokenizer = loading.load_tokenizer(parent, one.model)
    policy = loading.load_policy(parent, one.model, tokenizer)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    answer = tokenizer.decode(policy.generate(**ids, max_new_tokens=5, do_sample=False)[0])
    assert "Paris" in answer
    loading.save(policy, tokenizer, tmp_path / "saved", parent)
    again = loading.load_policy(Parent("policy", str(tmp_path / "saved"), None), one.model, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))


def test_a_text_longer_than_the_model_reads_is_tokenized_without_a_warning(
    settings: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent = save_model(tmp_path, plain_tokenizer(eos_token="</s>", model_max_length=2))
    told = "sequence length is longer than"
    assert len(PreTrainedTokenizerFast.from_pretrained(parent.path)("a b c")["input_ids"]) == 3
    assert told in caplog.text  # what transformers says of it
    caplog.clear()
    assert len(loading.load_tokenizer(parent, settings("sft").model)("a b c")["input_ids"]) == 3
    assert told not in caplog.text
