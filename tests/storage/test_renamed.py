"""Runs with former names of settings load, resume and publish as before."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from rlhf.cli.messages import explain
from rlhf.config import STAGES, Settings
from rlhf.errors import ConfigError
from rlhf.ppo import settings as ppo_settings
from rlhf.runs.identity import difference, flatten
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.manifest import read_manifest
from rlhf.storage.renamed import NAMES, new_manifest, new_name, new_names, old_name
from tests.conftest import composed, tiny_overrides

OLD = sorted((Path(__file__).parent / "fixtures" / "old_runs").glob("*.json"))
WORDS = {  # new -> old, as in a run.json
    "eval_set": "held_out", "oom_retry": "halve", "gae_lambda": "lam", "share_base_model": "one_base",
    "reward_defaults": "term", "kl_max": "kl_most", "kl_min": "kl_least", "approx_kl_max": "step_kl",
    "eos_rate_min": "ended", "normalization": "normalisation", "max_words": "most_words", "min": "least", "max": "most",
    "license": "licence", "licenses": "licences",
}  # fmt: skip


def as_before(manifest: Any, key: str = "") -> Any:
    """Return a current run.json with the old names in its settings and its content."""
    if isinstance(manifest, dict):
        return {
            ".".join(WORDS.get(part, part) for part in name.split(".")): as_before(value, name)
            for name, value in manifest.items()
        }
    critic = key.endswith("critic_kind")
    return {"separate": "own", "value_head": "head"}.get(manifest, manifest) if critic else manifest


def write_as_before(path: Path) -> dict[str, Any]:
    now = json.loads(path.read_text(encoding="utf-8"))
    before = now | {key: as_before(now[key]) for key in ("settings", "content")}
    assert before != now
    path.write_text(json.dumps(before), encoding="utf-8")
    return now


def known(kind: type, settings: dict[str, Any], place: str = "") -> None:
    """Assert that every name in the settings is a field of the dataclass."""
    names = {field.name for field in fields(kind)}
    assert not set(settings) - names, place
    hints = get_type_hints(kind)
    for name, value in settings.items():
        inner = STAGES[settings["stage"]["name"]] if name == "stage" and kind is Settings else hints[name]
        if is_dataclass(inner) and isinstance(value, dict):
            known(inner, value, f"{place}.{name}")


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_old_run_of_each_stage_loads_with_current_names(path: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(path.read_bytes())
    manifest = read_manifest(tmp_path)
    known(Settings, manifest["settings"])
    assert new_manifest(manifest) == manifest
    assert "samples" in manifest["settings"]["eval_set"]
    own = [key for key in manifest["content"] if not key.startswith(("parents", "files"))]
    now = flatten(vars_of(composed(*tiny_overrides(path.stem, tmp_path)))) if path.stem != "sweep" else None
    assert now is None or not {key for key in own if key not in now and not key.startswith("stage.samples")}


def vars_of(node: Any) -> Any:
    return {key: vars_of(value) for key, value in vars(node).items()} if is_dataclass(node) else node


def test_every_entry_maps_a_former_setting_to_a_current_one() -> None:
    held = {key for path in OLD for key in flatten(json.loads(path.read_text())["settings"])}
    for old in NAMES:
        plain = old.replace(r"(term|reward_defaults|gold|rewards\.[^.]+)", "term").replace("\\", "")
        assert any(key == plain or key.startswith(f"{plain}.") for key in held), old
    assert new_name("stage.rewards.brief.length.most") == "stage.rewards.brief.length.max"
    assert new_name("stage.term.normalisation") == "stage.reward_defaults.normalization"
    assert new_name("stage.normalize_scores") == "stage.normalize_scores"
    assert (old_name("stage.gae_lambda"), old_name("stage.beta")) == ("stage.lam", "stage.beta")
    given = {"stage": {"rewards": {"a": {"length": {"most": 3}, "normalisation": "stored"}}, "critic_kind": "head"}}
    assert new_names(given) == {
        "stage": {"rewards": {"a": {"length": {"max": 3}, "normalization": "stored"}}, "critic_kind": "value_head"}
    }
    assert new_names({"stage.critic_kind": "own", "stage.licences.a.b/c": "mit"}) == {
        "stage.critic_kind": "separate", "stage.licenses.a.b/c": "mit",
    }  # fmt: skip


def test_an_interrupted_run_with_old_names_resumes(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = execute(beside_chain("ppo", "name=whole"), tmp_path / "whole")
    log = Run.log

    def interrupted(run: Run, metrics: dict[str, float], step: int) -> None:
        log(run, metrics, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(beside_chain("ppo"), tmp_path / "ppo")
    left = tmp_path / ".ppo.partial"
    now = write_as_before(left / "run.json")
    assert "stage.lam" in json.loads((left / "run.json").read_text())["content"]
    assert difference(read_manifest(left)["content"], now["content"]) is None
    assert execute(beside_chain("ppo", "resume=true"), tmp_path / "ppo") == whole
    assert Run.open(tmp_path / "ppo").manifest["resumed"]


def test_a_finished_run_with_old_names_publishes(aligned: Path, tmp_path: Path) -> None:
    shutil.copytree(aligned, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("publish"))
    for path in (tmp_path / "almanac").glob("*/run.json"):
        write_as_before(path)
    given = [f"stage.run={tmp_path}/almanac/ppo", "stage.verify=false", "stage.samples=1"]
    execute(composed(*tiny_overrides("publish", tmp_path), *given), tmp_path / "almanac" / "publish")
    [bundle] = (tmp_path / "almanac" / "publish" / "bundles").iterdir()
    published = json.loads((bundle / "run.json").read_text(encoding="utf-8"))
    assert published["settings"]["stage"]["gae_lambda"] == 0.95
    assert all("held_out" not in one["settings"] for one in (published, *published["lineage"]))
    assert "stage.lam" not in (bundle / "README.md").read_text(encoding="utf-8").replace("stage.lambda", "")


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("ppo", "stage.lam=0.9", "stage.lam is called stage.gae_lambda now: give stage.gae_lambda"),
        ("ppo", "stage.sentinel.kl_most=1", "stage.sentinel.kl_most is called stage.sentinel.kl_max now"),
        ("ppo", "stage.term.weight=2", "stage.term is called stage.reward_defaults now"),
        (
            "ppo",
            "stage.rewards={a: {length: {most: 3}}}",
            "rewards.a.length.most is called stage.rewards.a.length.max now",
        ),
        (
            "ppo",
            "stage.rewards={a: {function: 'm:f', normalisation: running}}",
            "is called stage.rewards.a.normalization",
        ),
        ("ppo", "stage.critic_kind=head", "[separate, value_head]"),
        ("dpo", "held_out.prompts=3", "held_out is called eval_set now: give eval_set"),
        ("dpo", "hardware.halve=false", "hardware.halve is called hardware.oom_retry now"),
        ("publish", "stage.licence=mit", "stage.licence is called stage.license now"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(stage: str, old: str, new: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011  of Hydra's many
        composed(f"stage={stage}", "stage.reward=null" if "rewards" in old else f"stage={stage}", old)
    assert new in explain(error.value)


def test_an_old_name_in_python_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match="stage.lam is called stage.gae_lambda now: give stage.gae_lambda"):
        ppo_settings(lam=0.9)
    with pytest.raises(ConfigError, match="stage.sentinel.kl_most is called stage.sentinel.kl_max now"):
        ppo_settings(sentinel={"kl_most": 1.0})
