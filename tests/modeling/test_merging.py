"""Means of weights, against the same sums by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from rlhf.errors import LineageError, ModelError
from rlhf.modeling.merging import merge, merge_adapters
from tests.ppo.conftest import new_policy, tokenizer  # noqa: F401 - a fixture

# ruff: noqa: F811


def saved(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_the_sum_is_in_float32_and_in_the_type_of_the_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = [torch.randn(3, 4).bfloat16() for _ in range(3)]
    ids = torch.arange(3)
    folders = [saved(tmp_path / str(i), w=value, ids=ids) for i, value in enumerate(values)]
    assert merge(folders, list("abc"), [0.5, 0.2, 0.3], tmp_path / "out") == 2
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = sum(share * value.float() for share, value in zip((0.5, 0.2, 0.3), values, strict=True))
    assert torch.equal(found["w"], expected.bfloat16())
    assert torch.equal(found["ids"], ids)


def test_shards_stay_shards(tmp_path: Path, tokenizer: Any) -> None:
    """And a model that is merged with itself is unchanged, to the last bit."""
    new_policy(tokenizer).save_pretrained(tmp_path / "a", max_shard_size="10KB")
    merge([tmp_path / "a"] * 2, ["a", "b"], [0.5, 0.5], tmp_path / "out")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert len(names) > 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for path in (tmp_path / "a").glob("*.safetensors"):
        found = load_file(tmp_path / "out" / path.name)
        assert all(torch.equal(found[name], value) for name, value in load_file(path).items())


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"w": torch.ones(2, 3)}, LineageError, r"b has other weights than a: w is \(2, 3\) instead of \(2, 2\)"),
        ({"w": torch.ones(2, 2), "v": torch.ones(1)}, LineageError, r"v is \(1,\) instead of missing"),
        ({"w": torch.full((2, 2), torch.inf)}, ModelError, "the merged w is not finite"),
    ],
)
def test_models_that_cannot_be_merged(tmp_path: Path, other: dict, error: type, message: str) -> None:
    folders = [saved(tmp_path / "a", w=torch.ones(2, 2)), saved(tmp_path / "b", **other)]
    with pytest.raises(error, match=message):
        merge(folders, ["a", "b"], [0.5, 0.5], tmp_path / "out")


def adapter(base: Any, folder: Path, seed: int, rank: int, modules: tuple[str, ...] = ("q_proj", "down_proj")) -> Path:
    config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=list(modules), task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config)
    torch.manual_seed(seed)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data.normal_(std=0.2)
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def products(base: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return what an adapter adds to each weight of its base, by peft's own merging."""
    before = {name: value.clone() for name, value in base.state_dict().items()}
    whole = PeftModel.from_pretrained(base, folder).merge_and_unload()
    after = {name: value - before[name] for name, value in whole.state_dict().items()}
    base.load_state_dict(before)
    return after


def test_an_adapter_of_all_ranks_is_exact_and_a_smaller_one_is_the_nearest(tmp_path: Path, tokenizer: Any) -> None:
    base = new_policy(tokenizer)
    folders = [adapter(base, tmp_path / str(rank), rank, rank) for rank in (2, 3)]
    parts, shares = [products(base, folder) for folder in folders], [0.7, -0.4]
    expected = {name: sum(s * part[name] for s, part in zip(shares, parts, strict=True)) for name in parts[0]}
    assert merge_adapters(folders, ["a", "b"], shares, 64, tmp_path / "exact") < 1e-6
    found = products(base, tmp_path / "exact")
    assert max((found[name] - value).abs().max() for name, value in expected.items()) < 1e-5
    assert expected["model.layers.0.self_attn.q_proj.weight"].abs().max() > 0.1
    error = merge_adapters(folders, ["a", "b"], shares, 2, tmp_path / "small")
    found = products(base, tmp_path / "small")
    lost = sum((found[name] - value).square().sum() for name, value in expected.items()).sqrt()
    whole = sum(value.square().sum() for value in expected.values()).sqrt()
    assert error == pytest.approx(float(lost / whole), rel=1e-3)
    assert 0.05 < error < 1
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        u, s, v = torch.linalg.svd(expected[name])
        assert torch.allclose(found[name], u[:, :2] * s[:2] @ v[:2], atol=1e-4)


def test_adapters_on_other_layers_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    base = new_policy(tokenizer)
    folders = [adapter(base, tmp_path / "a", 0, 2), adapter(base, tmp_path / "b", 1, 2, ("q_proj",))]
    with pytest.raises(LineageError, match="b is an adapter on other layers than a: set stage.rank=null"):
        merge_adapters(folders, ["a", "b"], [0.5, 0.5], 4, tmp_path / "out")
