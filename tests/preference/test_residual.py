import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.optimize import minimize
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from rlhf.config.reward import STYLE
from rlhf.evaluation.reward_card import style
from rlhf.preference import residual
from rlhf.preference.prefix_sharing import Sharing
from rlhf.preference.training import trainer_class
from tests.conftest import composed
from tests.preference import alike

GOOD, BAD = 2, 3  # tokens


def words(texts: list[str], **_: Any) -> dict[str, list[list[str]]]:
    return {"input_ids": [text.split() for text in texts]}


words.eos_token_id = words.cls_token_id = words.chat_template = None
words.added_tokens_decoder = {}


def trainer(rows: Dataset, steps: int, *overrides: str, adapter: bool = False, weights: int = 1, **options: Any) -> Any:
    """Return the trainer of a tiny reward model on rows of token ids with a column ``style``."""
    stage = composed("stage=reward", *overrides).stage
    model = alike.tiny(auto=AutoModelForSequenceClassification)
    if stage.residual:
        residual.attach(model, weights)
    return trainer_class(RewardTrainer, stage, {"train": rows})(
        model=model,
        args=alike.arguments(RewardConfig, steps, **{"remove_unused_columns": False} | options),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=alike.tokenizer(),
        peft_config=alike.lora(alike.TaskType.SEQ_CLS) if adapter else None,
    )


def styled(count: int, k: int = 1) -> Dataset:
    drawn = np.random.default_rng(0).normal(size=(count, k))
    return alike.pairs(count, whole=True).add_column("style", drawn.tolist())


def test_styles_by_hand() -> None:
    text = "# Head\n\n- **one** two\n- three"
    found = residual.styles([text, "", "one two"], words, ["length", "headers", "bold", "lists"])
    assert np.expm1(found) == pytest.approx(np.array([[7, 1, 1, 2], [0, 0, 0, 0], [2, 0, 0, 0]]))
    talk = [{"role": "user", "content": "q q q q"}]
    sides = [[{"role": "assistant", "content": text}] for text in ("a b c", "a")]
    rows = Dataset.from_list([{"prompt": talk, "chosen": sides[0], "rejected": sides[1]}] * 3)
    assert residual.differences(rows, words, ["lists", "length"]) == [pytest.approx([0, math.log(2)])] * 3
    assert STYLE == style.STYLE


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_by_hand(adapter: bool, shared: bool, smoothing: float) -> None:
    """-log σ(d + w Δf - m) and its derivative by w, in numpy, from the scores of the plain model."""
    rows = styled(4, 2).add_column("margin", [0.0, 0.5, 1.0, 0.0])
    own = ("stage.residual=[length,lists]", f"stage.label_smoothing={smoothing}")
    made = trainer(rows, 1, *own, adapter=adapter, weights=2)
    made.model.eval()
    made.residual.head.residual.data = torch.tensor([0.7, -1.5])
    batch = made.data_collator(list(rows))
    with torch.no_grad():
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        chosen, rejected = made.model(**given).logits[:, 0].double().numpy().reshape(2, 4)
    change, margin = np.array(rows["style"]), np.array(rows["margin"])
    logit = chosen - rejected + change @ [0.7, -1.5]

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    expected = -(1 - smoothing) * np.log(sigmoid(logit - margin)) - smoothing * np.log(sigmoid(-logit - margin))
    slope = -(1 - smoothing) * sigmoid(margin - logit) + smoothing * sigmoid(logit + margin)
    sharing = Sharing(made.model) if shared else None
    loss = made.compute_loss(made.model, batch)
    loss.backward()
    if sharing is not None:
        sharing.remove()
    assert loss.item() == pytest.approx(expected.mean(), abs=1e-5)
    assert made.residual.head.residual.grad.numpy() == pytest.approx((slope[:, None] * change).mean(0), abs=1e-5)
    measured = made._metrics["eval"]
    assert measured["accuracy_with_residual"] == [np.mean(logit > 0)]
    assert measured["accuracy"] == [np.mean(chosen > rejected)]
    assert measured["residual/length"] == [pytest.approx(0.7 * math.log(2))]
    assert measured["residual/lists"] == [pytest.approx(-1.5 * math.log(2))]


@pytest.mark.parametrize("adapter", [False, True])
def test_dropped_weights_leave_the_model_as_it_would_be_without(adapter: bool) -> None:
    made = trainer(styled(8), 2, "stage.residual=[length]", adapter=adapter)
    made.train()
    assert any("residual" in name for name in made.model.state_dict())
    made.residual.drop(made.model)
    assert made.model.state_dict().keys() == trainer(styled(8), 1, adapter=adapter).model.state_dict().keys()
    copy.deepcopy(made.model)


def test_weights_have_a_separate_rate_and_no_decay() -> None:
    made = trainer(styled(8), 4, "stage.residual=[length]", "stage.residual_rate=0.02", weight_decay=0.5)
    made.create_optimizer_and_scheduler(4)
    own = [group for group in made.optimizer.param_groups if group["params"] == [made.residual.head.residual]]
    assert [(group["initial_lr"], group["weight_decay"]) for group in own] == [(0.02, 0.0)]
    assert sum(len(group["params"]) for group in made.optimizer.param_groups) == len(list(made.model.parameters()))


def test_accumulated_micro_batches_take_the_step_of_one() -> None:
    found = []
    for size, steps in ((8, 1), (2, 4)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "optim": "sgd"}
        made = trainer(styled(8), 1, "stage.residual=[length]", "stage.residual_rate=1", **options)
        made.train()
        found.append(made.residual.head.residual.item())
    assert found[0] != 0
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_with_fixed_scores_the_weights_are_those_of_a_logistic_regression() -> None:
    rows = styled(24, 2)
    options = {"per_device_train_batch_size": 24, "learning_rate": 0.0, "lr_scheduler_type": "cosine"}
    own = ("stage.residual=[length,bold]", "stage.residual_rate=0.1")
    made = trainer(rows, 120, *own, weights=2, **options)
    batch = made.data_collator(list(rows))
    with torch.no_grad():
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        chosen, rejected = made.model(**given).logits[:, 0].double().numpy().reshape(2, 24)
    made.train()
    change = np.array(rows["style"])
    best = minimize(lambda w: np.logaddexp(0, -(chosen - rejected) - change @ w).sum(), np.zeros(2)).x
    assert made.residual.head.residual.tolist() == pytest.approx(best, abs=0.05)


def responses(count: int, generator: np.random.Generator) -> tuple[list[list[int]], np.ndarray]:
    """Return responses of a good or a bad token and 1 to 20 others, and whether each is good."""
    good = generator.integers(2, size=count)
    lengths = generator.integers(1, 21, size=count)
    rows = [
        [GOOD if one else BAD, *generator.integers(4, alike.VOCABULARY, n).tolist()]
        for one, n in zip(good, lengths, strict=True)
    ]
    return rows, good


def test_scores_of_a_model_with_the_head_depend_less_on_length() -> None:
    """Labels are drawn from quality and length; the accuracy at equal length is the same."""
    generator = np.random.default_rng(0)
    (first, good), (second, other) = responses(600, generator), responses(600, generator)
    change = np.log1p([len(row) for row in first]) - np.log1p([len(row) for row in second])
    wins = generator.random(600) < 1 / (1 + np.exp(-3.0 * (good - other) - 2.0 * change))
    pairs = [(a, b, c) if won else (b, a, -c) for a, b, c, won in zip(first, second, change, wins, strict=True)]
    rows = Dataset.from_list([{"chosen_ids": [1, *a], "rejected_ids": [1, *b], "style": [c]} for a, b, c in pairs])
    tests, _ = responses(300, generator)
    matched = [[[1, side, *row[1:]] for row in tests] for side in (GOOD, BAD)]

    options = {"per_device_train_batch_size": 30, "learning_rate": 3e-3}
    correlations, accuracies, weights = [], [], []
    for own in ([], ["stage.residual=[length]", "stage.residual_rate=0.1"]):
        made = trainer(rows if own else rows.remove_columns("style"), 100, *own, **options)
        made.train()
        scores = [scored(made.model, one) for one in matched]
        lengths = np.log1p([len(row) for row in tests])
        correlations.append(np.corrcoef(np.concatenate(scores), np.tile(lengths, 2))[0, 1])
        accuracies.append((scores[0] > scores[1]).mean())
        weights += [made.residual.head.residual.item()] if own else []
    assert correlations[1] < correlations[0] / 2
    assert accuracies[1] >= accuracies[0] - 0.02 > 0.9
    assert weights == [pytest.approx(2.0, abs=0.6)]


@torch.no_grad()
def scored(model: Any, rows: list[list[int]]) -> np.ndarray:
    model.eval()
    return np.array([model(input_ids=torch.tensor([row])).logits.item() for row in rows])
