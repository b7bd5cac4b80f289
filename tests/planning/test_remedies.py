"""Remedies: the printed overrides have the planned effect, and the first remedy that fits is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.remedies import first, single, tried
from tests.conftest import TINY, composed
from tests.planning.conftest import ROWS, plan_of

Ahead = Callable[..., Outlook]
GIVEN = ("experiment=none", "model=llama-3.2-1b", "data=local")


def remedies(ahead: Ahead, stage: str, gib: float, *more: str, gpus: int = 1) -> list:
    plan = ("stage.device=a100-80gb", f"stage.memory_gib={gib}", f"stage.gpus={gpus}")
    outlook = ahead(stage, *more, plan=plan)
    assert not outlook.fits
    return tried(outlook, plan_of(*plan), ROWS[stage])


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_the_printed_settings_give_the_planned_peak(stage: str, ahead: Ahead) -> None:
    """The overrides compose to the same plan, for every third remedy and for all combinations."""
    plan = plan_of("stage.device=a100-80gb", "stage.memory_gib=0.5")
    found = remedies(ahead, stage, 0.5)
    assert first(found) is None
    for remedy, outlook in [*found[::3], found[-1]]:
        settings = composed(f"stage={stage}", *GIVEN, *remedy.changes)
        assert look_ahead(settings, plan, ROWS[stage]).ledger.peak == outlook.ledger.peak, remedy.name


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_the_first_that_fits_really_does(stage: str, ahead: Ahead) -> None:
    peaks = sorted(outlook.ledger.peak for _, outlook in remedies(ahead, stage, 0.5))
    gib = peaks[0] / 2**30 / 0.92 * 1.01
    found = remedies(ahead, stage, gib)
    remedy, outlook = first(found)
    assert outlook.ledger.peak <= outlook.machine.room
    assert outlook.ledger.peak == min(one.ledger.peak for _, one in found if one.fits)
    settings = composed(f"stage={stage}", *GIVEN, *remedy.changes)
    given = plan_of("stage.device=a100-80gb", f"stage.memory_gib={gib}")
    assert look_ahead(settings, given, ROWS[stage]).fits


def test_remedies_that_keep_the_result_come_first(ahead: Ahead) -> None:
    names = [remedy.name for remedy, _ in remedies(ahead, "dpo", 0.5)]
    assert names[:4] == ["checkpointing", "micro-batches of 4", "micro-batches of 2", "micro-batches of 1"]
    assert names.index("LoRA") < names.index("LoRA of 4 bits")
    assert "checkpointing, micro-batches of 1" in names


def test_a_smaller_micro_batch_keeps_the_batch(ahead: Ahead) -> None:
    for remedy, outlook in remedies(ahead, "sft", 0.5):
        trainer = outlook.settings.stage.trainer
        assert trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] == 8, remedy.name
        assert outlook.work.steps == 13


def test_shards_need_several_gpus(ahead: Ahead) -> None:
    alone = [remedy.changes for remedy, _ in remedies(ahead, "sft", 0.5)]
    together = [remedy.changes for remedy, _ in remedies(ahead, "sft", 0.5, gpus=8)]
    assert ("hardware=fsdp",) in together
    assert ("hardware=fsdp",) not in alone
    assert not [
        changes for changes in (one.changes for one, _ in remedies(ahead, "ppo", 0.5)) if "fsdp" in str(changes)
    ]


def test_one_base_is_a_remedy_of_ppo(ahead: Ahead) -> None:
    names = [remedy.name for remedy, _ in remedies(ahead, "ppo", 0.5)]
    assert "LoRA on one base" in names
    given = ("adapter=lora", "stage.share_base_model=false")
    assert ("stage.share_base_model=null",) in [remedy.changes for remedy, _ in remedies(ahead, "ppo", 0.5, *given)]


def test_fewer_responses_and_fewer_tokens_are_remedies_of_ppo(ahead: Ahead) -> None:
    """The limit of a micro-batch is lowered: of tokens if set, else of rows."""
    changes = [change for one, _ in remedies(ahead, "ppo", 0.5) for change in one.changes]
    assert {"stage.rollout.rows=256", "stage.rollout.rows=8"} <= set(changes)
    assert [change for change in changes if change.startswith("stage.micro_batch_tokens=")]
    rows = ("stage.micro_batch_tokens=null", "stage.micro_batch_size=6")
    changes = [change for one, _ in remedies(ahead, "ppo", 0.5, *rows) for change in one.changes]
    assert {"stage.micro_batch_size=3", "stage.micro_batch_size=1"} <= set(changes)


def test_four_bits_need_a_gpu(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.hardware.memory.available", lambda device: 1000)
    outlook = ahead("sft", "hardware=cpu", plan=())
    changes = [change for remedy, _ in tried(outlook, plan_of(), ROWS["sft"]) for change in remedy.changes]
    assert "adapter=lora" in changes
    assert "adapter=qlora" not in changes


def test_combinations_are_minimal(ahead: Ahead) -> None:
    """If only adapters with fewer responses at once help, micro-batches stay unchanged and as many responses as
    possible are sampled at once."""
    given = ("stage.batch_size=4096",)
    remedy, outlook = first(remedies(ahead, "ppo", 10, *given))
    assert outlook.fits
    changes = dict(change.split("=") for change in remedy.changes)
    assert set(changes) == {"adapter", "stage.rollout.rows"}
    plan, rows = plan_of("stage.device=a100-80gb", "stage.memory_gib=10"), int(changes["stage.rollout.rows"])
    for less in (["adapter=lora"], [f"stage.rollout.rows={rows}"], ["adapter=lora", f"stage.rollout.rows={2 * rows}"]):
        settings = composed("stage=ppo", *GIVEN, *given, *less)
        assert not look_ahead(settings, plan, ROWS["ppo"]).fits, less


def test_a_new_model_is_offered_no_adapter(tmp_path: Path) -> None:
    settings = composed("stage=base", f"checkpoints={tmp_path}", *TINY)
    outlook = look_ahead(settings, plan_of(), ROWS["base"])
    changes = [change for remedy in single(settings, plan_of(), outlook) for change in remedy.changes]
    assert changes
    assert not [change for change in changes if change.startswith("adapter=")]
