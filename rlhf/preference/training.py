"""What training a reward model needs beside TRL's trainer: further losses, early stopping, members of an ensemble."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import EarlyStoppingCallback, Trainer

from rlhf.config import RewardLoss, RewardStage, Settings
from rlhf.errors import DataError
from rlhf.hardware import ranks
from rlhf.modeling.seeding import derive
from rlhf.preference import losses, rankings
from rlhf.rewards import encode
from rlhf.runs.directory import MEMBER
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json

if TYPE_CHECKING:
    from datasets import Dataset


def columns(pairs: Mapping[str, "Dataset"], stage: RewardStage) -> list[str]:
    """The columns of train and validation that are learned from: margins where asked for, weights where there are any.

    Raises:
        DataError: margins are asked for and there are none.
    """
    if stage.margin:
        for split in ("train", "validation"):
            if "margin" not in pairs[split].column_names:
                raise DataError(
                    f"stage.margin=true, but the {split} pairs of data.preferences have no margin: give every row a "
                    '"margin", or leave stage.margin=true out'
                )
    weighted = all("weight" in pairs[split].column_names for split in ("train", "validation"))
    return ["prompt", "chosen", "rejected", *["margin"] * stage.margin, *["weight"] * weighted]


def prepare(pairs: Mapping[str, "Dataset"], stage: RewardStage, tokenizer: Any) -> dict[str, "Dataset"]:
    """Train and validation as the trainer is given them: pairs, or under Plackett-Luce rankings of token ids.

    Weights are divided by their mean, so that the loss of a batch is on average a weighted mean.

    Raises:
        DataError: margins are asked for and there are none; pairs do not amount to rankings.
    """
    from datasets import Dataset

    kept, found = columns(pairs, stage), {}
    for split in ("train", "validation"):
        if stage.loss is RewardLoss.plackett_luce:
            found[split] = Dataset.from_list([_tokens(one, tokenizer) for one in rankings.rankings(pairs[split])])
            continue
        found[split] = pairs[split].select_columns(kept)
        if "weight" in kept:
            # Beside weighted pairs, those of a ranking, a pair without a weight counts once.
            weights = [1.0 if weight is None else weight for weight in found[split]["weight"]]
            mean = sum(weights) / len(weights)
            found[split] = found[split].remove_columns("weight").add_column("weight", [one / mean for one in weights])
    return found


def _tokens(ranking: rankings.Ranking, tokenizer: Any) -> dict[str, Any]:
    """TRL leaves out what is too long by ``chosen_ids`` and ``rejected_ids``: here the best and the longest one."""
    rows = []
    for response in ranking.responses:
        if isinstance(response, str):
            rows.append(encode(tokenizer, ranking.prompt, response, None))
        else:
            rows.append(encode(tokenizer, [*ranking.prompt, *response[:-1]], response[-1]["content"], None))
    return {"response_ids": rows, "ordered": ranking.ordered, "chosen_ids": rows[0], "rejected_ids": max(rows, key=len)}


def trainer_class(kind: type[Trainer], stage: RewardStage, prepared: Mapping[str, "Dataset"]) -> type[Trainer]:
    """``kind``, TRL's RewardTrainer, or what computes a loss that it lacks.

    It overrides compute_loss and calls no function that is given to it, so there is no other way than a subclass.
    """
    weighted = "weight" in prepared["train"].column_names
    if stage.loss is RewardLoss.bradley_terry and not stage.label_smoothing and not weighted:
        return kind

    class PreferenceTrainer(kind):
        def __init__(self, **parts: Any):
            super().__init__(**parts)
            if stage.loss is RewardLoss.plackett_luce:
                self.data_collator = rankings.Collator(self.processing_class.pad_token_id)
            elif weighted:
                self.data_collator = _with_weights(self.data_collator)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if stage.loss is RewardLoss.plackett_luce:
                loss, outputs = _ranking_loss(model, inputs, self.args.center_rewards_coefficient)
            else:
                weight, margin = inputs.pop("weight", 1.0), inputs.get("margin", 0.0)
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
                scores = outputs.logits.squeeze(-1).chunk(2)
                ours = weight * losses.bradley_terry(*scores, margin, stage.label_smoothing)
                # What TRL adds to its own, and what it measures, stays.
                loss = loss + (ours - losses.bradley_terry(*scores, margin)).mean()
            return (loss, outputs) if return_outputs else loss

    return PreferenceTrainer


def _ranking_loss(model: Any, inputs: dict[str, Any], centring: float | None) -> tuple[torch.Tensor, Any]:
    sizes, ordered = inputs.pop("sizes"), inputs.pop("ordered")
    outputs = model(**inputs, use_cache=False)
    scores, mask = rankings.by_ranking(outputs.logits.squeeze(-1), sizes)
    loss = losses.plackett_luce(scores, ordered, mask).mean()
    if centring is not None:
        loss = loss + centring * losses.centring(scores, mask).mean()
    return loss, outputs


def _with_weights(collate: Callable[[Sequence[dict]], dict[str, Any]]) -> Callable[[Sequence[dict]], dict[str, Any]]:
    def collated(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return collate(examples) | {"weight": torch.tensor([example["weight"] for example in examples])}

    return collated


def further_arguments(stage: RewardStage) -> dict[str, Any]:
    """What the settings of this stage decide in the trainer's arguments."""
    found: dict[str, Any] = {"remove_unused_columns": False}  # weights and rankings are columns that TRL does not know
    if stage.early_stopping is None:
        return found
    return found | {
        "eval_steps": stage.trainer.get("save_steps", 500),  # the best is loaded from its checkpoint
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,  # a resumed run has not forgotten how long it has waited
    }


def callbacks(stage: RewardStage) -> list[EarlyStoppingCallback]:
    return [] if stage.early_stopping is None else [EarlyStoppingCallback(stage.early_stopping)]


class Members:
    """The members of a run's ensemble: where each lies, from which seed it is trained, which are trained already.

    The first lies where a single reward model does and is the same to the bit. The others differ in what is drawn: the
    head, the adapter, the order of the pairs (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474).
    """

    def __init__(self, run: Run, settings: Settings):
        self.run, self.settings, self.count = run, settings, settings.stage.ensemble

    def folder(self, number: int) -> Path:
        return self.run.work if number == 0 else self.run.work / f"{MEMBER}{number}"

    def part(self, number: int) -> str:
        """Where its checkpoints lie below the run's."""
        return "" if self.count == 1 else f"{MEMBER}{number}"

    def title(self, number: int) -> str:
        """What stands before its progress bar."""
        return "reward" if self.count == 1 else f"reward, member {number + 1} of {self.count}"

    def seeded(self, number: int) -> Settings:
        """The settings with the member's own seed, from which the generators begin."""
        if number == 0:
            return self.settings
        seed = derive(self.settings.seed, MEMBER, number) % 2**32
        transformers.set_seed(seed)
        return replace(self.settings, seed=seed)

    def finish(self, number: int, metrics: dict[str, float]) -> None:
        """Note that a member's weights are written; its checkpoints are not needed any more."""
        if self.count > 1 and ranks.is_main():
            write_json(self._record(number), metrics)
            shutil.rmtree(self.run.scratch / self.part(number), ignore_errors=True)

    def finished(self, number: int) -> dict[str, float] | None:
        """What a member measured that an interrupted run had trained to its end; None for one that is to be trained."""
        path = self._record(number)
        return json.loads(path.read_text(encoding="utf-8")) if self.run.resumed and path.is_file() else None

    def _record(self, number: int) -> Path:
        return self.run.scratch / f"{MEMBER}{number}.json"
