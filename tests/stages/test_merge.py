import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config import Settings
from rlhf.errors import ConfigError, LineageError
from rlhf.modeling import loading
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.manifest import read_manifest

Configure = Callable[..., Settings]


def weights(directory: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(directory / "model" / f"{name}.safetensors")


def loaded(directory: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """Return the weights of a run as a later stage loads them, with its adapters merged."""
    parent = Parent("policy", str(directory), read_manifest(directory))
    tokenizer = loading.load_tokenizer(parent, settings.model)
    return loading.load_policy(parent, settings.model, tokenizer).state_dict()


def test_a_mean_and_a_task_vector_with_their_lineage(beside_chain: Configure, chain: Path, tmp_path: Path) -> None:
    sft, base = chain / "almanac" / "sft", chain / "almanac" / "base"
    execute(beside_chain("merge", f"stage.models=[{base},{sft}]", "stage.weights=[0.25,0.75]"), tmp_path / "mean")
    start, end = weights(base), weights(sft)
    for name, value in weights(tmp_path / "mean").items():
        assert torch.allclose(value, 0.25 * start[name] + 0.75 * end[name], atol=1e-7)
    run = Run.open(tmp_path / "mean")
    assert {role: record["path"] for role, record in run.manifest["parents"].items()} == {
        "models.0": str(base), "models.1": str(sft),
    }  # fmt: skip
    assert run.manifest["metrics"]["models"] == 2
    assert not (tmp_path / "mean" / "resume").exists()
    negated = (f"stage.policy={base}", f"stage.models=[{sft}]", "stage.weights=[-0.5]")
    execute(beside_chain("merge", *negated), tmp_path / "negated")
    for name, value in weights(tmp_path / "negated").items():
        assert torch.allclose(value, 1.5 * start[name] - 0.5 * end[name], atol=1e-6)
    execute(beside_chain("sample", f"stage.policy={tmp_path}/mean"), tmp_path / "sample")  # it can be used as any run
    content = run.manifest["content"]
    assert content["stage.weights"] == [0.25, 0.75]
    assert not [key for key, value in content.items() if str(chain) in json.dumps(value)]


def test_adapters_become_whole_weights_or_one_adapter(beside_chain: Configure, chain: Path, tmp_path: Path) -> None:
    """An adapter of rank 32 has room for both of rank 16, and one of rank 4 has not."""
    sft = chain / "almanac" / "sft"
    for seed in (0, 1):
        options = ("adapter=lora", f"seed={seed}", "stage.trainer.learning_rate=0.05", "eval_set.prompts=0")
        execute(beside_chain("dpo", *options), tmp_path / "dpo" / str(seed))
    start, one, other = (loaded(path, beside_chain("merge")) for path in (sft, tmp_path / "dpo/0", tmp_path / "dpo/1"))
    assert max((value - other[name]).abs().max().item() for name, value in one.items()) > 0.01
    errors = {}
    for rank in ("null", 4, 32):
        vectors = (f"stage.policy={sft}", f"stage.models=[{tmp_path}/dpo]", "stage.weights=[1,0.5]")
        given = beside_chain("merge", *vectors, f"stage.rank={rank}")
        place = tmp_path / f"merge-{rank}"
        errors[rank] = execute(given, place).get("error")
        found = loaded(place, given)
        far = [one[name] + (other[name] - start[name]) / 2 - value for name, value in found.items()]
        assert (max(x.abs().max().item() for x in far) < 1e-5) == (rank != 4)
        assert (place / "model" / "adapter_model.safetensors").exists() == (rank != "null")
    assert errors["null"] is None
    assert errors[32] < 1e-5 < errors[4]


def test_models_that_cannot_be_merged_leave_nothing(beside_chain: Configure, chain: Path, tmp_path: Path) -> None:
    sft, reward = chain / "almanac" / "sft", chain / "almanac" / "reward"
    with pytest.raises(LineageError, match="is a run of stage=reward, and stage=merge starts from one of base, sft"):
        execute(beside_chain("merge", f"stage.models=[{sft},{reward}]"), tmp_path / "merge")
    with pytest.raises(LineageError, match="is not an adapter on stage.policy=.*: set stage.rank=null"):
        execute(
            beside_chain("merge", f"stage.policy={sft}", f"stage.models=[{sft}]", "stage.rank=4"), tmp_path / "merge"
        )
    with pytest.raises(ConfigError, match="stage.models must name 2 or more"):
        execute(beside_chain("merge", f"stage.models=[{tmp_path}/nowhere/*]"), tmp_path / "merge")
    assert not list(tmp_path.iterdir())


def test_a_merge_runs_in_one_process(
    beside_chain: Configure, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of several processes, which later stages of the chain need, are not refused."""
    monkeypatch.setattr("rlhf.hardware.launch.start", None)
    models = f"stage.models=[{chain}/almanac/base,{chain}/almanac/sft]"
    execute(beside_chain("merge", models, "hardware.strategy=ddp", "hardware.processes=2"), tmp_path / "merge")
    assert Run.open(tmp_path / "merge").manifest["hardware"]["processes"] == 1
