import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config import Dtype, Weights
from rlhf.errors import HubError, LineageError
from rlhf.publishing import bundle
from rlhf.publishing.bundle import Bundle
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber

Build = Callable[..., Bundle]


def test_the_same_run_is_the_same_bytes(build: Build) -> None:
    one, two = build("ppo"), build("ppo")
    assert list(one.files) == list(two.files)
    for name in one.files:
        assert one.files[name].read_bytes() == two.files[name].read_bytes(), name
    assert one.tag == two.tag == f"run-{one.link.digest[:8]}"


def test_another_dtype_rounds_the_weights_alone(chain_of: Callable[[str], list[Link]], plan: Callable) -> None:
    """A model read from the published file has rotary frequencies in float32, whatever the dtype of its weights."""
    *above, link = chain_of("dpo")
    _, model = bundle.load(link, plan(above, dtype=Dtype.bfloat16))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {name: buffer.dtype for name, buffer in model.named_buffers()} == {
        "model.rotary_emb.inv_freq": torch.float32,
        "model.rotary_emb.original_inv_freq": torch.float32,
    }


def test_other_files_are_not_published(
    chain_of: Callable[[str], list[Link]], plan: Callable, aligned: Path, tmp_path: Path
) -> None:
    """Run code when unpickled, as training arguments with a token or an optimizer's state could."""
    shutil.copytree(aligned / "almanac" / "sft", tmp_path / "sft")
    for name in ("training_args.bin", "optimizer.pt", ".env", "notes.txt"):
        (tmp_path / "sft" / "model" / name).write_text("private")
    *above, link = chain_of("sft")
    (tmp_path / "out").mkdir()
    made = bundle.build(replace(link, directory=tmp_path / "sft"), None, "sft", tmp_path / "out", plan(above))
    assert not {"training_args.bin", "optimizer.pt", ".env", "notes.txt", "metrics.jsonl"} & made.files.keys()
    assert all(b"private" not in path.read_bytes() for path in made.files.values())


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "model.pkl", "code.py", "evaluation/responses.jsonl"]
)
def test_a_file_of_another_kind_stops_everything(build: Build, name: str) -> None:
    made = build("sft")
    (made.folder / name).parent.mkdir(exist_ok=True)
    (made.folder / name).write_text("x")
    with pytest.raises(HubError, match=f"{name} is not a kind of file to publish; nothing is sent"):
        bundle.check(made, Scrubber({}, (), ""))


def test_a_reward_model_takes_its_statistics_along(build: Build, chain_of: Callable[[str], list[Link]]) -> None:
    config = json.loads(build("reward").files["config.json"].read_text())
    metrics = chain_of("reward")[-1].metrics
    assert (config["score_mean"], config["score_std"]) == (metrics["scores/mean"], metrics["scores/std"])
    assert config["architectures"] == ["LlamaForSequenceClassification"]


def test_run_json_says_nothing_of_this_machine(build: Build, aligned: Path, tmp_path: Path) -> None:
    made = build("ppo")
    text = made.files["run.json"].read_text()
    assert str(aligned) not in text
    assert str(tmp_path) not in text
    manifest = json.loads(text)
    assert manifest["parents"]["reward"]["path"] == "almanac/reward"
    assert manifest["settings"]["checkpoints"] == "checkpoints"
    assert manifest["trained_weights"] == manifest["weights"]


def test_every_weight_was_trained_so_there_is_no_adapter(build: Build) -> None:
    with pytest.raises(LineageError, match="trained every weight and has no adapter: set stage.weights=merged"):
        build("ppo", weights=Weights.adapter)
