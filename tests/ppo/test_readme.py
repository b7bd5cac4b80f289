"""What the README says is there, and what it shows runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.rewards import Composition, Ensemble, Term
from rlhf.storage.paths import PACKAGE, bundled
from tests.ppo.conftest import length_reward, new_policy

README = (PACKAGE / "ppo" / "README.md").read_text(encoding="utf-8")
TESTS = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore:.*newly initialized.*")
def test_the_library_example_runs(tokenizer: Any, tmp_path: Path) -> None:
    new_policy(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/to/model", str(tmp_path)), names)
    assert names["trainer"].update == 2
    assert names["metrics"]["objective/scores"] <= 0


def test_every_logged_metric_is_explained(new_trainer: Any) -> None:
    members = Ensemble([length_reward, length_reward])
    trainer = new_trainer(updates=1, reward=Composition({"<term>": Term(members)}), gold=length_reward)
    glossary = README.split("## Metrics")[1].split("## As a library")[0]
    names = [line.split("|")[1] for line in glossary.splitlines() if line.startswith("| `")]
    assert {name for cell in names for name in re.findall(r"`([^`]+)`", cell)} == set(trainer.train())


ROWS = [line for line in README.splitlines() if re.match(r"\| \d+ \|", line)]


def test_rows_are_numbered_and_begin_with_the_details_of_the_paper() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) > 27
    assert all(len(row.split("|")) == 8 for row in ROWS)
    assert not [row for row in ROWS if "not built" in row]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_every_function_setting_and_test_that_a_row_names_exists(row: str) -> None:
    _, _, what, where, source, differs, proof, _ = (cell.strip() for cell in row.split("|"))
    assert what
    assert source
    assert differs
    places, tests = named(where, PACKAGE), named(proof, TESTS)
    assert places
    assert tests
    for path, name in places:
        text = path.read_text(encoding="utf-8")
        for part in name.split("."):
            pattern = rf"^ *{part}:" if path.suffix == ".yaml" else rf"(def|class) {part}\b"
            assert re.search(pattern, text, re.MULTILINE), f"{path} has no {name}"
    for path, name in tests:
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{path} has no {name}"


def named(cell: str, root: Path) -> list[tuple[Path, str]]:
    """``path: name`` in backticks, or a further name in the same file: as (file, name)."""
    found: list[tuple[Path, str]] = []
    for item in re.findall(r"`([^`]+)`", cell):
        path, _, name = item.rpartition(": ")
        found.append((place(root, path) if path else found[-1][0], name))
    return found


def place(root: Path, path: str) -> Path:
    """A file as the README names it: in this folder, in conf/, or from the root of the package or of the tests."""
    if path.startswith("conf/"):
        return bundled("conf") / path.removeprefix("conf/")
    near = root / "ppo" / path
    return near if near.is_file() else root / path.removeprefix("tests/")
