from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, disable_progress_bars
from huggingface_hub import CommitOperationAdd, HfApi

from rlhf.cli import main
from rlhf.cli.overrides import named_by_path
from rlhf.config import Input, Settings
from rlhf.data import load
from rlhf.errors import HubError
from rlhf.hub import pinned
from rlhf.hub.pinned import manifest_at, pin
from rlhf.runs.identity import data_files
from rlhf.runs.parents import find_parent
from tests.conftest import composed
from tests.hub.server import Hub

CARD = b"---\nlicense: mit\n---\n"


def put(**files: bytes) -> str:
    """Commit these files to alice/m, and return the commit."""
    HfApi().create_repo("alice/m", exist_ok=True)
    adds = [CommitOperationAdd(name.replace("_", "."), content) for name, content in files.items()]
    return HfApi().create_commit("alice/m", adds, commit_message="files").oid


def test_a_branch_is_a_commit(hub: Hub) -> None:
    first = put(README_md=CARD)
    HfApi().create_tag("alice/m", tag="v1")
    found = pin("alice/m", None)
    assert (found.commit, found.license) == (first, "mit")
    put(config_json=b"{}")
    assert pin("alice/m", None).commit == first  # one process reads one commit
    pin.cache_clear()
    assert pin("alice/m", None).commit != first
    assert pin("alice/m", "v1").commit == first


def test_an_offline_process_pins_cached_files(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put(config_json=b"{}")
    from huggingface_hub import hf_hub_download

    hf_hub_download("alice/m", "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (pin("alice/m", None).commit, pin("alice/m", None).files) == (commit, ("config.json",))
    assert pin("alice/m", commit).commit == commit
    assert pin("alice/m", "v1") is None
    assert pin("alice/other", None) is None


def test_a_server_that_is_down_pins_nothing(hub: Hub) -> None:
    hub.close()
    assert pin("alice/m", None) is None


@pytest.mark.parametrize(("id", "revision"), [("alice/nothing", None), ("alice/m", "v9")])
def test_a_missing_repository_or_revision_raises(hub: Hub, id: str, revision: str | None) -> None:
    put(config_json=b"{}")
    with pytest.raises(HubError, match=f"{id}@{revision or 'main'}: not found, or the token has no access"):
        pin(id, revision)


def test_a_gated_model_raises(hub: Hub) -> None:
    hub.break_("GET", "/api/models/alice/m", 403, message="ask on its page")
    with pytest.raises(HubError, match=r"the token lacks permission \(403: ask on its page\)"):
        pin("alice/m", None)


def test_a_run_json_of_another_program_is_ignored(hub: Hub) -> None:
    put(run_json=b'{"id": "wandb"}')
    assert manifest_at(pin("alice/m", None)) is None


def test_a_broken_run_json_raises(hub: Hub) -> None:
    put(run_json=b'{"stage":')
    with pytest.raises(HubError, match=r"alice/m@\w+/run.json is not JSON .*: use another revision"):
        manifest_at(pin("alice/m", None))


def test_a_parent_is_recorded_as_a_commit(hub: Hub, settings: Callable[..., Settings]) -> None:
    commit = put(config_json=b"{}")
    parent = find_parent("policy", Input("alice/m", ("sft",)), settings("dpo"))
    assert (parent.model, parent.revision, parent.digest) == ("alice/m", commit, f"alice/m@{commit}")


def test_only_the_files_that_a_model_is_loaded_from_are_fetched(hub: Hub) -> None:
    put(config_json=b"{}", evil_py=b"print()", pytorch_model_bin=b"pickle")
    assert [path.name for path in pinned.snapshot(pin("alice/m", None)).iterdir()] == ["config.json"]


def test_data_come_from_a_pinned_commit(hub: Hub) -> None:
    disable_progress_bars()
    rows = {"prompt": [f"What is {n}?" for n in range(12)], "completion": ["It is."] * 12}
    Dataset.from_dict(rows).push_to_hub("alice/rows")
    settings = composed("stage=sft", "data=local", "data.path=alice/rows")
    commit = HfApi().dataset_info("alice/rows").sha
    assert data_files(settings) == {"demonstrations": f"alice/rows@{commit}"}
    Dataset.from_dict({"prompt": ["x"], "completion": ["y"]}).push_to_hub("alice/rows")
    found = [len(load(settings.data, "demonstrations", split, 0)) for split in ("train", "validation")]
    assert sum(found) == 12  # of the recorded commit, not of the current main


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("model=org/name@v1", ["model=local", "model.path=org/name@v1"]),
        ("data=org/name", ["data=local", "data.path=org/name"]),
        ("model=gpt2", ["model=gpt2"]),
        ("model=my/folder/x", ["model=local", "model.path=my/folder/x"]),
        ("data.path=org/name", ["data.path=org/name"]),
        ("stage.policy=org/name", ["stage.policy=org/name"]),
        ("model=gpt2,org/name", ["model=gpt2,org/name"]),
    ],
)
def test_a_group_takes_a_hub_id(given: str, meant: list[str]) -> None:
    assert named_by_path(["stage=sft", given]) == ["stage=sft", *meant]


def test_the_command_line_takes_a_hub_id(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rlhf", "stage=sft", "model=alice/nothing", "experiment=none"])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err.startswith("rlhf: alice/nothing@main: not found")
