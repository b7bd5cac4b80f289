import os
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Input, Settings
from rlhf.errors import LineageError, RunError
from rlhf.runs import branches
from rlhf.runs.parents import find_parent
from rlhf.storage.checksums import seal
from rlhf.storage.json_files import write_json
from tests.conftest import composed, manifest

WHOLE = {"parents.policy": "p", "parents.reward": "r", "adapter.kind": "none", "stage.advantage": "gae"}
LORA = {"adapter.kind": "lora", "adapter.rank": 16}


def checkpoint(folder: Path, update: int) -> Path:
    place = folder / f"update-{update}"
    place.mkdir(parents=True)
    (place / "policy.safetensors").write_bytes(bytes([update]))
    seal(place)
    return place


@pytest.mark.parametrize("links", [True, False])
def test_multiples_are_kept_with_or_without_links(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for update in (4, 6, 10):
        checkpoint(tmp_path / "resume", update)
    for _ in range(2):  # a run that was killed does it again
        branches.keep(tmp_path / "resume", tmp_path, 5)
    (tmp_path / "resume" / "update-10" / "policy.safetensors").unlink()
    assert [path.name for path in (tmp_path / "updates").iterdir()] == ["update-10"]
    assert (tmp_path / "updates" / "update-10" / "policy.safetensors").read_bytes() == bytes([10])


def refuse(*_: Any) -> None:
    raise OSError


def test_an_unfinished_run_can_be_branched_from_and_a_finished_one_where_it_kept_updates(tmp_path: Path) -> None:
    run, settings = tmp_path / "ppo", composed("stage=ppo", "name=x")
    work = tmp_path / ".ppo.partial"
    checkpoint(work / "resume", 3)
    (work / "resume" / "update-4").mkdir()  # not sealed
    write_json(work / "run.json", manifest("ppo", status="failed"))
    assert found(run, 3, settings).checkpoint == work / "resume" / "update-3"
    checkpoint(run / "updates", 8)
    write_json(run / "run.json", manifest("ppo", weights="w"))
    with pytest.raises(LineageError, match="the run keeps only 8"):
        found(run, 3, settings)
    first = found(run, 8, settings).digest
    assert first not in (None, "w")
    (run / "updates" / "update-8" / "policy.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="@8 is corrupted .policy.safetensors does not match its checksum."):
        found(run, 8, settings)


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "raft", "online_dpo"])
def test_the_update_of_a_run_is_not_the_start_of_another_stage(tmp_path: Path, stage: str) -> None:
    run, settings = tmp_path / "x" / "ppo", composed(f"stage={stage}", f"checkpoints={tmp_path}")
    checkpoint(run / "updates", 8)
    write_json(run / "run.json", manifest("ppo", weights="w"))
    with pytest.raises(LineageError) as refused:
        find_parent("policy", Input(f"{run}@8", ("sft", "ppo")), settings)
    assert str(refused.value) == (
        f"stage.policy={run}@8 is an update of a run, and only stage=ppo starts from one, by stage.branch_from: "
        f"set stage.policy={run}, the final model of the run"
    )


def found(run: Path, update: int, settings: Settings) -> Any:
    return find_parent("branch_from", Input(str(run), ("ppo",), update=update), settings)


@pytest.mark.parametrize(
    ("content", "own", "message"),
    [
        ({}, {"parents.policy": "other"}, "x started from another policy: set stage.policy"),
        (LORA, {"adapter.kind": "lora", "adapter.rank": 8}, "x has adapter.rank=16, and the new run 8"),
        ({"stage.advantage": "rloo"}, {}, "x has no critic, and the new run a separate critic"),
        (LORA, LORA | {"parents.reward": "other"}, "x has a critic that is an adapter on another model"),
    ],
)
def test_other_weights_are_refused(content: dict, own: dict, message: str) -> None:
    with pytest.raises(LineageError, match=message):
        branches.check("x", WHOLE | content, WHOLE | own)


def test_another_reward_is_not_other_weights_unless_the_critic_is_an_adapter_on_it() -> None:
    branches.check("x", WHOLE, WHOLE | {"parents.reward": "other"})
    branches.check("x", WHOLE | LORA, WHOLE | LORA | {"parents.reward": "other", "parents.critic": "r"})
    without = WHOLE | LORA | {"stage.advantage": "rloo"}
    branches.check("x", without, without | {"parents.reward": "other"})
