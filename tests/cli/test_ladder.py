"""stage=ladder in miniature: methods over two seeds, one of which fails, and the same command again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import main
from rlhf.config import Hardware, Settings, Strategy
from tests.conftest import FAST, TINY, tiny_overrides
from tests.test_resume import END, kill_in, results

METHODS = {"dpo": ["stage=dpo"], "rloo": ["stage=ppo", "stage.advantage=rloo", "stage.samples=2"]}
BROKEN = ["stage=ppo", "stage.sentinel.start_error=1e-9", "stage.rewards={mine: {function: 'math:missing'}}"]


def mapping(of: dict[str, list[str]]) -> str:
    return ", ".join(f"{name}: [{', '.join(map(repr, items))}]" for name, items in of.items())


def arguments(root: Path, methods: dict[str, list[str]], *more: str) -> list[str]:
    stages = {name: own[0].removeprefix("stage=") for name, own in methods.items()}
    fast = {name: [own[0], *FAST[stages[name]], *own[1:]] for name, own in methods.items()}
    parents = mapping({name: list(FAST[name]) for name in ("base", "sft", "reward")})
    unused = [f"stage.methods.{name}=null" for name in ("kto", "raft", "ipo", "ppo", "grpo", "dr_grpo", "reinforce_pp")]
    own = [f"++stage.methods={{{mapping(fast)}}}", f"stage.parents={{{parents}}}", "stage.seeds=[1,2]"]
    return ["rlhf", "stage=ladder", f"checkpoints={root}", *TINY, *unused, *own, *more]


def ladder(monkeypatch: pytest.MonkeyPatch, root: Path, methods: dict[str, list[str]], *more: str) -> None:
    monkeypatch.setattr("sys.argv", arguments(root, methods, *more))
    main.main()


def test_methods_run_over_seeds_a_failed_one_leaves_the_others_and_a_budget_sets_their_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    place = tmp_path / "almanac" / "ladder"
    with pytest.raises(SystemExit):
        ladder(monkeypatch, tmp_path, METHODS | {"broken": BROKEN})
    told = capsys.readouterr()
    assert "2 of 6 runs failed" in told.err
    text = (place / "report" / "ladder.md").read_text()
    assert text.count("seed-1/broken") == 1
    assert "difference from dpo" in text

    ladder(monkeypatch, tmp_path, METHODS)
    told = capsys.readouterr().out
    assert told.count("up to date, skipped") == 10
    found = json.loads((place / "report" / "ladder.json").read_text())
    following = told.splitlines()[-1]
    assert following.startswith("Next: python -m rlhf stage=publish ")
    assert following.endswith(f" stage.run={found['best']}")
    assert {one["method"] for one in found["methods"]} == set(METHODS)
    for one in found["methods"]:
        golds = [json.loads((place / f"seed-{n}" / one["method"] / "run.json").read_text())["metrics"] for n in (1, 2)]
        assert one["metrics"]["gold"] == {str(n): metrics["gold"] for n, metrics in enumerate(golds, 1)}
        assert one["weights"]["1"] != one["weights"]["2"]

    ladder(monkeypatch, tmp_path, METHODS, "stage.seeds=[1]", "stage.budget=1200")
    found = json.loads((place / "report" / "ladder.json").read_text())
    spent = {one["method"]: one["cost"]["1"] for one in found["methods"]}
    assert spent["dpo"]["sampled"] == 0 < spent["rloo"]["sampled"]
    tokens = {name: cost["sampled"] + cost["trained"] for name, cost in spent.items()}
    assert all(600 < count < 2400 for count in tokens.values()), tokens


def page(directory: Path) -> dict[str, Any]:
    """The page's content without times and paths."""
    found = json.loads((directory / "report" / "ladder.json").read_text())
    kept = ("method", "metrics", "cost", "weights", "test")
    return found | {"methods": [{key: one[key] for key in kept} for one in found["methods"]], "best": None}


KILLS = [  # function and the call in which the process is killed
    ("rlhf.training.exact_resume.Keeper.on_save", 2),  # within dpo, after its first checkpoint
    (END, 1),  # between dpo's end and its place
    ("rlhf.ppo.checkpoint.save", 2),  # within rloo
    ("rlhf.stages.ladder.as_json", 1),  # within the page
]


def test_killed_in_a_method_at_its_end_and_in_the_page_it_ends_with_the_same_bytes(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, reward = (f"stage.{role}={chain}/almanac/{run}" for role, run in (("policy", "sft"), ("reward", "reward")))
    methods = {
        "rloo": [*METHODS["rloo"], policy, reward, "stage.updates=3"],
        "dpo": [*METHODS["dpo"], policy, "stage.trainer.save_steps=1"],
    }
    own = ("stage.parents={base: null, sft: null, reward: null}", "stage.seeds=[1]")
    for function, call in KILLS:
        kill_in(arguments(tmp_path / "cut", methods, *own), function, call)
    for name in ("cut", "whole"):
        ladder(monkeypatch, tmp_path / name, methods, *own)
    cut, whole = (tmp_path / name / "almanac" / "ladder" for name in ("cut", "whole"))
    for method in methods:
        assert results(cut / "seed-1" / method) == results(whole / "seed-1" / method)
    assert page(cut) == page(whole)
    assert not list(cut.rglob(".*"))


@pytest.fixture
def losses(chain: Path) -> list[str]:
    """Two methods of one step from the runs of the chain, and one seed."""
    policy = f"stage.policy={chain}/almanac/sft"
    methods = {name: ["stage=dpo", f"stage.loss=[{name}]", policy] for name in ("sigmoid", "hinge")}
    own = arguments(Path(), methods, "stage.parents={base: null, sft: null, reward: null}", "stage.seeds=[1]")
    unused = ("stage.methods.dpo=null", "stage.methods.rloo=null")
    return [*own[3:], *unused, "eval_set.prompts=2", "eval_set.samples=1", "stage.baseline=hinge", "hardware=cpu"]


def test_the_runs_of_a_ladder_are_shared_by_two_processes_and_its_page_is_not(
    losses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/hardware/test_launch.py starts the processes."""
    started = []

    def start(function: Callable, settings: Settings, *rest: Any, hardware: Hardware) -> dict[str, float]:
        started.append((settings.stage.name, hardware.processes))
        alone = replace(hardware, strategy=Strategy.none, processes=None)
        return function(replace(settings, hardware=alone), *rest)

    monkeypatch.setattr("rlhf.hardware.launch.start", start)
    own = ["hardware.strategy=ddp", "hardware.processes=2"]
    monkeypatch.setattr("sys.argv", ["rlhf", "stage=ladder", f"checkpoints={tmp_path}", *losses, *own])
    main.main()
    assert started == [("dpo", 2), ("dpo", 2)]
    assert len(page(tmp_path / "almanac" / "ladder")["methods"]) == 2


def test_budgets_are_swept(losses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job is a whole ladder, and the best run of the last is published."""
    given = ["rlhf", "-m", "stage=ladder", f"checkpoints={tmp_path}", *losses, "stage.budget=500,1500"]
    monkeypatch.setattr("sys.argv", given)
    main.main()
    steps = []
    for budget in (500, 1500):
        place = tmp_path / "almanac" / "ladder" / f"stage.budget-{budget}"
        best = json.loads((place / "report" / "ladder.json").read_text())["best"]
        assert str(place.relative_to(tmp_path)) in best
        steps.append(json.loads((place / "seed-1" / "hinge" / "run.json").read_text())["metrics"]["steps"])
    assert steps[0] < steps[1]
    monkeypatch.setattr("sys.argv", ["rlhf", *tiny_overrides("publish", tmp_path), f"stage.run='{best}'"])
    main.main()
    [card] = (tmp_path / "almanac" / "publish" / "bundles").glob("*/README.md")
    assert "| dpo | " in card.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            "stage.budget=9 +stage.methods.mine=['stage=base']",
            "stage.budget=9 cannot set the length of stage=base: set",
        ),
        ("stage.baseline=sft", "stage.baseline must be null or one of dpo"),
        ("stage.seeds=[1,1]", "stage.seeds must be one seed or more, each once"),
        ("+stage.methods.mine=['stage.beta=0.1']", "stage.methods.mine must be a list of settings with one stage="),
        ("+stage.methods.mine=['stage=dpo','stage.bta=0.1']", "there is no setting stage.bta"),
        (
            "data.gold=null",
            "stage.methods.dpo runs stage=dpo, whose policy is not scored without data.gold: set data.gold",
        ),
        ("+stage.methods.mine=['stage=sft']", "stage=sft, whose policy is not scored: set stage.methods.mine=null"),
        ("eval_set.prompts=0", "eval_set.prompts=0 leaves the policies of stage=ladder without a score: set 1 or more"),
        ("+stage.methods.mine=['stage=status']", "stage.methods.mine runs stage=status, which does not train"),
    ],
)
def test_mistakes_are_reported_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, own: str, message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["rlhf", "stage=ladder", f"checkpoints={tmp_path}", *own.split()])
    with pytest.raises(SystemExit):
        main.main()
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
