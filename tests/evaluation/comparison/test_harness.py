"""Our side of lm-eval-harness with a stub of its API; with the library installed, also the library itself."""

import importlib.machinery
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config import CompareStage
from rlhf.errors import ConfigError
from rlhf.evaluation.comparison import harness
from rlhf.evaluation.responses.answers import Candidate
from tests.conftest import composed

INSTALLED = find_spec("lm_eval") is not None
TASK = """\
task: parity
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{folder}/parity.jsonl"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Is {{{{number}}}} even?"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{number % 2}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def stage(cache: Path, *overrides: str) -> CompareStage:
    given = ("stage=compare", "stage.lm_eval.tasks=[parity]", f"stage.lm_eval.cache={cache}")
    return composed(*given, *overrides).stage_as(CompareStage)


def candidate(plain: bool = False) -> Candidate:
    return Candidate("sft", "model", SimpleNamespace(), plain)


class Stub:
    """lm-eval-harness with one task of three documents, and a metric that is not a mean over them."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def simple_evaluate(self, model: Any, **named: Any) -> dict[str, Any]:
        self.calls.append({"model": model, **named})
        samples = [
            {"doc_id": i, "filter": name, "acc": value, "perplexity": (1.0, 2)}
            for name in ("none", "strict")
            for i, value in enumerate((1.0, 0.0, float(name == "none")))
        ]
        metrics = {"alias": "parity", "acc,none": 2 / 3, "acc_stderr,none": "N/A", "acc,strict": 1 / 3}
        return {"results": {"parity": metrics | {"perplexity,none": 3.0}}, "samples": {"parity": samples}}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    made = Stub()
    manager = SimpleNamespace(match_tasks=lambda names: [name for name in names if name == "parity"])
    contents = {
        "lm_eval": {"simple_evaluate": made.simple_evaluate},
        "lm_eval.tasks": {"TaskManager": lambda include_path: manager},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": lambda **named: named},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for key, value in content.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(harness, "version", lambda name: "0.4.13")
    return made


def test_each_document_counts_once_and_only_by_metrics_that_are_means(stub: Stub, tmp_path: Path) -> None:
    asked = stage(tmp_path, "stage.lm_eval.shots=2", "stage.lm_eval.limit=3", "stage.lm_eval.chat=true")
    assert harness.evaluate(candidate(), None, asked, seed=7) == {"parity:acc": [1.0, 0.0, 1.0]}
    [call] = stub.calls
    assert (call["tasks"], call["num_fewshot"], call["limit"], call["apply_chat_template"]) == (["parity"], 2, 3, True)
    assert call["model"]["pretrained"] == "model"
    assert {call[name] for name in call if name.endswith("_seed")} == {7}
    assert call["log_samples"]
    harness.evaluate(candidate(plain=True), None, asked, seed=7)
    assert not stub.calls[1]["apply_chat_template"]
    assert not list(tmp_path.iterdir())  # nothing is known about the weights


def test_results_are_cached_by_weights_and_by_what_was_asked(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "parity.yaml").write_text("task: parity")
    cache = tmp_path / "cache"
    own = f"stage.lm_eval.include={tmp_path}/own"
    first = harness.evaluate(candidate(), "abc", stage(cache, own), 0)
    assert harness.evaluate(candidate(), "abc", stage(cache, own), 0) == first
    assert len(stub.calls) == 1
    harness.evaluate(candidate(), "abd", stage(cache, own), 0)
    harness.evaluate(candidate(), "abc", stage(cache, own, "stage.lm_eval.limit=2"), 0)
    harness.evaluate(candidate(), "abc", stage(cache, own), 1)
    (tmp_path / "own" / "parity.yaml").write_text("task: parity2")
    harness.evaluate(candidate(), "abc", stage(cache, own), 0)
    assert len(stub.calls) == len(list(cache.iterdir())) == 5
    stored = [json.loads(path.read_text()) for path in cache.iterdir()]
    assert {one["weights"] for one in stored} == {"abc", "abd"}


def test_unknown_tasks_and_folders_are_refused(stub: Stub, tmp_path: Path) -> None:
    harness.check(stage(tmp_path).lm_eval)
    with pytest.raises(ConfigError, match=r"lm-eval-harness has no task oak: `lm_eval ls tasks` lists them"):
        harness.check(stage(tmp_path, "stage.lm_eval.tasks=[parity,oak]").lm_eval)
    with pytest.raises(ConfigError, match="stage.lm_eval.include=nowhere is not a folder"):
        harness.check(stage(tmp_path, "stage.lm_eval.include=nowhere").lm_eval)


def test_a_missing_library_is_named_only_if_a_task_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    harness.check(stage(tmp_path, "stage.lm_eval.tasks=[]").lm_eval)
    with pytest.raises(ConfigError, match=r"pip install 'rlhf\[lm_eval\]'"):
        harness.check(stage(tmp_path).lm_eval)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="an extra: pip install 'rlhf[lm_eval]'")
@pytest.mark.filterwarnings("default")  # those of the library's dependencies
def test_the_library_measures_a_task_with_local_data(chain: Path, tmp_path: Path) -> None:
    (tmp_path / "parity.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "parity.jsonl").write_text("".join(f'{{"number": {i}}}\n' for i in range(10)))
    asked = stage(tmp_path / "cache", f"stage.lm_eval.include={tmp_path}")
    harness.check(asked.lm_eval)
    with pytest.raises(ConfigError, match="has no task oak"):
        harness.check(stage(tmp_path, "stage.lm_eval.tasks=[oak]", f"stage.lm_eval.include={tmp_path}").lm_eval)
    folder = chain / "almanac" / "sft" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    one = Candidate("sft", model, AutoTokenizer.from_pretrained(folder), plain=False)
    found = harness.evaluate(one, "abc", asked, seed=0)
    assert list(found) == ["parity:acc"]
    assert len(found["parity:acc"]) == 10
    assert set(found["parity:acc"]) <= {0.0, 1.0}
    assert harness.evaluate(one, "abc", asked, seed=0) == found
