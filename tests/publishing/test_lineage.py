import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.config import Publish
from rlhf.errors import LineageError
from rlhf.publishing.lineage import Link, chain, going_up, repositories, rooted, with_weights
from rlhf.runs.parents import Parent
from rlhf.storage.manifest import read_manifest
from tests.conftest import manifest

Chain = Callable[[str], list[Link]]


def test_parents_come_before_children_and_once(chain_of: Chain) -> None:
    links = chain_of("ppo")
    assert [link.stage for link in links] == ["base", "sft", "reward", "ppo"]
    assert links[-1].roles == {"policy": links[1].digest, "reward": links[2].digest}
    assert [link.title for link in links] == [f"almanac/{link.stage}" for link in links]


def test_a_parent_that_was_trained_again_has_only_its_record(aligned: Path, tmp_path: Path) -> None:
    shutil.copytree(aligned / "almanac" / "dpo", tmp_path / "dpo")
    shutil.copytree(aligned / "almanac" / "sft", tmp_path / "x" / "sft")
    for place, change in {tmp_path / "dpo": {}, tmp_path / "x" / "sft": {"weights": "f" * 64}}.items():
        manifest = read_manifest(place) | change
        if not change:
            manifest["parents"]["policy"]["path"] = str(tmp_path / "x" / "sft")
        (place / "run.json").write_text(json.dumps(manifest))
    links = chain(Parent("run", str(tmp_path / "dpo"), read_manifest(tmp_path / "dpo")))
    assert [(link.stage, link.directory is None) for link in links] == [("sft", True), ("dpo", False)]
    assert going_up(links, Publish.run) == links[-1:]
    with pytest.raises(
        LineageError, match="needs every run of the chain, and .*x/sft is missing or has been trained again"
    ):
        going_up(links, Publish.chain)


def test_weights_are_known_by_what_they_were_before_they_were_merged() -> None:
    root, merged = Link(None, None, path="x"), Link("a" * 64, {"trained_weights": "b" * 64})
    assert with_weights([root, merged], "b" * 64) is with_weights([root, merged], "a" * 64) is merged
    assert with_weights([root, merged], None) is root
    assert with_weights([merged, root], None) is root
    assert with_weights([root, merged], "c" * 64) is None


def test_runs_to_upload(chain_of: Chain) -> None:
    links = chain_of("ppo")
    assert going_up(links, Publish.chain) == links
    up = [replace(links[0], repo="me/base", commit="0" * 40), *links[1:]]
    assert going_up(up, Publish.chain) == links[1:]


def test_names_of_repositories(chain_of: Chain) -> None:
    links = chain_of("ppo")
    assert list(repositories(links, "me/x-ppo").values()) == ["me/x-ppo", "me/x-base", "me/x-sft", "me/x-reward"]
    assert list(repositories(links, "me/x").values()) == ["me/x", "me/x-base", "me/x-sft", "me/x-reward"]
    assert list(repositories(links[-1:], None).values()) == ["almanac-ppo"]
    twice = [links[1], replace(links[1], digest="abcdef12"), links[-1]]
    assert list(repositories(twice, "me/x").values())[2] == "me/x-sft-abcdef"


def test_a_root_that_lies_here_must_be_named(chain_of: Chain) -> None:
    root = Link("0" * 64, None, path="/models/gpt2")
    links = [root, *chain_of("sft")]
    with pytest.raises(LineageError, match=r"starts from the local path /models/gpt2, which nobody else has: set"):
        rooted(links, "x", None)
    assert rooted(links, "x", "none") == links
    named = rooted(links, "x", "openai-community/gpt2@main")[0]
    assert (named.repo, named.commit) == ("openai-community/gpt2", "main")
    with pytest.raises(LineageError, match="stage.run=x is not a run"):
        rooted([root], "x", None)


def test_paths_in_a_published_run_json_are_not_read(tmp_path: Path, aligned: Path) -> None:
    """A run.json from the Hub could name any path of this machine."""
    manifest = read_manifest(aligned / "almanac" / "dpo") | {"lineage": []}
    links = chain(Parent("run", "me/dpo", manifest, "0" * 40))
    assert [link.directory for link in links] == [None, None]
    assert links[0].manifest["status"] == "gone"


def test_a_run_is_distinguished_from_a_parent_with_the_same_digest(tmp_path: Path) -> None:
    """The first step of a warm-up has a learning rate of 0."""
    same = "a" * 64
    parents, records = {}, {"base": {}, "sft": {"policy": "base"}, "dpo": {"policy": "sft"}}
    for stage, roles in records.items():
        parents[stage] = {"path": str(tmp_path / stage), "stage": stage, "digest": same, "revision": None}
        (tmp_path / stage).mkdir()
        made = manifest(stage, weights=same, parents={role: parents[name] for role, name in roles.items()})
        (tmp_path / stage / "run.json").write_text(json.dumps(made))
    links = chain(Parent("run", str(tmp_path / "dpo"), read_manifest(tmp_path / "dpo")))
    assert [link.stage for link in links] == ["base", "sft", "dpo"]
    assert with_weights(links[:-1], links[-1].roles["policy"]).stage == "sft"
    assert list(repositories(links, "me/x-dpo").values()) == ["me/x-dpo", "me/x-base", "me/x-sft"]

    published = read_manifest(tmp_path / "dpo") | {"lineage": [link.manifest for link in links[:-1]]}
    again = chain(Parent("run", "me/x-dpo", published, "0" * 40))
    assert [link.stage for link in again] == ["base", "sft", "dpo"]


def test_a_run_that_replaced_its_identical_parent_has_a_finite_chain(tmp_path: Path) -> None:
    record = {"path": str(tmp_path), "stage": "sft", "digest": "a" * 64, "revision": None}
    made = manifest("sft", weights="a" * 64, parents={"policy": record})
    (tmp_path / "run.json").write_text(json.dumps(made))
    assert [link.stage for link in chain(Parent("run", str(tmp_path), made))] == ["sft"]
    assert [link.stage for link in chain(Parent("run", "me/y", made | {"lineage": [made]}, "0" * 40))] == ["sft"]
