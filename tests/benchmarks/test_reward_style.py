"""Length bias on real preferences, with the chain's tiny model and generated rows in the place of the real ones."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import reward_style
from benchmarks.reward_card import Set, split
from rlhf.cli import main
from tests.conftest import FAST

ROW = {"set": "a", "pairs": 9, "steps": 2.0, "equal style": 0.5, "shortest": 0.5, "longest": 0.75}


def test_every_option_is_trained_on_the_same_rows(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preference").mkdir()
    with gzip.open(tmp_path / "preference" / "tiny.jsonl.gz", "wt") as file:
        for number in range(700):
            long, short = " yes" * (number % 7 + 1), " no" * (number % 3 + 1)
            pair = {"prompt": f"Q{number}?", "chosen": long, "rejected": short}
            file.write(json.dumps(pair) + "\n")
    tiny = Set("tiny", "tiny.jsonl.gz", "", None, ("stage.trainer.max_length=64",))
    monkeypatch.setenv("RLHF_TEST_DATA", str(tmp_path))
    monkeypatch.setattr(reward_style, "MEASURED", {"tiny": tiny})
    monkeypatch.setattr(reward_style, "MODEL", ["model=local", f"model.path={chain}/almanac/base/model"])
    monkeypatch.setattr(reward_style, "RESULT", tmp_path / "style.json")
    monkeypatch.setattr(reward_style, "subprocess", SimpleNamespace(run=in_process(monkeypatch)))
    monkeypatch.setattr("sys.argv", ["x", "--seeds", "3", "--options", "default", "residual head", "--sets", "tiny"])
    reward_style.main()
    default, residual = json.loads((tmp_path / "style.json").read_text())["rows"]
    assert (default["option"], residual["option"]) == ("default", "residual head")
    assert default["pairs"] == residual["pairs"] > 0
    assert default["equal style"] != residual["equal style"]
    assert "| tiny | residual head | 1 |" in capsys.readouterr().out


def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(command: list[str], check: bool) -> None:
        monkeypatch.setattr("sys.argv", ["rlhf", *command[3:], *FAST["reward"]])
        main.main()

    return run


def test_means_and_intervals_over_seeds() -> None:
    rows = [ROW | {"option": option, "seed": seed, "accuracy": 0.5 + seed / 10, "spearman": -seed / 10}
            for option in ("default", "residual head") for seed in (0, 2)]  # fmt: skip
    _, _, default, residual = reward_style.table(rows)
    assert default.startswith("| a | default | 2 | 9 | 0.600 ±1.27")  # t(.975, 1) · .1414 / √2
    assert default.split(" | ")[6].startswith("-0.100 ±")
    assert residual.startswith("| a | residual head | 2 |")


def test_a_long_prompt_is_cut(tmp_path: Path) -> None:
    (tmp_path / "preference").mkdir()
    rows = [{"prompt": prompt, "chosen": " a", "rejected": " b"} for prompt in ("short: ", "much too long: ")]
    with gzip.open(tmp_path / "preference" / "posts.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    posts = Set("posts", "posts.jsonl.gz", "", None, (), (7, " ...: "))
    sizes = split(posts, tmp_path, tmp_path / "data")
    written = "".join((tmp_path / "data" / f"{name}.jsonl").read_text() for name in sizes)
    prompts = {json.loads(line)["prompt"] for line in written.splitlines()}
    assert prompts == {"short: ", "much to ...: "}
