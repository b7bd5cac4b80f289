from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.errors import HubError
from rlhf.publishing.bundle import Bundle
from rlhf.publishing.upload import Destination, send
from rlhf.publishing.verify import compare_whole, same_files, verify
from tests.hub.server import Hub

WHERE = Destination("alice/x", branch="main", private=True, tag=None, parent_commit=None, attempts=2, wait=0.0)


def test_the_download_agrees_with_the_run(
    hub: Hub, build: Callable[..., Bundle], chain_of: Callable, plan: Callable, tmp_path: Path
) -> None:
    made = build("sft")
    *above, link = chain_of("sft")
    commit = send(made, WHERE)
    fault = hub.break_("GET", "/resolve/.*/model.safetensors", "cut")
    verify(made, link, commit, WHERE, plan(above), tmp_path)
    assert fault.met == 1

    held = hub.repos["models", "alice/x"].commits[commit]["files"]
    held["config.json"] = held["config.json"].replace(b"silu", b"relu")
    with pytest.raises(HubError, match="alice/x: config.json differs from the sent file: run the command again"):
        verify(made, link, commit, WHERE, plan(above), tmp_path)
    assert not list(tmp_path.glob("tmp*"))  # the downloaded files are deleted


def test_a_file_too_many_is_found(build: Callable[..., Bundle], tmp_path: Path) -> None:
    import shutil

    made = build("sft")
    shutil.copytree(made.folder, tmp_path / "found")
    same_files(made, tmp_path / "found", WHERE)
    (tmp_path / "found" / "extra.bin").write_text("x")
    with pytest.raises(HubError, match=r"extra.bin was not sent from here: remove it there"):
        same_files(made, tmp_path / "found", WHERE)


def test_other_weights_are_found(build: Callable[..., Bundle], chain_of: Callable, plan: Callable) -> None:
    made = build("dpo")
    *above, link = chain_of("sft")
    with pytest.raises(HubError, match="alice/x: the weights .* differ from those of almanac/sft"):
        compare_whole(link, made.folder, WHERE, plan(above))
