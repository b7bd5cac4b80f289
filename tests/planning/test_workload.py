"""Steps and tokens, by hand; and rows counted as the stages read them."""

import json
from pathlib import Path

import pytest

from rlhf.config import DPOStage
from rlhf.errors import RlhfError
from rlhf.planning.workload import Rows, noted, of_samples, padding, repeated, rows_of, sampled, trained
from tests.conftest import TINY, composed
from tests.planning.conftest import plan_of

LOCAL = ("experiment=none", "data=local")


def trainer(batch: int, times: int, epochs: float = 1, max_length: int = 100) -> list[str]:
    given = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": times}
    given |= {"num_train_epochs": epochs, "max_length": max_length}
    return [*LOCAL, *(f"stage.trainer.{key}={value}" for key, value in given.items())]


def test_sft_by_hand() -> None:
    """10 rows of 25 tokens, 4 · 2 per step: 2 steps per epoch."""
    work = trained(composed("stage=sft", *trainer(4, 2, epochs=3)), Rows(10, [(20, 5)], "stated"), 1)
    assert (work.steps, work.tokens, work.trained, work.read) == (6, 750, 750, 0)
    assert (work.at_once, work.longest, work.typical) == (4, 100, 25)


def test_devices_share_the_rows() -> None:
    rows = Rows(64, [(20, 5)], "counted")
    one, four = (trained(composed("stage=sft", *trainer(4, 2)), rows, devices) for devices in (1, 4))
    assert (one.steps, four.steps) == (8, 2)
    assert one.tokens == four.tokens == 64 * 25
    assert one.longest == 25  # the longest of all rows


def test_pairs_are_two_sequences_and_dpo_reads_them_again() -> None:
    rows = Rows(10, [(20, 5, 10)], "counted")
    reward, dpo = (trained(composed(f"stage={name}", *trainer(5, 1)), rows, 1) for name in ("reward", "dpo"))
    assert reward.tokens == dpo.tokens == 10 * (25 + 30)
    assert (reward.read, dpo.read) == (0, 550)
    assert reward.at_once == 10
    assert isinstance(composed("stage=dpo").stage, DPOStage)


def test_max_steps_is_used() -> None:
    settings = composed("stage=sft", *trainer(4, 1), "stage.trainer.max_steps=7")
    assert (trained(settings, Rows(10, [(20, 5)], "stated"), 1)).tokens == 7 * 4 * 25


def test_padding_by_hand() -> None:
    """In one part of four all are as long as the longest; sorted in two parts, 10 and 20, 30 and 40."""
    rows = [[10], [20], [30], [40]]
    assert padding(rows, 4, 0, grouped=False) == 40
    assert padding(rows, 2, 0, grouped=True) == (20 + 20 + 40 + 40) / 4
    assert padding([[10, 20]], 1, 0, grouped=False) == 40
    assert padding(rows, 1, 0, grouped=False) == 25


def test_pretraining_cuts_blocks() -> None:
    """100 texts of 50 tokens are 5,000: 39 blocks of 128."""
    settings = composed("stage=base", "experiment=none", "stage.block_length=128")
    work = trained(settings, Rows(100, [(50,)], "counted"), 1)
    assert (work.tokens, work.steps) == (39 * 128, 5)
    assert work.typical == 128


def test_ppo_by_hand() -> None:
    """2 updates of 8 prompts of 30 tokens with responses of 10; policy and critic learn in 3 epochs."""
    given = {"updates": 2, "batch_size": 8, "minibatches": 2, "micro_batch_size": 3, "epochs": 3}
    settings = composed(
        "stage=ppo", *LOCAL, "stage.max_response_length=10", *(f"stage.{k}={v}" for k, v in given.items())
    )
    work = sampled(settings, Rows(50, [(30,)], "counted"), 1)
    assert work.steps == 2 * 3 * 2
    assert work.tokens == 16 * 40
    assert work.drawn == 16 * 10
    assert work.trained == 16 * 40 * 3 * 2
    assert work.read == 16 * 40 * 3  # reference, critic and a reward model; the policy noted its own in drawing
    half = composed("stage=ppo", *LOCAL, "model.dtype=bfloat16")
    assert (noted(settings), noted(half)) == (True, False)
    assert (work.rows, work.at_once, work.longest) == (8, 3, 40)
    assert sampled(settings, Rows(50, [(30,)], "counted"), 4).rows == 2


def test_rows_are_counted_as_the_stages_read_them(chain: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "chosen": "It is a number.", "rejected": "No."} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = f"stage.policy={chain / 'almanac' / 'sft'}"
    settings = composed("stage=dpo", policy, f"data.path={tmp_path}/pairs.jsonl", "data.holdout=0.2")
    found = rows_of(settings, plan_of())
    assert 0 < found.count == len(found.lengths) < 40
    assert found.source == "counted"
    [prompt, chosen, rejected] = found.lengths[0]
    assert chosen > rejected > 0 < prompt


def test_before_anything_is_trained_a_tokenizer_is_made_as_base_makes_it(tmp_path: Path) -> None:
    given = (f"checkpoints={tmp_path}", *TINY)
    for stage in ("base", "sft", "ppo"):
        found = rows_of(composed(f"stage={stage}", *given), plan_of())
        assert found.count == 24
        assert len(found.lengths[0]) == {"base": 1, "sft": 2, "ppo": 1}[stage]


def test_missing_data_are_stated() -> None:
    found = rows_of(composed("stage=sft", "experiment=tldr-pythia"), plan_of())
    assert (found.count, found.lengths) == (116_722, [(350, 40)])
    assert rows_of(composed("stage=reward", "experiment=tldr-pythia"), plan_of()).lengths == [(350, 40, 40)]
    assert rows_of(composed("stage=ppo", "experiment=tldr-pythia"), plan_of()).lengths == [(350,)]
    limited = composed("stage=sft", "experiment=tldr-pythia", "data.demonstrations.limit=500")
    assert rows_of(limited, plan_of()).count == 500


def test_missing_data_and_tokenizer_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = composed("stage=sft", "experiment=none", "model=gpt2", "data=local", "data.path=nowhere.jsonl")
    with pytest.raises(RlhfError, match="cannot be loaded"):  # the tokenizer, without a network
        rows_of(settings, plan_of())


def test_many_rows_are_sampled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rlhf.planning.workload.COUNTED", 5)
    found = rows_of(composed("stage=sft", f"checkpoints={tmp_path}", *TINY), plan_of())
    assert (found.count, len(found.lengths)) == (24, 5)


def test_online_dpo_makes_pairs_of_its_prompts_in_every_round() -> None:
    """10 prompts of 20 tokens, 4 responses of at most 5: 10, 30 or 60 pairs per round."""
    for pairs, count in {"best_worst": 10, "best": 30, "all": 60}.items():
        given = ["stage.samples=4", "stage.rounds=3", "stage.max_response_length=5", f"stage.pairs={pairs}"]
        settings = composed("stage=online_dpo", *trainer(5, 1), "stage.reward=r", *given)
        rows = of_samples(settings, Rows(10, [(20,)], "counted"))
        assert rows == Rows(count, [(20, 5, 5)], "counted")
        one = trained(settings, rows, 1)
        work = repeated(settings, one, rows)
        assert (work.steps, work.drawn) == (3 * count // 5, 3 * 10 * 4 * 5)
        assert work.read == 3 * (one.read + 10 * 4 * 25)


def test_raft_trains_twice_with_a_control() -> None:
    for control, times in {"true": 2, "false": 1}.items():
        given = ["stage.samples=4", "stage.max_response_length=5", "stage.prompts=6", f"stage.control={control}"]
        settings = composed("stage=raft", *trainer(3, 1), "stage.reward=r", *given)
        rows = of_samples(settings, Rows(10, [(20,)], "counted"))
        assert rows == Rows(6, [(20, 5)], "counted")
        work = repeated(settings, trained(settings, rows, 1), rows)
        assert (work.steps, work.drawn, work.read) == (2 * times, 6 * 4 * 5, 6 * 4 * 25)
