import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError, DataError
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.data.test_load import write

# As CSV and JSON files have them: numbers, booleans, words, in any case.
UP, DOWN = (1, True, "True", "desirable", "thumbs_up", "1.0"), (0, False, "False", "undesirable", "thumbs_down", "0")


def unpaired(path: Path, count: int = 48, share: float = 0.5) -> Path:
    """Thumbs of which no prompt has two."""
    rows = []
    for n in range(count):
        up = n < count * share
        rows.append({"prompt": f"What is {n}?", "completion": f"It is {n}.", "label": (UP if up else DOWN)[n % 6]})
    return write(path, rows)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_thumbs_without_a_counterpart_are_trained_on(
    beside_chain: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture, adapter: str
) -> None:
    """At the first step policy and reference agree, so every response is worth 1/2."""
    path = unpaired(tmp_path / "thumbs.jsonl", share=0.25)
    given = [f"data.path={path}", "data.preferences.limit=null", "data.gold=null", f"adapter={adapter}"]
    fast = ["stage.trainer.learning_rate=0.01", "stage.trainer.warmup_steps=0", "stage.trainer.max_steps=6"]
    settings = beside_chain("kto", *given, *fast)
    metrics = execute(settings, tmp_path / "kto")
    data = Run.open(tmp_path / "kto").manifest["data"]["preferences"]
    assert sum(data[split]["desirable"] for split in data) == 12
    assert sum(data[split]["undesirable"] for split in data) == 36
    good, bad = data["train"]["desirable"], data["train"]["undesirable"]
    shown = " ".join(capsys.readouterr().out.split())
    assert f"stage.desirable_weight={bad / good:.4g} and stage.undesirable_weight=1: ratio 1, within" in shown
    first = json.loads((tmp_path / "kto" / "metrics.jsonl").read_text().splitlines()[0])
    others = first["train/rewards/accuracies"]  # the share of undesirable responses, of which none is above 0
    assert first["train/kl"] == 0.0
    assert {first.get(f"train/rewards/{side}", 0.0) for side in ("chosen", "rejected")} == {0.0}
    assert first["train/loss"] == pytest.approx(0.5 * (bad / good * (1 - others) + others), abs=1e-4)
    assert metrics["objective"] == metrics["eval/rewards/accuracies"]
    assert metrics["eval/rewards/margins"] != 0
    assert metrics["kl"] != 0


def test_a_pair_is_a_desirable_and_an_undesirable_response(
    beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    execute(beside_chain("kto"), tmp_path / "kto")
    data = Run.open(tmp_path / "kto").manifest["data"]["preferences"]
    assert data["train"]["rows"] == 24  # data.preferences.limit
    assert data["train"]["desirable"] + data["train"]["undesirable"] == 24
    assert min(data["train"]["desirable"], data["train"]["undesirable"]) > 0


def test_thumbs_ratings_pairs_and_rankings_are_counted_by_origin(
    beside_chain: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The counts of training, over its splits, are those of the data sheet for the whole file."""

    def asked(name: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": name}]

    good, bad = ([{"role": "assistant", "content": text}] for text in ("a", "b"))
    rows: list[dict[str, Any]] = [{"prompt": asked(f"T{n}"), "completion": good, "label": n < 5} for n in range(12)]
    rows += [{"prompt": f"R{n}", "response": "a", "helpfulness": n % 4} for n in range(12)]
    rows += [{"prompt": asked(f"P{n}"), "chosen": good, "rejected": bad} for n in range(6)]
    rows += [{"prompt": asked(f"S{n}"), "responses": ["a", "b", "c"], "scores": [0, 2, 1]} for n in range(3)]
    given = (f"data.path={write(tmp_path / 'a.jsonl', rows)}", "data.preferences.limit=null", "data.gold=null")
    execute(beside_chain("kto", *given, "eval_set.prompts=0"), tmp_path / "kto")
    data = Run.open(tmp_path / "kto").manifest["data"]["preferences"]
    counts = Counter[str]()
    for split in data.values():
        counts.update({name: count for name, count in split.items() if " of " in name})
    assert counts == {
        "desirable of thumbs": 5, "undesirable of thumbs": 7, "desirable of ratings": 6, "undesirable of ratings": 6,
        "desirable of pairs": 6, "undesirable of pairs": 6, "desirable of rankings": 3, "undesirable of rankings": 3,
    }  # fmt: skip
    assert "rows of preferences/train: desirable of thumbs" in capsys.readouterr().out

    execute(beside_chain("inspect", *given), tmp_path / "inspect")
    [one] = json.loads((tmp_path / "inspect" / "data.json").read_text())["sheets"]
    assert one["kind"] == "preferences"
    assert one["sheet"]["singles"] == {
        "thumbs": {"desirable": 5, "undesirable": 7},
        "ratings": {"desirable": 6, "undesirable": 6, "from": 1.5},
        "pairs": {"desirable": 6, "undesirable": 6},
        "rankings": {"desirable": 3, "undesirable": 3},
    }


def test_a_file_of_one_class_is_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    path = unpaired(tmp_path / "thumbs.jsonl", share=1.0)
    with pytest.raises(DataError, match="has no undesirable response"):
        execute(beside_chain("kto", f"data.path={path}"), tmp_path / "kto")


@pytest.mark.parametrize(
    ("label", "message"),
    [("maybe", "field 'label' must say whether the answer is good"), (None, "field 'label' is missing")],
)
def test_another_label_is_refused(
    beside_chain: Callable[..., Settings], tmp_path: Path, label: Any, message: str
) -> None:
    rows = [{"prompt": f"{n}?", "completion": "a", "label": n % 2} for n in range(9)]
    path = write(tmp_path / "a.jsonl", [*rows, {"prompt": "q", "completion": "a", "label": label}])
    for stage in ("kto", "sft"):
        with pytest.raises(DataError, match=rf"a\.jsonl:10: {message}"):
            execute(beside_chain(stage, f"data.path={path}"), tmp_path / stage)


def test_demonstrations_are_refused(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": f"{n}?", "completion": "a"} for n in range(9)])
    with pytest.raises(DataError, match="field 'label' is missing; every row of thumbs needs prompt, completion and"):
        execute(beside_chain("kto", f"data.path={path}"), tmp_path / "kto")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stage.trainer.per_device_train_batch_size=1", "must be 2 or more for stage.loss=kto"),
        ("+stage.trainer.sync_ref_model=true", "set stage.cache_reference=false, too"),
    ],
)
def test_settings_are_checked(beside_chain: Callable[..., Settings], given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        beside_chain("kto", given)
