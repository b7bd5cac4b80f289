"""The local server stores the uploads of the real client and fails on request; the other tests rely on this."""

from pathlib import Path

import datasets
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoModelForCausalLM

from tests.hub.server import Hub


def test_small_files_and_weights_come_back(hub: Hub, chain: Path, tmp_path: Path) -> None:
    api, folder = HfApi(), chain / "almanac" / "sft" / "model"
    api.create_repo("alice/tiny", private=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("alice/tiny")
    api.create_repo("alice/tiny", exist_ok=True)
    commit = api.upload_folder(repo_id="alice/tiny", folder_path=folder).oid
    assert len(hub.blobs) == 1  # the weights, through LFS
    api.create_tag("alice/tiny", tag="v1", revision=commit)
    api.create_branch("alice/tiny", branch="b", revision="v1")
    assert {one.name for one in api.list_repo_refs("alice/tiny").branches} == {"main", "b"}
    found = Path(snapshot_download("alice/tiny", revision="v1"))
    for path in folder.iterdir():
        assert (found / path.name).read_bytes() == path.read_bytes()
    assert AutoModelForCausalLM.from_pretrained("alice/tiny", revision="b").num_parameters() > 0


def test_a_data_set_comes_back(hub: Hub) -> None:
    rows = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", "d"]})
    datasets.disable_progress_bars()
    rows.push_to_hub("alice/rows", private=True)
    assert load_dataset("alice/rows", split="train").to_dict() == rows.to_dict()


def test_a_private_repository_is_visible_only_to_its_owner(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    HfApi().create_repo("alice/tiny", private=True)
    with pytest.raises(RevisionNotFoundError):
        HfApi().model_info("alice/tiny", revision="nowhere")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("alice/tiny")


def test_an_interrupted_download_continues(hub: Hub, chain: Path) -> None:
    api, folder = HfApi(), chain / "almanac" / "sft" / "model"
    api.create_repo("alice/tiny")
    api.upload_folder(repo_id="alice/tiny", folder_path=folder)
    fault = hub.break_("GET", "/alice/tiny/resolve/.*/model.safetensors", "cut")
    found = Path(snapshot_download("alice/tiny"))
    assert fault.met == 1
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
