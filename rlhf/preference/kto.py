"""The rows of KTO: labels, class weights, and mismatched responses for the reference point.

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.config import KTOStage
from rlhf.data import cache
from rlhf.data.singles import ORIGIN, SIDES
from rlhf.errors import DataError
from rlhf.modeling.seeding import permutation

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("log_probs", "entropy", "mean_logits")  # of head.Scored, those that TRL's trainer reads
OTHER = "KL_"  # TRL's prefix of the columns of a mismatched response


def labeled(rows: "Dataset", threshold: float | None) -> tuple["Dataset", float | None]:
    """Return ``rows`` with a ``label`` (1 or 0) each, and the rating from which a rated response has the label 1.

    It is ``threshold``, or else the mean rating of these rows; None if no row has a rating.
    """
    if "rating" not in rows.column_names:
        return rows, None
    ratings = rows["rating"][:]
    known = [rating for rating in ratings if rating is not None]
    least = sum(known) / len(known) if threshold is None else threshold
    given = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    labels = [float(rating >= least) if own is None else own for own, rating in zip(given, ratings, strict=True)]
    plain = rows.remove_columns([name for name in ("label", "rating") if name in rows.column_names])
    return plain.add_column("label", labels), least


def weights(stage: KTOStage, desirable: int, undesirable: int) -> tuple[float, float]:
    """Return λ_D and λ_U, the weights of the losses of desirable and undesirable responses.

    A weight that is not set makes both classes count the same, λ_D n_D = λ_U n_U; if neither is set, the one of the
    larger class is 1. The paper asks for a ratio λ_D n_D / (λ_U n_U) from 1 to 3/2 (eq. 9; 4/3 in its first version).

    Raises:
        DataError: a class has no response.
    """
    for name, count in (("desirable", desirable), ("undesirable", undesirable)):
        if not count:
            raise DataError(
                f"data.preferences (train) has no {name} response, and KTO contrasts both kinds: add some, or use "
                "stage=sft on desirable ones"
            )
    good, bad = stage.desirable_weight, stage.undesirable_weight
    if good is None:
        good = max(1.0, undesirable / desirable) if bad is None else bad * undesirable / desirable
    if bad is None:
        bad = good * desirable / undesirable
    return good, bad


def arranged(ids: "Dataset", seed: int, mismatched: bool) -> "Dataset":
    """Return token ids in the order of training, with the response to another prompt beside each if ``mismatched``.

    Prompts are in random order, and the responses to one prompt follow each other, so that a batch encodes it once.
    The mismatched responses estimate the reference point z_0. Each row has that of the row m places before it, m being
    the number of responses to the most frequent prompt: each response is used once, and, unless one prompt has more
    than half of the rows, never with its own prompt. TRL shifts by one place within each batch.
    """
    from datasets import concatenate_datasets

    prompts: dict[bytes, list[int]] = {}
    for row, prompt in enumerate(ids["prompt_ids"]):
        prompts.setdefault(torch.tensor(prompt, dtype=torch.int32).numpy().tobytes(), []).append(row)
    groups = list(prompts.values())
    places = [row for group in permutation(len(groups), seed, "kto").tolist() for row in groups[group]]
    key = cache.key_of("arranged", ids._fingerprint, seed, mismatched)
    found = ids.select(places, new_fingerprint=f"{key}-rows")
    if not mismatched:
        return found
    names = [name for name in ("completion_ids", "completion_heard") if name in ids.column_names]
    shift = max(map(len, groups))
    others = [places[(n - shift) % len(places)] for n in range(len(places))]
    beside = ids.select_columns(names).rename_columns({name: f"{OTHER}{name}" for name in names}).select(others)
    both = concatenate_datasets([found, beside], axis=1)
    return both.select_columns(both.column_names, new_fingerprint=key)


class Collator:
    """TRL's collator for responses with a label, of which only the assistant's turns count."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator([example | {"label": bool(example["label"])} for example in examples])
        for prefix in ("", OTHER):
            for row, example in enumerate(examples):
                start, heard = len(example["prompt_ids"]), example.get(f"{prefix}completion_heard", ())
                for begin, end in zip(heard[::2], heard[1::2], strict=True):
                    batch[f"{prefix}completion_mask"][row, start + begin : start + end] = 0
        return batch


def log_probs_of_both(
    trainer: Any, compute: Callable[..., tuple[Tensor, Tensor | None]], model: Any, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Return the reference's log-probabilities (B,) of the responses and of the mismatched ones, from one pass.

    ``compute`` is TRL's KTOTrainer.compute_ref_log_probs, which makes two. In one, a model that shares prefixes encodes
    each prompt once for both responses.
    """
    if not trainer.calculate_KL:
        return compute(model, inputs)
    names = ("input_ids", "attention_mask", "completion_mask")
    width = max(inputs[f"{prefix}input_ids"].shape[1] for prefix in ("", OTHER))
    parts = {name: [inputs[f"{prefix}{name}"] for prefix in ("", OTHER)] for name in names}
    both = {name: torch.cat([pad(part, (0, width - part.shape[1])) for part in of]) for name, of in parts.items()}
    trainer.calculate_KL = False
    try:
        found, _ = compute(model, both)
    finally:
        trainer.calculate_KL = True
    own, other = found.chunk(2)
    return own, other


def counted(rows: "Dataset") -> tuple[int, int]:
    """Return the number of desirable and of undesirable rows."""
    found = Counter(bool(label) for label in rows["label"])
    return found[True], found[False]


def by_origin(rows: "Dataset") -> dict[str, int]:
    """Return the number of rows of each label and origin, such as ``desirable of thumbs``."""
    found = Counter(zip(rows[ORIGIN], rows["label"], strict=True))
    return {f"{SIDES[not label]} of {origin}": count for (origin, label), count in sorted(found.items())}
