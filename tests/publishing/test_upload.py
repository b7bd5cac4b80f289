"""Failures at every step, with the real client: nothing is lost or half-published, and the error is one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from rlhf.errors import HubError
from rlhf.publishing import upload
from rlhf.publishing.bundle import Bundle
from rlhf.publishing.lineage import Link
from rlhf.publishing.upload import Destination
from tests.hub.server import Hub

REPO = "alice/toy"
WHERE = Destination(REPO, branch="main", private=True, tag=None, parent_commit=None, attempts=3, wait=0.0)
# Every request of a publication, in their order.
STEPS = {
    "whoami": ("GET", "/api/whoami-v2"),
    "create": ("POST", "/api/repos/create"),
    "info": ("GET", f"/api/models/{REPO}$"),
    "commits": ("GET", f"/api/models/{REPO}/commits/main"),
    "tree": ("GET", f"/api/models/{REPO}/tree"),
    "validate": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", f"/api/models/{REPO}/preupload/main"),
    "batch": ("POST", f"/{REPO}.git/info/lfs/objects/batch"),
    "put": ("PUT", "/storage/"),
    "verify": ("POST", f"/{REPO}.git/info/lfs/objects/verify"),
    "commit": ("POST", f"/api/models/{REPO}/commit/main"),
    "refs": ("GET", f"/api/models/{REPO}/refs"),
    "tag": ("POST", f"/api/models/{REPO}/tag/"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Small files, and weights that go through LFS."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# toy\n")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    return Bundle(folder, Link("0" * 64, None), "run-00000000")


@pytest.fixture
def publish(hub: Hub, bundle: Bundle) -> Callable[[], str]:
    """Everything that the stage does with one folder, but for comparing it."""

    def of(where: Destination = WHERE) -> str:
        upload.preflight([where])
        commit = upload.send(bundle, where)
        upload.tag(commit, bundle, where)
        return commit

    return of


def whole(hub: Hub, bundle: Bundle) -> bool:
    there = hub.files(REPO, "v1")
    return there == hub.files(REPO) == {name: path.read_bytes() for name, path in bundle.files.items()}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", [500, "drop"])
def test_a_step_that_fails_once_is_repeated(publish: Callable, hub: Hub, bundle: Bundle, step: str, what: str) -> None:
    fault = hub.break_(*STEPS[step], what)
    publish()
    assert fault.met == 1
    assert whole(hub, bundle)
    assert len(hub.titles(REPO)) == 2


# After a failure in `verify` the weights are on the Hub, so the second attempt has nothing to upload.
@pytest.mark.parametrize("step", [step for step in STEPS if step != "verify"])
def test_a_permanent_failure_is_completed_by_the_same_command(
    publish: Callable, hub: Hub, bundle: Bundle, step: str
) -> None:
    hub.break_(*STEPS[step], 500, times=99)
    with pytest.raises(HubError, match=r"the Hub returns 500 \(.*\): run the command again, nothing is sent twice"):
        publish()
    if step not in ("refs", "tag"):  # a single commit has all files
        assert ("models", REPO) not in hub.repos or hub.titles(REPO) == ["initial commit"]
    assert ("models", REPO) not in hub.repos or hub.repos["models", REPO].tags == {}
    hub.faults.clear()
    publish()
    assert whole(hub, bundle)
    assert len(hub.titles(REPO)) == 2


@pytest.mark.parametrize("step", ["put", "commit", "tag", "create"])
def test_a_lost_reply_does_nothing_twice(publish: Callable, hub: Hub, bundle: Bundle, step: str) -> None:
    fault = hub.break_(*STEPS[step], "lost")
    publish()
    assert fault.met == 1
    assert len(hub.titles(REPO)) == 2
    assert whole(hub, bundle)


def test_a_cut_in_the_middle_of_the_weights(publish: Callable, hub: Hub, bundle: Bundle) -> None:
    fault = hub.break_(*STEPS["put"], "cut")
    publish()
    assert fault.met == 1
    assert whole(hub, bundle)


@pytest.mark.parametrize(
    ("step", "status", "told"),
    [
        ("whoami", 401, r"publishing: the token is not accepted \(401\): use a token from"),
        ("create", 403, r"alice/toy: the token lacks permission \(403: no\): use another token, or another name"),
        ("create", 404, r"alice/toy: not found, or the token has no access \(404\)"),
        ("preupload", 403, r"the token lacks permission \(403: no\)"),
        ("commit", 412, r"another commit was made meanwhile \(412\): check it"),
        ("batch", 507, r"no storage is left \(507: no\): free some"),
        ("commit", 402, r"no storage is left \(402: no\)"),
        ("put", 403, r"the token lacks permission \(403"),
        ("verify", 404, r"not found, or the token has no access"),
    ],
)
def test_a_refusal_is_one_sentence(
    publish: Callable, hub: Hub, bundle: Bundle, step: str, status: int, told: str
) -> None:
    fault = hub.break_(*STEPS[step], status, times=99, message="no")
    with pytest.raises(HubError, match=told) as error:
        publish()
    assert "\n" not in str(error.value)
    assert fault.met == 1
    assert ("models", REPO) not in hub.repos or hub.titles(REPO) == ["initial commit"]


def test_quota_and_missing_rights_are_distinguished(publish: Callable, hub: Hub) -> None:
    hub.break_(*STEPS["commit"], 403, times=9, message="Private repository storage limit reached")
    with pytest.raises(HubError, match=r"no storage is left \(403: Private repository storage limit reached\)"):
        publish()


def test_a_card_that_the_hub_refuses(publish: Callable, hub: Hub, bundle: Bundle) -> None:
    (bundle.folder / "README.md").write_text("---\nlicense: [1]\n---\n")
    with pytest.raises(HubError, match=r"alice/toy: .*\"license\" must be a string"):
        publish()
    assert hub.titles(REPO) == ["initial commit"]


def test_without_a_token(publish: Callable, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        HubError, match="publishing: no token is set: use a token from .*, in HF_TOKEN or with `hf auth"
    ):
        publish()
    assert hub.requests == []


def test_with_an_invalid_token(publish: Callable, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobodyknows01")
    with pytest.raises(HubError, match="the token is not accepted"):
        publish()


def test_with_a_token_that_may_not_write(publish: Callable, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alicereads001")
    with pytest.raises(HubError, match="the token lacks permission"):
        publish()


def test_offline_and_without_a_server(publish: Callable, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so no request is sent: unset it"):
            publish()
    hub.close()
    with pytest.raises(HubError, match="the Hub cannot be reached"):
        publish()


def test_somebody_elses_commit_is_not_overwritten(publish: Callable, hub: Hub, bundle: Bundle) -> None:
    publish()
    HfApi().create_commit(REPO, [CommitOperationAdd("NOTES.md", b"mine")], commit_message="Update NOTES.md")
    theirs = hub.repos["models", REPO].branches["main"]
    (bundle.folder / "config.json").write_text('{"a": 1}')
    with pytest.raises(HubError, match=f"ends with a commit by somebody else.*stage.parent_commit={theirs} to build"):
        publish()
    assert hub.titles(REPO)[0] == "Update NOTES.md"
    publish(replace(WHERE, parent_commit=theirs))
    assert hub.files(REPO)["NOTES.md"] == b"mine"
    assert hub.files(REPO)["config.json"] == b'{"a": 1}'


def test_a_commit_between_looking_and_committing(
    publish: Callable, hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server compares the parent, as the Hub does."""
    publish()
    (bundle.folder / "config.json").write_text('{"a": 1}')
    look = upload._head

    def late(where: Destination) -> tuple[str, bool]:
        seen = look(where)
        hub.repos["models", REPO].commit("main", "Update README.md", {"README.md": b"edited"})
        return seen

    monkeypatch.setattr(upload, "_head", late)
    with pytest.raises(HubError, match="another commit was made meanwhile"):
        upload.send(bundle, WHERE)
    assert hub.files(REPO) == {"README.md": b"edited"}


def test_a_public_repository_is_not_taken_for_a_private_one(publish: Callable, hub: Hub) -> None:
    HfApi().create_repo(REPO, private=False)
    with pytest.raises(HubError, match="alice/toy is public and stage.private=true: set stage.private=false"):
        publish()
    publish(replace(WHERE, private=False))


def test_a_tag_is_never_moved(publish: Callable, hub: Hub, bundle: Bundle) -> None:
    first = publish(replace(WHERE, tag="stable"))
    (bundle.folder / "config.json").write_text('{"a": 1}')
    with pytest.raises(HubError, match="has a tag stable on another commit: set stage.tag=<another>"):
        publish(replace(WHERE, tag="stable"))
    assert hub.repos["models", REPO].tags["stable"] == first
    publish()
    assert set(hub.repos["models", REPO].tags) == {"stable", "run-00000000", "v1"}


def test_a_collection_is_made_once(publish: Callable, hub: Hub) -> None:
    publish()
    fault = hub.break_("POST", "/api/collections$", "lost")
    for _ in range(2):
        upload.collect("A chain", [REPO], WHERE)
    assert fault.met == 1
    [collection] = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == [REPO]
