"""Which figures there are, and that they show what was measured."""

import re

import pytest

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.reporting.figures import figures
from rlhf.evaluation.responses.best_of_n import best_of_n_kl
from tests.evaluation.making import comparison, whole


def names(of: Comparison) -> list[str]:
    return [drawing.name for drawing in figures(of)]


def test_all_of_a_whole_comparison() -> None:
    assert names(whole()) == [
        "frontier", "law-1", "lengths", "scores", "reliability", "training-0", "training-1", "training-2", "training-3",
    ]  # fmt: skip


def test_equal_comparisons_give_equal_figures() -> None:
    assert figures(whole()) == figures(whole())


def test_what_was_not_measured_is_not_drawn() -> None:
    bare = comparison(["a", "b"])
    for answers in bare.answers.values():
        answers.scores.clear()
    for row in bare.metrics.values():
        row.clear()
    assert names(bare) == ["lengths"]


def test_captions_say_what_a_reader_cannot_see() -> None:
    told = {drawing.name: drawing.caption for drawing in figures(whole())}
    assert "n = 1 to 2 of the sft samples by the reward model, drawn at the upper bound of its KL" in told["frontier"]
    assert "PPO's log during training, on its training prompts" in told["frontier"]
    assert re.search(
        r"gold reward: α = [\d.-]+, β = [\d.-]+, (no )?peak .*within the data \(KL up to 0.7\)", told["law-1"]
    )
    assert told["lengths"].endswith("Medians: base 7; sft 8; dpo 9; ppo 10.")
    assert "40 held-out pairs; expected calibration error 0.087, of a calibrated model 0.062" in told["reliability"]
    assert told["training-0"] == "Over steps, first to last: loss in training 3 to 2.6."
    assert told["training-3"].startswith("Over updates, first to last: reward model 0 to 2.65; gold reward 1 to 0.93")


def test_a_bound_is_marked_and_ppo_is_named_only_if_it_is_there() -> None:
    without = whole()
    without.paths = {}
    [drawing] = [one for one in figures(without) if one.name == "frontier"]
    assert "best of n, KL at most" in drawing.svg
    assert "PPO" not in drawing.caption


def test_one_value_everywhere_can_be_drawn() -> None:
    same = comparison(["a"])
    assert names(same) == ["frontier", "lengths", "scores"]


@pytest.mark.parametrize("n", [2, 4])
def test_best_of_n_goes_as_far_as_the_samples(n: int) -> None:
    [drawing] = [one for one in figures(whole(samples=n)) if one.name == "frontier"]
    assert f"n={n}" in drawing.svg
    assert f"n={2 * n}" not in drawing.svg
    assert best_of_n_kl(n) > 0
