"""Folders that somebody else wrote: they load and train a step, or one sentence says what is wrong."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

from rlhf.config import Settings
from rlhf.errors import ConfigError, LineageError, ModelError, RlhfError
from rlhf.modeling import bases, foreign, loading
from rlhf.modeling.generation import generate
from rlhf.runs.parents import Parent
from tests.conftest import composed
from tests.modeling.test_vocabulary import END, bytes_tokenizer, gpt2, llama, saved

PAD = "<|pad|>"
SETTINGS = ("stage=sft", "experiment=none", "model=local", "model.path=here", "hardware=cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "model"
    tokenizer = bytes_tokenizer(END, PAD, eos_token=END, pad_token=PAD)
    saved(folder, llama(len(tokenizer)), tokenizer)
    return folder


def load(folder: Path, *overrides: str) -> Any:
    """Load a model as a stage does: check the files first."""
    one, parent = composed(*SETTINGS, *overrides), Parent("policy", str(folder), None)
    loading.check(parent, one)
    tokenizer = loading.load_tokenizer(parent, one.model)
    return loading.load_policy(parent, one.model, tokenizer)


def changed(folder: Path, copy: Path, **values: Any) -> Path:
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return copy


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hidden_size": 48}, "by config.json it is"),
        ({"hidden_size": "32"}, "expected int, got str"),
        ({"hidden_act": "nothing"}, "KeyError: unknown key 'nothing'"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "requires gptqmodel"),
        ({"quantization_config": 3}, "cannot be loaded"),
        ({"num_hidden_layers": 3}, r"is not whole, its files lack model.layers.1.* and 17 other weights"),
        ({"num_hidden_layers": 0}, r"is not whole, config.json has no place for model.layers.0.* and 8 other weights"),
        ({"model_type": "none_such"}, "does not recognize this architecture"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(model: Path, tmp_path: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load(changed(model, tmp_path / "model", **values))


@pytest.mark.parametrize("text", ["[1]", "3", "null", "{", "{}", '"x"'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_another_kind_of_json(model: Path, tmp_path: Path, name: str, text: str) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / name).write_text(text)
    with pytest.raises(RlhfError):
        load(tmp_path / "model")


def test_a_download_that_was_cut_short(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="incomplete metadata, file not fully covered"):
        loading.check(Parent("policy", str(tmp_path / "model"), None), composed(*SETTINGS))
    weights.unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model" / foreign.INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="names model-00001-of-00002.safetensors, which is missing"):
        loading.check(Parent("policy", str(tmp_path / "model"), None), composed(*SETTINGS))


@pytest.mark.parametrize("asked", ["eager", "kernels-community/flash-attn", 5])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_is_ours(model: Path, tmp_path: Path, key: str, asked: Any) -> None:
    """A name with a slash would be code from the Hub."""
    policy = load(changed(model, tmp_path / "model", **{key: asked}))
    assert policy.config._attn_implementation == "sdpa"
    assert load(tmp_path / "model", "model.attention=eager").config._attn_implementation == "eager"


def test_a_tokenizer_without_an_end(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": None}))
    with pytest.raises(ModelError, match="without an end of sequence, so responses would never end: name one"):
        load(tmp_path / "model")


def adapter(folder: Path, base: Any) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": base}
    (folder / bases.ADAPTER).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("base", [None, 5, ["x"], "", {}])
def test_an_adapter_on_nothing(tmp_path: Path, base: Any) -> None:
    with pytest.raises(ModelError, match="in its adapter_config.json names no model"):
        load(adapter(tmp_path / "adapter", base))


def test_adapters_on_each_other(tmp_path: Path) -> None:
    adapter(tmp_path / "one", str(tmp_path / "two"))
    adapter(tmp_path / "two", str(tmp_path / "one"))
    with pytest.raises(ModelError, match="is an adapter on itself"):
        load(tmp_path / "two")


def test_an_adapter_as_peft_saves_it(model: Path, tmp_path: Path) -> None:
    """Without a tokenizer: it has that of its base. One for other layers is refused."""
    from peft import LoraConfig, get_peft_model

    policy = load(model)
    worn = get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    worn.peft_config["default"].base_model_name_or_path = str(model)
    worn.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(load(tmp_path / "adapter").eval()(ids).logits, worn(ids).logits)
    path = tmp_path / "adapter" / bases.ADAPTER
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["v_proj"]}))
    with pytest.raises(ModelError, match=r"is not an adapter on .*: only one of them has .*lora_A"):
        load(tmp_path / "adapter")


DAMAGED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")
VALUES = (None, True, 0, -1, 3, 1.5, float("nan"), "", "x", [], [1], {}, {"a": 1})


def damage(path: Path, draw: random.Random) -> None:
    """Delete, cut or overwrite a file, or give something in its JSON another value or none."""
    how = draw.choice(["delete", "cut", "overwrite", "value", "value", "value", "key"])
    if how == "delete":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    elif how == "overwrite" or path.suffix != ".json":
        content = bytearray(path.read_bytes())
        for _ in range(3):
            content[draw.randrange(min(len(content), 2000))] = draw.randrange(256)
        path.write_bytes(content)
    else:
        whole = json.loads(path.read_text())
        at = whole
        while (inner := [one for one in at.values() if isinstance(one, dict) and one]) and draw.random() < 0.5:
            at = draw.choice(inner)
        key = draw.choice(list(at))
        if how == "key":
            del at[key]
        else:
            at[key] = draw.choice(VALUES)
        path.write_text(json.dumps(whole))


def survives(folder: Path) -> bool:
    """Return whether the model loads and makes a training step; False after a one-line error. Raise anything else."""
    told = ""
    try:
        policy = load(folder)
    except RlhfError as error:
        told = str(error)
    if told:
        assert "\n" not in told
        return False
    loss = policy(input_ids=torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]])).loss
    loss.backward()
    torch.optim.SGD(policy.parameters(), 1e-3).step()
    return True


@pytest.mark.filterwarnings("ignore")
@given(name=st.sampled_from(DAMAGED), seed=st.integers(0, 10**9))
@examples(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_damage_is_reported_or_harmless(
    model: Path, tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    copy = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(model, copy)
    damage(copy / name, random.Random(seed))
    survives(copy)


def short(tmp_path: Path) -> Parent:
    tokenizer = bytes_tokenizer(END, PAD, eos_token=END, pad_token=PAD)
    return saved(tmp_path / "short", gpt2(len(tokenizer)), tokenizer)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        (["sft"], r"stage.trainer.max_length=1024 and stage.sample_length=128 is more than the 64 positions of policy"),
        (["sft", "stage.trainer.max_length=null", "stage.sample_length=8"], r"^stage.trainer.max_length=None is more"),
        (["reward", "stage.sample_length=8"], r"^stage.trainer.max_length=1024 is more"),
        (
            ["dpo", "stage.trainer.max_length=64", "stage.sample_length=8"],
            r"^eval_set.max_prompt_length=512 \+ eval_set",
        ),
        (["base", "stage.block_length=65", "stage.sample_length=8"], r"^stage.block_length=65 is more than the 64"),
        (["sample", "stage.max_prompt_length=60"], r"^stage.max_prompt_length=60 \+ stage.max_response_length=128 is"),
        (["ppo", "eval_set.prompts=0", "stage.sample_length=63"], r"^stage.max_prompt_length=512 \+ stage.max_resp"),
    ],
    ids=lambda one: one[0],
)
def test_positions_that_run_out_are_reported_before_training(tmp_path: Path, stage: list[str], told: str) -> None:
    one = composed(f"stage={stage[0]}", *stage[1:], *SETTINGS[1:])
    with pytest.raises(ConfigError, match=told):
        loading.check(short(tmp_path), one)


def test_a_title_of_the_comparison_is_looked_at(tmp_path: Path) -> None:
    parent = Parent("mine", short(tmp_path).path, None)
    one = composed("stage=compare", "stage.models={mine: x}", "stage.reference=mine", *SETTINGS[1:])
    with pytest.raises(ConfigError, match="is more than the 64 positions of mine="):
        loading.check(parent, one)


def test_as_many_positions_as_there_are(tmp_path: Path, model: Path) -> None:
    lengths = ("stage.trainer.max_length=64", "stage.sample_length=63")
    loading.check(short(tmp_path), composed(*SETTINGS, *lengths))
    loading.check(Parent("policy", str(model), None), composed(*SETTINGS))  # rotary: computed


def test_a_prompt_is_cut_to_the_positions_that_are_left(tmp_path: Path) -> None:
    policy = load(short(tmp_path).directory, "stage.trainer.max_length=64", "stage.sample_length=63")
    tokenizer = bytes_tokenizer(END, PAD, eos_token=END, pad_token=PAD)
    options = {"max_response_length": 24, "temperature": 0.0, "seed": 0, "batch_size": 1}
    long = "How tall is the oak of which we have spoken already? " * 3
    [cut] = generate(policy, tokenizer, [long], max_prompt_length=None, **options)
    [same] = generate(policy, tokenizer, [long[-40:]], max_prompt_length=None, **options)
    assert cut.ids == same.ids


def test_positions_of_other_families() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    roberta = RobertaConfig(vocab_size=9, max_position_embeddings=34, pad_token_id=1, **sizes)
    assert foreign.positions(RobertaForSequenceClassification(roberta)) == 32  # it counts from its padding
    assert foreign.positions(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=7, n_embd=4, n_head=2))) == 7
    assert foreign.positions(llama(9)) is None


def test_a_full_disk_stays_one(settings: Callable[..., Settings]) -> None:
    with pytest.raises(OSError, match="No space left"), foreign.reading(Parent("policy", "x", None)):
        raise OSError(28, "No space left on device")
    with pytest.raises(LineageError, match="as it was"), foreign.reading(Parent("policy", "x", None)):
        raise LineageError("as it was")
