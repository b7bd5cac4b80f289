"""Reward model training on top of TRL's trainer: more losses, members of an ensemble."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import Trainer

from rlhf.config import RewardLoss, RewardStage, Settings
from rlhf.errors import DataError
from rlhf.hardware import ranks
from rlhf.modeling.generation import seeded
from rlhf.modeling.seeding import derive
from rlhf.preference import losses, rankings
from rlhf.preference.residual import Residual, differences
from rlhf.rewards import encode
from rlhf.runs.directory import MEMBER
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json

if TYPE_CHECKING:
    from datasets import Dataset


def columns(pairs: Mapping[str, "Dataset"], stage: RewardStage) -> list[str]:
    """Return the columns to train on: the pair, the margin if the settings use it, the weight if all splits have it.

    Raises:
        DataError: ``stage.margin=true``, but the pairs have no margin.
    """
    if stage.margin:
        for split in ("train", "validation"):
            if "margin" not in pairs[split].column_names:
                raise DataError(
                    f"stage.margin=true, but the {split} pairs of data.preferences have no margin: add a "
                    '"margin" to every row, or leave stage.margin=true out'
                )
    weighted = all("weight" in pairs[split].column_names for split in ("train", "validation"))
    return ["prompt", "chosen", "rejected", *["margin"] * stage.margin, *["weight"] * weighted]


def prepare(pairs: Mapping[str, "Dataset"], stage: RewardStage, tokenizer: Any) -> dict[str, "Dataset"]:
    """Return train and validation data for the trainer: pairs, or rankings of token ids for Plackett-Luce.

    Weights are divided by their mean, so that the loss of a batch is on average a weighted mean.

    Raises:
        DataError: ``stage.margin=true``, but the pairs have no margin; or pairs do not determine rankings.
    """
    from datasets import Dataset

    kept, found = columns(pairs, stage), {}
    for split in ("train", "validation"):
        if stage.loss is RewardLoss.plackett_luce:
            ranked = rankings.rankings(pairs[split])
            found[split] = Dataset.from_list([_tokens(ranking, tokenizer) for ranking in ranked])
            continue
        found[split] = pairs[split].select_columns(kept)
        if "weight" in kept:
            # A pair without a weight next to weighted pairs, those of a ranking, has weight 1.
            weights = [1.0 if weight is None else weight for weight in found[split]["weight"]]
            mean = sum(weights) / len(weights)
            scaled = [weight / mean for weight in weights]
            found[split] = found[split].remove_columns("weight").add_column("weight", scaled)
        if stage.residual:
            style = differences(pairs[split], tokenizer, stage.residual)
            found[split] = found[split].add_column("style", style)
    return found


def _tokens(ranking: rankings.Ranking, tokenizer: Any) -> dict[str, Any]:
    """Return a ranking as token ids; TRL drops it if ``chosen_ids`` or ``rejected_ids`` (the longest) are too long."""
    rows = []
    prompt: Any = ranking.prompt  # messages if the responses are messages
    for response in ranking.responses:
        if isinstance(response, str):
            rows.append(encode(tokenizer, prompt, response, None))
        else:
            rows.append(encode(tokenizer, [*prompt, *response[:-1]], response[-1]["content"], None))
    return {"response_ids": rows, "ordered": ranking.ordered, "chosen_ids": rows[0], "rejected_ids": max(rows, key=len)}


def trainer_class(kind: type[Trainer], stage: RewardStage, prepared: Mapping[str, "Dataset"]) -> type[Trainer]:
    """Return ``kind``, TRL's RewardTrainer, or a subclass with a loss that it lacks.

    TRL's trainer computes its loss in ``compute_loss`` and takes no loss function, so a subclass is necessary.
    """
    base: Any = kind  # a class that is only known at run time
    extra = [name for name in ("weight", "style") if name in prepared["train"].column_names]
    options = stage.label_smoothing or stage.batch_sum or extra
    if stage.loss is RewardLoss.bradley_terry and not options:
        return kind

    class PreferenceTrainer(base):
        whole = f"stage.batch_sum={stage.batch_sum:g}" if stage.batch_sum else None  # for rlhf.training.oom

        def __init__(self, **parts: Any):
            super().__init__(**parts)
            if stage.loss is RewardLoss.plackett_luce:
                self.data_collator = rankings.Collator(self.processing_class.pad_token_id)
            elif extra:
                self.data_collator = _with_columns(self.data_collator, extra)
            self.residual = None
            if stage.residual:
                self.residual = Residual(self.model, stage.residual, stage.residual_rate)

        def create_optimizer(self, *given: Any) -> Any:
            new = self.optimizer is None
            optimizer = super().create_optimizer(*given)
            if new and self.residual is not None:
                self.residual.group(optimizer)
            return optimizer

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if stage.loss is RewardLoss.plackett_luce:
                loss, outputs = _ranking_loss(model, inputs, self.args.center_rewards_coefficient)
            else:
                weight, margin = inputs.pop("weight", 1.0), inputs.get("margin", 0.0)
                if self.residual is not None:
                    self.residual.style = inputs.pop("style")
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
                chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
                explained = chosen if self.residual is None else self._explained(chosen, rejected)
                ours = weight * losses.bradley_terry(explained, rejected, margin, stage.label_smoothing)
                # Keep TRL's metrics and additional loss terms.
                loss = loss + (ours - losses.bradley_terry(chosen, rejected, margin)).mean()
            if stage.batch_sum:
                loss = loss + stage.batch_sum * losses.batch_sum(outputs.logits.squeeze(-1))
            return (loss, outputs) if return_outputs else loss

        def _explained(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
            """Return the chosen scores with the residual; log its weights and the accuracy with it."""
            explained = chosen + self.residual.shift
            right = (explained > rejected).float().mean().detach()
            found = {"accuracy_with_residual": self.accelerator.gather_for_metrics(right).mean().item()}
            for name, value in (found | self.residual.weights()).items():
                self._metrics["train" if self.model.training else "eval"][name].append(value)
            return explained

    return PreferenceTrainer


def _ranking_loss(model: Any, inputs: dict[str, Any], centering: float | None) -> tuple[torch.Tensor, Any]:
    sizes, ordered = inputs.pop("sizes"), inputs.pop("ordered")
    outputs = model(**inputs, use_cache=False)
    scores, mask = rankings.by_ranking(outputs.logits.squeeze(-1), sizes)
    loss = losses.plackett_luce(scores, ordered, mask).mean()
    if centering is not None:
        loss = loss + centering * losses.centering(scores, mask).mean()
    return loss, outputs


Collate = Callable[[Sequence[dict]], dict[str, Any]]


def _with_columns(collate: Collate, names: Sequence[str]) -> Collate:
    def collated(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return collate(examples) | {name: torch.tensor([example[name] for example in examples]) for name in names}

    return collated


class Members:
    """The members of a run's ensemble: their folders, their seeds, and which of them are finished.

    The first member is identical to a single reward model, in the same folder. The others differ in their random
    draws: head, adapter, order of the pairs (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474).
    """

    def __init__(self, run: Run, settings: Settings):
        self.run, self.settings, self.count = run, settings, settings.stage_as(RewardStage).ensemble

    def folder(self, number: int) -> Path:
        """Return the folder of a member's model."""
        return self.run.work if number == 0 else self.run.work / f"{MEMBER}{number}"

    @property
    def average(self) -> Path:
        """The folder of the averaged model."""
        return self.run.work / f"{MEMBER}average"

    def head(self) -> AbstractContextManager:
        """Return a context in which a new head is drawn: the same for all members if they are averaged."""
        shares = self.settings.stage_as(RewardStage).average is not None
        return seeded(derive(self.settings.seed, "head")) if shares else nullcontext()

    def part(self, number: int) -> str:
        """Return the subfolder of a member's checkpoints in those of the run."""
        return "" if self.count == 1 else f"{MEMBER}{number}"

    def title(self, number: int) -> str:
        """Return the title of a member's progress bar."""
        return "reward" if self.count == 1 else f"reward, member {number + 1} of {self.count}"

    def seeded(self, number: int) -> Settings:
        """Return the settings with a member's seed, and seed the generators with it."""
        if number == 0:
            return self.settings
        seed = derive(self.settings.seed, MEMBER, number) % 2**32
        transformers.set_seed(seed)
        return replace(self.settings, seed=seed)

    def finish(self, number: int, metrics: dict[str, float]) -> None:
        """Record a member's metrics after its weights are written, and delete its checkpoints."""
        if self.count > 1 and ranks.is_main():
            write_json(self._record(number), metrics)
            shutil.rmtree(self.run.scratch / self.part(number), ignore_errors=True)

    def finished(self, number: int) -> dict[str, float] | None:
        """Return the metrics of a member that an interrupted run has finished; None if it must be trained."""
        path = self._record(number)
        return json.loads(path.read_text(encoding="utf-8")) if self.run.resumed and path.is_file() else None

    def _record(self, number: int) -> Path:
        return self.run.scratch / f"{MEMBER}{number}.json"
