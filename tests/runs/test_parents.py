import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Input, Settings
from rlhf.errors import LineageError, RunError
from rlhf.runs.parents import Parent, find_parent, find_parents
from rlhf.stages import execute
from rlhf.storage import digests
from tests.conftest import manifest


def wanted(path: object, *stages: str, required: bool = True) -> Input:
    return Input(str(path), stages or ("sft",), required)


def test_a_missing_run_names_the_command_that_makes_it(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(LineageError) as error:
        find_parents(settings("dpo"), ["stage=dpo", "experiment=none", "stage.beta=0.3", "seed=3"])
    assert str(error.value) == (
        f"stage=dpo starts from {tmp_path}/almanac/sft, which does not exist: run stage=sft first: "
        "python -m rlhf stage=sft experiment=none seed=3; "
        "or start from another model, a folder or a Hub id: stage.policy=org/name"
    )


def test_a_run_of_the_wrong_stage_is_refused(beside_chain: Callable[..., Settings], chain: Path) -> None:
    settings = beside_chain("dpo", f"stage.policy={chain}/almanac/reward")
    with pytest.raises(LineageError, match="is a run of stage=reward, and stage=dpo starts from one of sft, raft, "):
        find_parents(settings)


def test_an_unfinished_run_is_refused(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "almanac" / ".sft.partial").mkdir(parents=True)
    with pytest.raises(LineageError, match="is not finished: continue it first: .* resume=true"):
        find_parents(settings("dpo"))


def test_a_folder_that_is_not_a_model_is_refused(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "notes.txt").touch()
    with pytest.raises(LineageError, match="has neither run.json nor config.json"):
        find_parent("policy", wanted(tmp_path / "sft"), settings("dpo"))


def test_what_is_optional_may_be_missing(settings: Callable[..., Settings], tmp_path: Path) -> None:
    assert find_parent("ppo", wanted(tmp_path / "ppo", required=False), settings("compare")) is None


@pytest.mark.parametrize(
    ("path", "name", "revision"),
    [("gpt2", "gpt2", None), ("org/model", "org/model", None), ("org/model@v1", "org/model", "v1")],
)
def test_a_hub_id_is_distinguished_from_a_path(
    settings: Callable[..., Settings], path: str, name: str, revision: str
) -> None:
    parent = find_parent("policy", wanted(path), settings("dpo"))
    assert (parent.path, parent.revision, parent.manifest) == (name, revision, None)
    assert parent.digest == f"{name}@{revision or 'main'}"


def test_a_local_folder_and_a_gguf_file(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_parent("policy", wanted(tmp_path), settings("dpo")).model == str(tmp_path)
    with pytest.raises(LineageError, match="does not exist: set the path of a GGUF file"):
        find_parent("policy", wanted(tmp_path / "model.gguf"), settings("dpo"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert len(find_parent("policy", wanted(tmp_path / "model.gguf"), settings("dpo")).digest) == 64


def test_the_digest_of_a_run_is_that_of_its_weights(chain: Path, beside_chain: Callable[..., Settings]) -> None:
    parent = find_parents(beside_chain("dpo"))["policy"]
    written = json.loads((chain / "almanac" / "sft" / "run.json").read_text())
    assert parent.digest == written["weights"]
    assert parent.model == f"{chain}/almanac/sft/model"
    assert parent.stage == "sft"


@pytest.mark.parametrize(("role", "title"), [("policy", "policy"), ("mine", "models.mine")])
def test_a_run_that_has_not_ended_well_is_refused(
    settings: Callable[..., Settings], tmp_path: Path, role: str, title: str
) -> None:
    """As one in ``.sft.partial`` has not, whose weights change; a column of the comparison too."""
    partial = tmp_path / ".sft.partial"
    partial.mkdir()
    (partial / "run.json").write_text(json.dumps(manifest("sft", status="interrupted")))
    with pytest.raises(LineageError) as error:
        find_parent(role, wanted(partial), settings("dpo" if role == "policy" else "compare"))
    assert str(error.value) == (
        f"stage.{title}={partial} is not finished, its status is interrupted: "
        "continue it with the command of stage=sft and resume=true, or use a finished run"
    )


@pytest.mark.parametrize("written", ["", "{", "[]", '{"stage":'])
def test_a_manifest_that_cannot_be_read_is_named(
    settings: Callable[..., Settings], tmp_path: Path, written: str
) -> None:
    (tmp_path / "run.json").write_text(written)
    with pytest.raises(RunError, match=rf"{tmp_path}/run\.json .*: delete the directory and run the stage again"):
        find_parent("policy", wanted(tmp_path), settings("dpo"))


def test_a_foreign_manifest_is_refused(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(
        RunError, match=r"not a run's manifest of this version \(stage is missing\): delete the directory"
    ):
        find_parent("policy", wanted(tmp_path), settings("dpo"))


def test_no_path_at_all_is_refused(settings: Callable[..., Settings]) -> None:
    with pytest.raises(LineageError, match="stage.policy='' is empty: set a run, a model folder or a Hub id"):
        find_parents(settings("dpo", "stage.policy=''"))
    with pytest.raises(LineageError, match="starts from /, which has neither run.json nor config.json"):
        find_parents(settings("dpo", "stage.policy=/"))


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_a_model_folder_is_hashed_once_in_a_run(
    settings: Callable[..., Settings], chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A pass over a 7B model takes minutes."""
    passes, digest = Counter(), digests.file_digest

    def counted(path: Path) -> str:
        passes[path] += 1
        return digest(path)

    weights = [copied(chain, tmp_path, name) for name in ("sft", "reward")[: 1 if stage == "dpo" else 2]]
    own = ["adapter=lora", f"stage.reward={tmp_path}/reward-model"] if stage == "ppo" else []
    given = settings(stage, f"stage.policy={tmp_path}/sft-model", *own)
    monkeypatch.setattr("rlhf.storage.digests.file_digest", counted)
    execute(given, tmp_path / stage)
    assert {path: passes[path] for path in weights} == dict.fromkeys(weights, 1)


def copied(chain: Path, root: Path, stage: str) -> Path:
    """Return the weights in a copy of a run's model folder, without its run.json."""
    folder = root / f"{stage}-model"
    shutil.copytree(chain / "almanac" / stage / "model", folder)
    return folder / "model.safetensors"


def test_weights_that_change_have_another_digest(chain: Path, tmp_path: Path) -> None:
    weights = copied(chain, tmp_path, "sft")
    parent = Parent("policy", str(weights.parent), None)
    before = parent.digest
    weights.write_bytes(weights.read_bytes()[:-1] + b"x" * 2)
    assert parent.digest != before
