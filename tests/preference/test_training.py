import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from rlhf.config import Settings
from rlhf.preference import losses
from rlhf.preference.training import Members, prepare, trainer_class
from tests.conftest import composed


def tokenizer(texts: list[str]) -> dict[str, list[list[int]]]:
    return {"input_ids": [[*map(ord, text)] for text in texts]}


tokenizer.eos_token, tokenizer.cls_token_id, tokenizer.pad_token_id = ".", None, 0
tokenizer.chat_template, tokenizer.added_tokens_decoder, tokenizer.eos_token_id = None, {}, ord(".")


def stage(*overrides: str):
    return composed("stage=reward", *overrides).stage


def pairs(*rows: dict) -> dict[str, Dataset]:
    return {split: Dataset.from_list(list(rows)) for split in ("train", "validation", "test")}


class Trained:
    """A stand-in for TRL's trainer: a loss, a collator, arguments."""

    centering = None

    def __init__(self, **_):
        self.args = SimpleNamespace(center_rewards_coefficient=self.centering)
        self.processing_class = tokenizer
        self.data_collator = lambda examples: {"input_ids": torch.tensor([[example["id"]] for example in examples])}

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        return losses.bradley_terry(chosen, rejected, inputs.get("margin", 0.0)).mean(), outputs


class Model(nn.Module):
    """The score of a row is its first id, in tenths."""

    def forward(self, input_ids: Tensor, **_) -> SimpleNamespace:
        return SimpleNamespace(logits=input_ids[:, :1] / 10)


ROWS = [{"prompt": "p", "chosen": "c", "rejected": "r", "weight": 0.5}] * 2
ROWS += [{"prompt": "q", "chosen": "c", "rejected": "r", "weight": 2.0}]


def test_without_options_the_trainer_is_trls() -> None:
    made = stage()
    rows = [{name: value for name, value in row.items() if name != "weight"} for row in ROWS]
    prepared = prepare(pairs(*rows), made, tokenizer)
    assert trainer_class(Trained, made, prepared) is Trained
    assert prepared["train"].column_names == ["prompt", "chosen", "rejected"]


def test_weights_and_smoothing_by_hand() -> None:
    made = stage("stage.label_smoothing=0.1")
    prepared = prepare(pairs(*ROWS), made, tokenizer)
    assert prepared["train"]["weight"] == [0.5, 0.5, 2.0]  # their mean is one
    trainer = trainer_class(Trained, made, prepared)()
    batch = trainer.data_collator([{"id": 3, "weight": 0.5}, {"id": 4, "weight": 2.0}])
    batch["input_ids"] = torch.tensor([[30.0], [10.0], [10.0], [20.0]])  # two chosen, then two rejected
    chosen, rejected = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    loss = trainer.compute_loss(Model(), batch)
    expected = (torch.tensor([0.5, 2.0]) * losses.bradley_terry(chosen, rejected, 0.0, 0.1)).mean()
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
def test_the_sum_of_a_batch_is_regularized(loss: str) -> None:
    rows = [{name: value for name, value in row.items() if name != "weight"} for row in ROWS[1:]]
    found = []
    for coefficient in ("0.0", "0.5"):
        made = stage(f"stage.loss={loss}", f"stage.batch_sum={coefficient}")
        prepared = prepare(pairs(*rows), made, tokenizer)
        trainer = trainer_class(Trained, made, prepared)()
        batch = trainer.data_collator([*prepared["train"]] if loss == "plackett_luce" else [{"id": 1}])
        batch["input_ids"] = torch.tensor([[30.0], [10.0], [10.0], [20.0]])
        found.append(trainer.compute_loss(Model(), batch, return_outputs=True)[0].item())
    assert found[1] - found[0] == pytest.approx(0.5 * 7.0**2 / 8)


def test_weights_are_divided_by_their_mean() -> None:
    rows = [{**row, "weight": 3 * row["weight"]} for row in ROWS]
    assert prepare(pairs(*rows), stage(), tokenizer)["train"]["weight"] == pytest.approx([0.5, 0.5, 2.0])


@pytest.mark.parametrize("centering", [None, 0.01])
def test_rankings_by_hand(centering: float | None) -> None:
    """Pairs of three responses become one ranking; its loss is Plackett-Luce on the three scores."""
    made = stage("stage.loss=plackett_luce")
    order = ["c", "b", "a"]
    rows = [{"prompt": "p", "chosen": x, "rejected": y} for x, y in ("ba", "ca", "cb")]
    prepared = prepare(pairs(*rows, {"prompt": "q", "chosen": "d", "rejected": "a"}), made, tokenizer)
    assert prepared["train"]["ordered"] == [2, 1]
    assert prepared["train"]["response_ids"][0] == [[ord("p"), ord(one), ord(".")] for one in order]

    kind = type("Centered", (Trained,), {"centering": centering})
    trainer = trainer_class(kind, made, prepared)()
    batch = trainer.data_collator(list(prepared["train"]))
    batch["input_ids"] = torch.tensor([[30.0], [20.0], [10.0], [5.0], [0.0]])
    scores = torch.tensor([[3.0, 2.0, 1.0], [0.5, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = losses.plackett_luce(scores, torch.tensor([2, 1]), mask).mean()
    expected += (centering or 0.0) * losses.centering(scores, mask).mean()
    loss, outputs = trainer.compute_loss(Model(), batch, return_outputs=True)
    assert loss.item() == pytest.approx(expected.item())
    assert outputs.logits.shape == (5, 1)


def test_a_conversation_is_tokenized_as_for_scoring(chain: Path) -> None:
    from transformers import AutoTokenizer

    from rlhf.rewards import encode

    own = AutoTokenizer.from_pretrained(chain / "almanac" / "reward" / "model")
    talk = [{"role": "user", "content": "q"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("Lima.", "I do not know.")]
    rows = [{"prompt": talk, "chosen": answers[0], "rejected": answers[1]}]
    [row] = prepare(pairs(*rows), stage("stage.loss=plackett_luce"), own)["train"]
    assert row["response_ids"] == [encode(own, talk, text, None) for text in ("Lima.", "I do not know.")]
    assert row["rejected_ids"] == row["response_ids"][1]


def test_members_have_separate_seeds_and_folders(settings: Callable[..., Settings], tmp_path: Path) -> None:
    run = SimpleNamespace(work=tmp_path, scratch=tmp_path / "resume", resumed=True)
    run.scratch.mkdir()
    members = Members(run, settings("reward", "stage.ensemble=3", "adapter=lora"))
    assert [members.folder(number).name for number in range(3)] == [tmp_path.name, "member-1", "member-2"]
    seeds = [members.seeded(number).seed for number in range(3)]
    assert seeds[0] == 0
    assert len(set(seeds)) == 3
    assert seeds == [members.seeded(number).seed for number in range(3)]
    members.finish(1, {"eval/loss": 0.5, "steps": 2})
    assert members.finished(1) == {"eval/loss": 0.5, "steps": 2}
    assert members.finished(2) is None
    assert json.loads((run.scratch / "member-1.json").read_text())["steps"] == 2
