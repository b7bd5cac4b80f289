"""docs/ppo.md: its example runs, and every metric, function, setting and test that it names exists."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.rewards import CompositeReward, Ensemble, RewardTerm
from rlhf.storage.paths import PACKAGE, bundled
from tests.docs import columns, page, section
from tests.ppo.conftest import length_reward, new_policy

PPO = page("ppo")
TESTS = Path(__file__).parents[1]
DETAILS = re.findall(r"^### (\d+\. [^\n]+)\n(.*?)(?=^##)", PPO, re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore:.*newly initialized.*")
def test_the_library_example_runs(tokenizer: Any, tmp_path: Path) -> None:
    new_policy(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", PPO, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/to/model", str(tmp_path)), names)
    assert names["trainer"].update == 2
    assert names["metrics"]["objective/scores"] <= 0


def test_every_logged_metric_is_explained(new_trainer: Any) -> None:
    members = Ensemble([length_reward, length_reward])
    scorers = {"gold": length_reward, "shadows": {"<name>": length_reward}}
    trainer = new_trainer(updates=1, reward=CompositeReward({"<term>": RewardTerm(members)}), **scorers)
    compared = new_trainer(updates=1, advantage="grpo", samples=2)
    taught = new_trainer(updates=1, teacher="larger", ptx_coef=1.0, text=[[1, 2], [2, 3]])
    distant = {"reward/distance", "reward/far"}  # tests/rewards/test_build.py
    assert columns(section(PPO, "Metrics")) == distant | set(trainer.train()) | set(compared.train()) | set(
        taught.train()
    )


def test_details_are_numbered_and_begin_with_those_of_the_paper() -> None:
    assert [int(title.split(".")[0]) for title, _ in DETAILS] == list(range(1, len(DETAILS) + 1))
    assert len(DETAILS) > 27


@pytest.mark.parametrize("detail", DETAILS, ids=[title for title, _ in DETAILS])
def test_every_function_setting_and_test_of_a_detail_exists(detail: tuple[str, str]) -> None:
    lines = dict(re.findall(r"^- (Code|Source|Others|Test): (.+)", detail[1], re.MULTILINE))
    assert lines["Source"]
    code, tests = (re.findall(r"`([^`]+)`", lines[key]) for key in ("Code", "Test"))
    assert code
    assert tests
    for name in code:
        assert setting(name) if name.startswith("conf/") else function(name), f"{name} does not exist"
    every = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    for name in tests:
        assert f"def {name}(" in every, f"{name} does not exist"


def setting(name: str) -> bool:
    """``conf/file.yaml: key``"""
    path, _, key = name.removeprefix("conf/").partition(": ")
    return bool(re.search(rf"^ *{key}:", (bundled("conf") / path).read_text(encoding="utf-8"), re.MULTILINE))


def function(name: str) -> bool:
    """``module.function`` or ``module.Class.method``, in any module of that name."""
    module, *parts = name.split(".")
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob(f"{module}.py")]
    return any(all(re.search(rf"(def|class) {part}\b", text) for part in parts) for text in texts)
