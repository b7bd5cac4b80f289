from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config import Settings
from rlhf.stages import execute
from rlhf.training.eval_metrics import merged, units_of, weighed

# 23 held-out rows: no batch size but 1 divides them.
FEW = ("data.demonstrations.held_out_limit=23", "data.preferences.held_out_limit=23", "data.text.held_out_limit=23")


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("sft", ()),
        ("dpo", ()),
        ("dpo", ("stage.loss=[sigmoid,sft]",)),  # a mean over pairs and one over tokens
        ("kto", ("stage.trainer.learning_rate=0.01",)),  # so that the reference point is above 0
        ("reward", ()),
        ("base", ("stage.block_length=16",)),
    ],
)
def test_held_out_metrics_do_not_depend_on_the_evaluation_batch(
    beside_chain: Callable[..., Settings], tmp_path: Path, stage: str, overrides: tuple[str, ...]
) -> None:
    found = []
    for size in (1, 3, 8):
        batch = f"stage.trainer.per_device_eval_batch_size={size}"
        metrics = execute(beside_chain(stage, *FEW, *overrides, batch), tmp_path / str(size))
        found.append(
            {key: value for key, value in metrics.items() if key.startswith("eval/")}
            | {"objective": metrics["objective"]}
        )
    assert len(found[0]) > 1
    for other in found[1:]:
        assert other == {key: pytest.approx(value, rel=1e-4, abs=1e-6) for key, value in found[0].items()}
        for key in found[0].keys() & {"eval/accuracy", "eval/rewards/accuracies"}:
            assert other[key] == found[0][key]  # to the bit: sweeps rank by it


def test_every_completion_token_of_demonstrations_counts_once(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the sum over all tokens by hand."""
    from rlhf.training import loop

    rows = {}
    train = loop.train

    def spy(trainer, run, *rest):
        rows["held out"] = trainer.eval_dataset
        return train(trainer, run, *rest)

    monkeypatch.setattr(loop, "train", spy)
    metrics = execute(beside_chain("sft", *FEW), tmp_path / "sft")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "model")
    nats = tokens = 0.0
    for row in rows["held out"]:
        ids, learned = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])[1:] != -100
        logits = model(ids[None]).logits[0, :-1].log_softmax(-1)
        nats -= logits.gather(1, ids[1:, None])[learned].sum().item()
        tokens += learned.sum().item()
    assert metrics["eval/loss"] == pytest.approx(nats / tokens, rel=1e-5)


def test_units_by_hand() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0], [0, 1, 1, 1]])  # two chosen rows, two rejected ones
    assert units_of({"completion_mask": mask}, 2) == {
        "others": 2, "entropy": 7, "logits/chosen": 3, "logits/rejected": 4, "mean_token_accuracy": 3,
    }  # fmt: skip
    assert units_of({"labels": torch.tensor([[-100, -100, 5, 6], [-100, 5, 6, 7]])}, 2) == {"others": 5}
    assert units_of({"input_ids": mask}, 3) == {"others": 3}
    assert units_of({"completion_mask": mask}, 0) == {"others": 0}  # a batch that only fills up
    assert units_of({"completion_mask": mask, "label": torch.tensor([True, False, False, True])}, 4) == {
        "others": 4, "entropy": 7, "rewards/chosen": 2, "logps/chosen": 2, "logits/chosen": 5,
        "rewards/rejected": 2, "logps/rejected": 2, "logits/rejected": 2,
    }  # fmt: skip


def test_totals_of_two_processes_by_hand() -> None:
    one = {"accuracy": weighed("accuracy", 1 / 3, 3), "min_reward": weighed("min_reward", -1.0, 3)}
    other = {"accuracy": weighed("accuracy", 1.0, 1), "min_reward": weighed("min_reward", -2.0, 1)}
    assert merged([one, other, {}]) == {"accuracy": 0.5, "min_reward": -2.0}
