"""Compared with TRL's unmodified trainer on the same rows, and with the formula."""

import copy
import itertools
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import TaskType
from trl import KTOConfig, KTOTrainer

from rlhf.config import KTOStage
from rlhf.errors import DataError
from rlhf.preference import reference
from rlhf.preference.kto import OTHER, Collator, arranged, counted, labeled, weights
from rlhf.stages.kto import ReadyKTOTrainer
from rlhf.training.eval_metrics import ExactEvaluation
from tests.conftest import composed
from tests.preference import alike

pytestmark = pytest.mark.filterwarnings("ignore:.*use_reentrant.*")


@cache
def stage(*overrides: str) -> KTOStage:
    return composed("stage=kto", *overrides).stage_as(KTOStage)


def thumbs(prompts: int, seed: int = 0) -> Dataset:
    """One to three responses to each prompt, the first desirable, with mismatched ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(prompts):
        prompt = alike.drawn(generator, 9, 20)
        responses = [alike.drawn(generator, 1, 9) for _ in range(1 + number % 3)]
        named = {"prompt_ids": prompt}
        rows += [named | {"completion_ids": ids, "label": float(ids is responses[0])} for ids in responses]
    return arranged(Dataset.from_list(rows), 0, mismatched=True)


class ReadyTRLTrainer(KTOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def trainer(kind: type, adapter: bool = False, **options: Any) -> Any:
    """Return our trainer or TRL's, of a policy that differs from its reference unless it has an ``adapter``."""
    model = alike.tiny()
    anchor = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in anchor.parameters():
            parameter.mul_(1.1)
    args = alike.arguments(KTOConfig, 3, beta=0.5, per_device_eval_batch_size=4, **options)
    ours = {"reference_kept": None, "shared": True} if kind is ReadyKTOTrainer else {}
    return kind(
        model=model,
        ref_model=None if adapter else anchor,
        args=args,
        train_dataset=thumbs(8),
        eval_dataset=thumbs(4, 1),
        processing_class=alike.tokenizer(),
        peft_config=alike.lora(TaskType.CAUSAL_LM) if adapter else None,
        **ours,
    )


def steps(made: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses of all steps and the gradients of the first one."""
    losses, gradients = [], {}
    step = made.training_step

    def noted(model: Any, *rest: Any) -> torch.Tensor:
        loss = step(model, *rest)
        losses.append(loss.item())
        if len(losses) == 1:
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return loss

    made.training_step = noted
    made.train()
    return losses, gradients


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adapter": True},
        {"loss_type": "apo_zero_unpaired", "undesirable_weight": 2.0},
        {"max_length": 16, "desirable_weight": 1.5, "activation_checkpointing": True},
    ],
    ids=str,
)
def test_losses_and_gradients_are_those_of_trl(options: dict[str, Any]) -> None:
    ours = trainer(ReadyKTOTrainer, **options)
    with ours.sharing():
        losses, gradients = steps(ours)
    expected, plain = steps(trainer(ReadyTRLTrainer, **options))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item() + 1e-9)


@pytest.mark.parametrize("wider", ["", OTHER])
def test_the_reference_encodes_a_prompt_once_for_both_responses(wider: str) -> None:
    made = trainer(ReadyKTOTrainer)
    batch = made.data_collator([made.train_dataset[row] for row in range(6)])
    for name in ("input_ids", "attention_mask", "completion_mask"):  # one side has more columns
        batch[f"{wider}{name}"] = torch.nn.functional.pad(batch[f"{wider}{name}"], (0, 3))
    expected = KTOTrainer.compute_ref_log_probs(made, made.ref_model, batch)
    encoded = []
    made.ref_model.model.embed_tokens.register_forward_hook(lambda module, given, found: encoded.append(found[..., 0]))
    with made.sharing():
        found = made.compute_ref_log_probs(made.ref_model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    rows = [batch[f"{prefix}input_ids"][batch[f"{prefix}attention_mask"].bool()] for prefix in ("", OTHER)]
    assert len(encoded) == 1
    assert encoded[0].numel() < 0.6 * sum(map(len, rows))
    assert made.calculate_KL


def test_a_cached_reference_gives_the_same_losses(tmp_path: Path) -> None:
    """With an adapter, whose start is its own reference."""
    kept = reference.Kept(str(tmp_path), "kto", ("digest",))
    made = ReadyKTOTrainer.__init__

    def with_cache(self: Any, **parts: Any) -> None:
        made(self, **parts | {"reference_kept": kept})

    plain, _ = steps(trainer(ReadyKTOTrainer, adapter=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadyKTOTrainer, "__init__", with_cache)
        cached = trainer(ReadyKTOTrainer, adapter=True, precompute_ref_log_probs=True)
    assert {"ref_logps", "ref_KL_logps"} <= set(cached.train_dataset.column_names)
    assert steps(cached)[0] == pytest.approx(plain, rel=1e-5)  # other batches, other rounding


def test_the_loss_by_hand() -> None:
    """β = 1/2 and z_0 = 2: log ratios of 2 + 2 ln 3 and 2 - 2 ln 3 are both worth σ(ln 3) = 3/4."""
    made = trainer(ReadyKTOTrainer, desirable_weight=3.0)
    batch = made.data_collator([next(row for row in made.train_dataset if row["label"] == one) for one in (1.0, 0.0)])
    made.model.eval()
    with torch.no_grad():
        own, other = made.compute_ref_log_probs(made.model, batch)
    given = batch | {"ref_logps": own - 2 - 2 * math.log(3) * torch.tensor([1.0, -1.0]), "ref_KL_logps": other - 2}
    assert made.compute_loss(made.model, given).item() == pytest.approx((3 * 0.25 + 0.25) / 2, rel=1e-4)
    measured = {key: values[-1] for key, values in made._metrics["eval"].items()}
    assert measured["kl"] == pytest.approx(2, rel=1e-4)
    assert measured["rewards/accuracies"] == 1.0
    assert measured["rewards/chosen"] == pytest.approx(1 + math.log(3), rel=1e-4)
    turned = given | {"label": ~batch["label"]}
    assert made.compute_loss(made.model, turned).item() == pytest.approx((3 * 0.75 + 0.75) / 2, rel=1e-4)
    assert made._metrics["eval"]["rewards/accuracies"][-1] == 0.0


def test_held_out_losses_have_one_reference_point() -> None:
    """The mean over all rows, not that of each batch, as the formula has it."""
    made = trainer(ReadyKTOTrainer)
    ExactEvaluation(made)
    found = made.evaluate()
    made.model.eval()
    rows = list(made.eval_dataset)
    batch = made.data_collator(rows)
    with torch.no_grad():
        own, other = made.compute_ref_log_probs(made.model, batch)
        theirs, theirs_other = made.compute_ref_log_probs(made.ref_model, batch)
    ratios, point = own - theirs, (other - theirs_other).mean().clamp(min=0)
    assert point > 0
    signs = torch.tensor([1.0 if row["label"] else -1.0 for row in rows])
    loss = (1 - torch.sigmoid(0.5 * signs * (ratios - point))).mean().item()
    assert (found["eval_kl"], found["eval_loss"]) == pytest.approx((point.item(), loss), rel=1e-4)
    right = ((ratios > point) == (signs > 0)).float().mean().item()
    assert found["eval_rewards/accuracies"] == pytest.approx(right)
    margin = 0.5 * (ratios[signs > 0].mean() - ratios[signs < 0].mean()).item()
    assert found["eval_rewards/margins"] == pytest.approx(margin, rel=1e-4)
    assert made.point is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.integers(0, 2**31))
def test_each_response_is_used_once_with_another_prompt(sizes: list[int], seed: int) -> None:
    rows = [
        {"prompt_ids": [number], "completion_ids": [100 * number + response], "label": 1.0}
        for number, size in enumerate(sizes)
        for response in range(size)
    ]
    found = arranged(Dataset.from_list(rows), seed, mismatched=True)
    own, others = found["completion_ids"][:], found["KL_completion_ids"][:]
    assert sorted(own) == sorted(others) == sorted(row["completion_ids"] for row in rows)
    prompts = [prompt for (prompt,) in found["prompt_ids"]]
    assert sum(a != b for a, b in itertools.pairwise(prompts)) == len(sizes) - 1  # neighbors
    if 2 * max(sizes) <= len(rows):
        assert all(prompt != other // 100 for prompt, (other,) in zip(prompts, others, strict=True))
    again = arranged(Dataset.from_list(rows), seed, mismatched=True)
    assert again.to_dict() == found.to_dict()


def test_without_a_reference_point_nothing_is_mismatched() -> None:
    rows = [{"prompt_ids": [n], "completion_ids": [n], "label": 1.0} for n in range(20)]
    found = arranged(Dataset.from_list(rows), 0, mismatched=False)
    assert found.column_names == ["prompt_ids", "completion_ids", "label"]
    assert sorted(found["completion_ids"]) == [[n] for n in range(20)] != found["completion_ids"][:]


@pytest.mark.parametrize(("desirable", "undesirable"), [(1, 1), (1, 1000), (7, 3), (999, 1000)])
def test_both_classes_count_the_same(desirable: int, undesirable: int) -> None:
    good, bad = weights(stage(), desirable, undesirable)
    assert good * desirable == pytest.approx(bad * undesirable)
    assert min(good, bad) == pytest.approx(1.0)


def test_weights_that_are_set_are_kept() -> None:
    """The paper's example: one desirable response to ten, with a ratio from 1 to 3/2, is a weight from 10 to 15."""
    assert weights(stage(), 10, 100) == (10.0, 1.0)
    assert weights(stage("stage.desirable_weight=12", "stage.undesirable_weight=1"), 10, 100) == (12.0, 1.0)
    assert weights(stage("stage.undesirable_weight=0.5"), 10, 100) == (5.0, 0.5)
    assert weights(stage("stage.desirable_weight=2"), 10, 100) == (2.0, 0.2)


@pytest.mark.parametrize(("counts", "name"), [((0, 3), "no desirable"), ((3, 0), "no undesirable")])
def test_one_class_alone_is_refused(counts: tuple[int, int], name: str) -> None:
    with pytest.raises(DataError, match=f"has {name} response, and KTO contrasts both kinds: add some"):
        weights(stage(), *counts)


def test_ratings_from_their_mean_on_are_desirable() -> None:
    rows = Dataset.from_list([{"prompt": "p", "rating": float(n), "label": None} for n in (0, 1, 2, 5)])
    found, least = labeled(rows, None)
    assert (found["label"][:], least, counted(found)) == ([0.0, 0.0, 1.0, 1.0], 2.0, (2, 2))
    assert labeled(rows, 5.0)[0]["label"][:] == [0.0, 0.0, 0.0, 1.0]
    mixed = Dataset.from_list(
        [{"prompt": "p", "rating": None, "label": 0.0}, {"prompt": "p", "rating": 3.0, "label": None}]
    )
    assert labeled(mixed, None)[0]["label"][:] == [0.0, 1.0]
    thumbs = Dataset.from_list([{"label": 1.0}])
    assert labeled(thumbs, None) == (thumbs, None)


def test_in_completions_of_several_turns_the_others_turns_count_nothing() -> None:
    """Ids 1 2 | 3 4 5 6 7, of which 5 6 are the user's; mismatched 1 2 | 8 9, of which 8 is."""
    row = {"prompt_ids": [1, 2], "completion_ids": [3, 4, 5, 6, 7], "completion_heard": [2, 4], "label": 1.0}
    row |= {"KL_completion_ids": [8, 9], "KL_completion_heard": [0, 1]}
    made = trainer(ReadyKTOTrainer)
    assert isinstance(made.data_collator, Collator)
    batch = made.data_collator([row])
    assert batch["input_ids"][batch["completion_mask"].bool()].tolist() == [3, 4, 7]
    assert batch["KL_input_ids"][batch["KL_completion_mask"].bool()].tolist() == [9]
    assert batch["label"].tolist() == [True]


@pytest.fixture(autouse=True)
def same_draws() -> Iterator[None]:
    with torch.random.fork_rng():
        yield
