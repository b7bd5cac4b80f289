"""Records from run.json and metrics.jsonl, and comparisons with other seeds."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import RunError
from rlhf.evaluation.comparison.records import Record, over_seeds, paths, previous, read_lines, record, tokens, tree
from rlhf.runs.parents import Parent
from tests import conftest


def manifest(stage: str, **more: Any) -> dict[str, Any]:
    known = conftest.manifest(stage, seconds=9.0)
    return known | {"weights": f"{stage}-digest", "peak_memory_gib": 1.5, "finished": "2026-01-01"} | more


def run(folder: Path, given: dict[str, Any], lines: str = "", metrics: dict | None = None) -> Parent:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(given))
    (folder / "metrics.jsonl").write_text(lines)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return Parent(given["stage"], str(folder), given)


def test_the_cost_of_a_run(tmp_path: Path) -> None:
    lines = '{"step": 1, "train/loss": 2.0}\n{"step": 2, "train/loss": 1.0, "eval/loss": 3.0, "note": "text"}\n'
    fall = {"name": "shadow/a", "best": 2.0, "peak": 4, "update": 9, "last": 1.5}
    found = record(run(tmp_path / "sft", manifest("sft", metrics={"tokens": 123}, falls=[fall]), lines))
    assert found.falls == ["a: fell at update 9 while the score rose (best 2 at update 4, last 1.5)"]
    assert (found.stage, found.seconds, found.peak_memory_gib, found.tokens) == ("sft", 9.0, 1.5, 123)
    assert found.curve() == {"train/loss": ([1, 2], [2.0, 1.0]), "eval/loss": ([2], [3.0])}


def test_only_the_path_of_any_other_model_is_known() -> None:
    assert record(Parent("mine", "org/model", None)) == Record("org/model")


def test_ppo_counts_the_tokens_of_its_responses() -> None:
    lines = [{"step": 1, "val/response_length": 10.0}, {"step": 2, "val/response_length": 5.5}]
    assert tokens(manifest("ppo", settings={"stage": {"batch_size": 4}}), lines) == 62
    assert tokens(manifest("ppo", metrics={"tokens": 7}, settings={"stage": {"batch_size": 4}}), lines) == 7
    assert tokens(manifest("base"), []) is None


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}'])
def test_a_corrupted_line_is_reported(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl:2: the line is corrupted"):
        read_lines(tmp_path / "metrics.jsonl")
    assert read_lines(tmp_path / "absent") == []


def test_the_previous_stage_is_the_parent_of_the_training() -> None:
    columns = ("base", "sft", "dpo", "ppo", "hub")
    parents = {name: Parent(name, name, manifest(name)) for name in columns[:4]} | {"hub": Parent("hub", "org/x", None)}
    for name, before in {"sft": "base", "dpo": "sft", "ppo": "sft"}.items():
        parents[name].manifest["parents"] = {"policy": {"digest": f"{before}-digest"}}
    assert [previous(name, parents, columns) for name in columns] == [None, "base", "sft", "sft", "ppo"]
    assert previous("ppo", parents, ("dpo", "ppo")) == "dpo"  # its parent is not a column
    parents["branch"] = Parent("branch", "branch", manifest("ppo"))
    parents["branch"].manifest["parents"] = {"branch_from": {"path": "ppo"}, "policy": {"digest": "sft-digest"}}
    assert previous("branch", parents, ("sft", "branch", "ppo")) == "ppo"
    assert previous("branch", parents, ("sft", "dpo", "branch")) == "sft"


def test_the_tree_has_the_columns_and_the_runs_above_them(tmp_path: Path) -> None:
    """A column is known by its path or its weights, a run above the columns by its path; a branch by its update."""
    base, ppo = str(tmp_path / "base"), str(tmp_path / "ppo")
    of_sft = {"path": "moved", "digest": "sft-digest"}
    parents = {
        "sft": run(tmp_path / "sft", manifest("sft", parents={"model": {"path": base, "digest": "base-digest"}})),
        "dpo": run(tmp_path / "dpo", manifest("dpo", parents={"policy": of_sft})),
        "careful": run(
            tmp_path / "careful",
            manifest("ppo", parents={"branch_from": {"path": ppo, "update": 40}, "policy": of_sft}),
        ),
        "hub": Parent("hub", "org/x", None),
    }  # fmt: skip
    run(tmp_path / "base", manifest("base", parents="unreadable"))
    run(tmp_path / "ppo", manifest("ppo", parents={"policy": of_sft | {"stage": "sft", "revision": None}}))
    assert tree(parents, list(parents)) == [
        (0, base, ""),
        (1, "sft", str(tmp_path / "sft")),
        (2, "dpo", str(tmp_path / "dpo")),
        (2, ppo, ""),
        (3, "careful", f"{tmp_path / 'careful'}, from update 40"),
        (0, "hub", "org/x"),
    ]


def test_only_ppo_runs_of_the_reference_are_on_the_frontier(tmp_path: Path) -> None:
    of_sft = {"policy": {"digest": "sft-digest"}}
    ours = run(tmp_path / "ppo", manifest("ppo", parents=of_sft))
    other = run(tmp_path / "other", manifest("ppo", parents={"policy": {"digest": "another"}}))
    dpo = run(tmp_path / "dpo", manifest("dpo", parents=of_sft))
    assert list(paths([ours, other, dpo, ours, Parent("hub", "org/x", None)], "sft-digest")) == [ours.path]


def gold(value: float) -> dict[str, Any]:
    return {"models": {"sft": {"gold": {"mean": value, "low": 0, "high": 9}, "distinct_1": value / 10}}}


def test_seeds_by_hand(tmp_path: Path) -> None:
    for seed, value in ((1, 2.0), (2, 4.0), (0, 100.0)):  # the last is this comparison's seed again
        run(tmp_path / f"seed-{seed}" / "compare", manifest("compare", seed=seed), metrics=gold(value))
    found = over_seeds(f"{tmp_path}/seed-*/compare", gold(3.0) | {"seed": 0})
    assert found.seeds == [0, 1, 2]
    assert found.metrics == {"sft": {"gold": (3.0, 1.0), "distinct_1": (pytest.approx(0.3), pytest.approx(0.1))}}


def test_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    assert over_seeds(None, gold(1.0) | {"seed": 0}) is None
    assert over_seeds(f"{tmp_path}/none-*", gold(1.0) | {"seed": 0}) is None


def test_seeds_must_match_comparisons_of_the_same_columns(tmp_path: Path) -> None:
    run(tmp_path / "a", manifest("sft", seed=1))
    with pytest.raises(RunError, match="which is not a finished run of stage=compare"):
        over_seeds(f"{tmp_path}/a", gold(1.0) | {"seed": 0})
    run(tmp_path / "b", manifest("compare", seed=1), metrics={"models": {"base": {}}})
    with pytest.raises(RunError, match=r"whose columns are base: match only comparisons of sft"):
        over_seeds(f"{tmp_path}/b", gold(1.0) | {"seed": 0})
