import pytest
from rich.console import Console
from rich.text import Text

from rlhf.runs.tree import Line, among, draw, nested, strokes, updates
from tests.conftest import manifest

LINES = [Line(0, "base"), Line(1, "sft"), Line(2, "dpo"), Line(2, "ppo", "from update 2"), Line(0, "other")]


def test_a_run_is_below_its_first_known_parent_and_runs_with_one_parent_are_together() -> None:
    parents = {"ppo": ["gone", "sft", "reward"], "sft": ["base"], "other": ["gone"], "base": [], "dpo": ["sft"]}
    expected = [("base", 0), ("sft", 1), ("ppo", 2), ("dpo", 2), ("other", 0)]
    assert nested(parents) == expected


@pytest.mark.parametrize("parents", [{"a": ["a"]}, {"a": ["b"], "b": ["a"]}, {"a": ["b"], "b": ["c"], "c": ["a"]}])
def test_a_run_that_replaced_its_own_parent_is_drawn_once(parents: dict[str, list[str]]) -> None:
    assert sorted(key for key, _ in nested(parents)) == sorted(parents)


def test_it_is_drawn_on_a_terminal() -> None:
    console = Console(width=60)
    with console.capture() as shown:
        console.print(draw(Text("runs"), LINES))
    assert shown.get().splitlines() == [
        "runs",
        "├── base",
        "│   └── sft",
        "│       ├── dpo",
        "│       └── ppo: from update 2",
        "└── other",
    ]


def test_strokes_continue_to_the_last_run_below_a_run() -> None:
    levels = [0, 1, 2, 3, 1, 2, 0]
    assert strokes(levels) == ["", "├ ", "│ └ ", "│   └ ", "└ ", "  └ ", ""]
    assert strokes([line.level for line in LINES]) == ["", "└ ", "  ├ ", "  └ ", ""]


def test_runs_that_are_left_out_leave_no_gap() -> None:
    """sft is left out: both runs below it are below base."""
    found = among([*LINES[:3], Line(3, "late"), *LINES[3:]], {"base", "dpo", "late", "ppo"})
    assert [(line.level, line.name) for line in found] == [(0, "base"), (1, "dpo"), (2, "late"), (1, "ppo")]


def test_only_a_branch_starts_from_an_update() -> None:
    parents = {"branch_from": {"path": "checkpoints/a/ppo", "update": 40}, "policy": {"path": "checkpoints/a/sft"}}
    assert updates(manifest("ppo", parents=parents)) == ["from update 40"]
    assert updates(manifest("sft")) == []
