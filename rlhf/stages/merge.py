"""Average the weights of policies: a soup of a sweep's seeds, a weighted mean, or a sum of task vectors.

python -m rlhf stage=merge "stage.models=[checkpoints/almanac/dpo/*]"
python -m rlhf stage=merge "stage.models=[checkpoints/a/dpo,checkpoints/b/dpo]" "stage.weights=[0.7,0.3]"
python -m rlhf stage=merge stage.policy=checkpoints/a/sft "stage.models=[checkpoints/a/dpo]" "stage.weights=[-0.5]"
"""

from pathlib import Path
from typing import Any

from rlhf.config import MergeStage, Settings
from rlhf.console import console
from rlhf.errors import LineageError, ModelError
from rlhf.modeling import loading
from rlhf.modeling.bases import ADAPTER, adapter_folder, base_of
from rlhf.modeling.merging import merge, merge_adapters
from rlhf.ppo.shared_base import adds_up
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.storage.digests import tokenizer_record


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Write the merged model, or adapter, and return the number of models and, for an adapter, its error."""
    stage = settings.stage_as(MergeStage)
    members = [parent for role, parent in run.parents.items() if role != "policy"]
    shares = stage.shares()
    tokenizer = common_tokenizer(settings, list(run.parents.values()))
    run.record_tokenizer(tokenizer)
    for parent, share in zip(members, shares, strict=True):
        console.print(f"merge: {share:.3g} of {parent.path}", markup=False, highlight=False, soft_wrap=True)
    metrics: dict[str, float] = {"models": len(members)}
    if stage.rank is not None:
        folders = [adapter_on(run["policy"], parent) for parent in members]
        metrics["error"] = merge_adapters(folders, [one.path for one in members], shares, stage.rank, run.model)
    else:
        summed = members
        if "policy" in run.parents:  # policy + Σ w (model - policy)
            summed, shares = [run["policy"], *members], [1 - sum(shares), *shares]
        folders = [whole(settings, parent, tokenizer, run.scratch / str(i)) for i, parent in enumerate(summed)]
        metrics["tensors"] = merge(folders, [one.path for one in summed], shares, run.model)
    tokenizer.save_pretrained(run.model)
    return metrics


def common_tokenizer(settings: Settings, parents: list[Parent]) -> Any:
    """Return the tokenizer of the last parent, whose vocabulary all of them have.

    Raises:
        LineageError: one has another vocabulary.
    """
    last = loading.load_tokenizer(parents[-1], settings.model)
    for parent in parents[:-1]:
        own = loading.load_tokenizer(parent, settings.model)
        if tokenizer_record(own)["vocabulary"] != tokenizer_record(last)["vocabulary"]:
            raise LineageError(
                f"{parent.path} has another vocabulary than {parents[-1].path}: merge models with the same tokenizer"
            )
    return last


def adapter_on(base: Parent, parent: Parent) -> Path:
    """Return the folder of ``parent``, a plain low-rank adapter on ``base``.

    Raises:
        LineageError: it is a whole model, or an adapter on another one.
        ModelError: it is an adapter of a type that cannot be summed.
    """
    folder = adapter_folder(parent)
    if folder is None or base_of(parent, folder).digest != base.digest:
        raise LineageError(
            f"{parent.path} is not an adapter on stage.policy={base.path}: set stage.rank=null, which merges whole "
            "weights"
        )
    if not adds_up(parent):
        raise ModelError(
            f"{parent.path} is an adapter of a type that cannot be summed: set stage.rank=null, which merges whole "
            "weights"
        )
    return folder


def whole(settings: Settings, parent: Parent, tokenizer: Any, scratch: Path) -> Path:
    """Return a folder with the whole weights of ``parent``: its own, or ``scratch`` with its adapters merged."""
    folder = Path(parent.model)
    if any(folder.glob("*.safetensors")) and not (folder / ADAPTER).is_file():
        return folder
    loading.load_policy(parent, settings.model, tokenizer).save_pretrained(scratch)
    return scratch
