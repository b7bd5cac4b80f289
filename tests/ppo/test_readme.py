"""What the README says is there, and what it shows runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.paths import PACKAGE
from rlhf.rewards import Composition, Ensemble, Term
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


def test_every_function_and_test_that_a_row_names_exists() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        _, _, _, where, _, _, proof, _ = row.split("|")
        files = set(re.findall(r"`([\w/]+\.py):", where))
        source = "".join(read(PACKAGE, path) for path in files)
        for name in re.findall(r"[ `.](\w+)`", where):
            assert re.search(rf"(def|class) {name}\b", source), (row, name)
        tests = "".join(read(TESTS, path) for path in re.findall(r"`([\w/]+\.py):", proof))
        for name in re.findall(r"\btest_\w+(?=`)", proof):
            assert f"def {name}(" in tests, (row, name)


def read(root: Path, path: str) -> str:
    """A file as the README names it: in this folder, or by its path from the root of the package or of the tests."""
    near = root / "ppo" / path
    return (near if near.is_file() else root / path.removeprefix("tests/")).read_text(encoding="utf-8")
