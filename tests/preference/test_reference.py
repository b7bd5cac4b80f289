import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from rlhf.config import Settings, Strategy
from rlhf.data.cache import ROWS
from rlhf.hardware import ranks
from rlhf.preference.reference import Kept, beside_shards, kept, with_log_probs
from rlhf.runs.run import Run
from rlhf.stages import execute

ROWS_GIVEN = Dataset.from_list([{"chosen_ids": [n]} for n in range(5)])


class Reference:
    """Yields batches of two, and counts its calls."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.asked += 1
        for start in range(0, 5, 2):
            chosen = torch.arange(start, min(start + 2, 5)) / -3
            yield chosen, chosen - 1


def asked(
    compute: Reference, folder: Path, identity: tuple = ("digest",), batch: int = 2, weights: str = "w"
) -> Dataset:
    return with_log_probs(ROWS_GIVEN, Kept(str(folder), "dpo", identity), "train", batch, weights, compute)


def test_it_is_computed_once_and_cached_to_the_bit(tmp_path: Path) -> None:
    compute = Reference()
    first, second = asked(compute, tmp_path), asked(compute, tmp_path)
    assert compute.asked == 1
    assert first["chosen_ids"] == [[n] for n in range(5)]
    assert torch.tensor(first["ref_chosen_logps"]).equal(torch.arange(5) / -3)
    assert first.to_dict() == second.to_dict()


def test_another_model_batch_or_weights_without_a_digest_are_computed(tmp_path: Path) -> None:
    compute = Reference()
    asked(compute, tmp_path)
    asked(compute, tmp_path, ("other",))
    asked(compute, tmp_path, batch=3)
    asked(compute, tmp_path, weights="v")
    assert compute.asked == 3
    for weights in ("v", "w", "w"):
        asked(compute, tmp_path, (None,), weights=weights)
    assert compute.asked == 5


def test_corrupted_entries_are_computed_again(tmp_path: Path) -> None:
    compute = Reference()
    asked(compute, tmp_path)
    [file] = tmp_path.rglob(ROWS)
    file.write_bytes(file.read_bytes()[:-20])
    assert asked(compute, tmp_path)["ref_chosen_logps"][4] == pytest.approx(-4 / 3)
    assert compute.asked == 2


def test_a_failed_pass_leaves_no_files(tmp_path: Path) -> None:
    def fails() -> Iterator[Any]:
        yield torch.zeros(2), torch.zeros(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(fails, tmp_path)
    assert not list(tmp_path.iterdir())


def test_several_processes_each_compute_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes; the second one is simulated."""
    whole = list(Reference()())
    monkeypatch.setattr(ranks, "started", lambda: True)
    monkeypatch.setattr(ranks, "anywhere", bool)
    monkeypatch.setattr(ranks, "gathered", lambda own: [own, whole[1::2]])
    first = asked(lambda: iter(whole[::2]), tmp_path)
    assert torch.tensor(first["ref_chosen_logps"]).equal(torch.arange(5) / -3)
    assert asked(Reference(), tmp_path).to_dict() == first.to_dict()


def test_a_sharded_policy_has_no_cache(settings: Callable[..., Settings], capsys: pytest.CaptureFixture) -> None:
    given = settings("dpo")
    assert beside_shards(given, Strategy.ddp, told=True) is given
    assert capsys.readouterr().out == ""
    assert not beside_shards(given, Strategy.fsdp, told=True).stage.cache_reference
    assert "dpo: under fsdp no process holds" in capsys.readouterr().out


def test_the_key_depends_on_length_and_precision(settings: Callable[..., Settings]) -> None:
    parent = SimpleNamespace(digest="d", revision=None)

    def identity(longest: int, *overrides: str) -> tuple:
        arguments = SimpleNamespace(
            max_length=longest, truncation_mode="keep_start", device="cpu", bf16=False, fp16=False
        )
        return kept(settings("dpo", *overrides), parent, arguments, True).identity

    same = identity(64)
    assert same == identity(64, "stage.beta=0.5", "stage.loss=[ipo]", "stage.trainer.learning_rate=0.1", "seed=3")
    assert same != identity(32)
    assert same != identity(64, "model.dtype=bfloat16")


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_sweep_computes_it_once_and_results_are_bit_identical(
    beside_chain: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture, adapter: str
) -> None:
    """The first run computes it; another beta or the same run again do not; without a cache nothing changes."""

    def metrics(name: str, *overrides: str) -> tuple[list[str], str]:
        own = [f"adapter={adapter}", f"data.cache={tmp_path}/cache", "stage.trainer.learning_rate=0.01", *overrides]
        execute(beside_chain("dpo", *own), tmp_path / name)
        lines = (Run.open(tmp_path / name).directory / "metrics.jsonl").read_text().splitlines()
        return lines, capsys.readouterr().out

    first, printed = metrics("first")
    assert printed.count("log-probabilities of the reference") == 2  # train and validation
    _, printed = metrics("beta", "stage.beta=0.5", "stage.loss=[ipo]", "stage.trainer.learning_rate=0.02")
    assert "log-probabilities of the reference" not in printed
    again, printed = metrics("again")
    assert "log-probabilities of the reference" not in printed
    assert again == first
    anew, printed = metrics("anew", "stage.cache_reference=false", "stage.shared_prefix=off")
    assert "log-probabilities of the reference" not in printed
    for cached, plain in zip(first, anew, strict=True):
        assert json.loads(cached) == pytest.approx(json.loads(plain), rel=1e-3, abs=1e-4)
