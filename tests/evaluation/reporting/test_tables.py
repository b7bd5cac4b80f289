"""Headings, cells and rows of the tables."""

import pytest

from rlhf.evaluation.reporting.tables import (
    LABELS,
    costs,
    grids,
    keys_of,
    label,
    meanings,
    number,
    remarks,
    rows,
    spread,
)
from rlhf.evaluation.statistics.metrics import Estimate
from tests.evaluation.making import whole


def test_headings_are_unique() -> None:
    names = [words.label for words in LABELS.values()]
    assert len(set(names)) == len(names)
    assert all(words.plain and words.plain != words.label for words in LABELS.values())


def test_labels_have_a_meaning() -> None:
    made = whole()
    made.metrics["ppo"] |= dict.fromkeys(
        [
            "win_rate/gold", "win_rate/lc/gold", "win_rate_previous/reward", "format_followed", "consistency/resamples",
            "consistency/paraphrases", "calibration/answers", "calibration/answers_floor", "ends", "length",
        ],
        0.5,
    )  # fmt: skip
    found = {words.label: words.meaning for words in meanings(made)}
    assert list(found) == [
        "gold reward", "reward model", "win rate vs SFT (gold)", "win rate vs SFT (gold, length-matched)",
        "win rate vs previous stage (reward model)", "KL to SFT (nats per response)", "instruction following",
        "consistency (resampling)", "consistency (paraphrase)", "ECE", "ECE noise floor", "EOS rate",
        "response length (tokens)",
    ]  # fmt: skip
    assert all(found.values())
    assert f"temperature {made.stage.temperature:g}" in found["KL to SFT (nats per response)"]
    assert "minimal form" in found["win rate vs SFT (gold, length-matched)"]


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(0.5, 0.4, 0.6), "0.50 ±0.10"),
        (Estimate(0.94, 0.43, 0.997), "0.94 [0.43, 1.00]"),
        (Estimate(0.99, 0.982, 0.994), "0.99 ±0.01"),  # the skew is below the precision
    ],
)
def test_a_skewed_interval_is_shown_by_its_bounds(estimate: Estimate, shown: str) -> None:
    assert number(estimate) == shown


def test_metrics_that_are_left_out_are_reported() -> None:
    made = whole()
    made.metrics["ppo"] |= {"win_rate/gold": Estimate(0.9, 0.8, 1.0), "correct": Estimate(0.0, 0.0, 0.0)}
    made.metrics["base"] |= {"win_rate/gold": Estimate(0.17, 0.1, 0.2), "win_rate/lc/gold": Estimate(0.2, 0.1, 0.3)}
    made.metrics["base"] |= {
        "win_rate/reward": Estimate(0.64, 0.6, 0.7),
        "win_rate/lc/reward": Estimate(0.6, 0.5, 0.7),
    }
    assert dict(rows(made))["win rate vs SFT (gold, length-matched)"] == ["0.20 ±0.10", "–", "–", "–"]
    found = "\n".join(remarks(made))
    assert "No length-matched win rate for ppo: every response is longer" in found
    assert "No ECE for ppo: no response is correct." in found
    assert "disagree about base: win rate 0.64 and 0.17 vs SFT." in found
    assert "expected for a calibrated model on as many pairs: 0.062" in found


def test_win_rates_by_another_judge_have_rows_too() -> None:
    made = whole()
    made.metrics["ppo"] |= {
        "win_rate/judge": Estimate(0.6, 0.5, 0.7), "win_rate/lc/judge": Estimate(0.5, 0.4, 0.6),
        "win_rate_previous/judge": Estimate(0.7, 0.6, 0.8),
    }  # fmt: skip
    judged = [key for key in keys_of(made.metrics) if key.endswith("/judge")]
    assert judged == ["win_rate/judge", "win_rate/lc/judge", "win_rate_previous/judge"]
    found = dict(rows(made))
    assert found["win rate vs SFT (judge)"] == ["–", "–", "–", "0.60 ±0.10"]
    assert found["win rate vs SFT (judge, length-matched)"][-1] == "0.50 ±0.10"
    assert found["win rate vs previous stage (judge)"][-1] == "0.70 ±0.10"


def test_rows_of_sections_are_headed_by_the_last_part_of_the_key() -> None:
    assert label("gold/task/two_steps", "sft", 0.7).label == "two_steps"
    assert label("instructions/kind/punctuation:no_comma", "sft", 0.7).label == "punctuation:no_comma"


def test_only_measured_sections_are_shown() -> None:
    made = whole()
    made.metrics["sft"]["instructions/kind/startend:quotation"] = Estimate(0.5, 0.5, 0.5)
    titles = [grid.title for grid in grids(made)]
    assert titles == [
        "Every metric", "Over seeds 0, 1: mean (standard deviation)", "Instruction following by kind of instruction",
        "What each stage cost",
    ]  # fmt: skip


def test_only_runs_have_costs() -> None:
    grid = costs(whole())
    assert grid.headings == ["", "base", "sft", "dpo", "ppo"]
    assert grid.rows[1] == ["tokens", "1,000", "1,000", "1,000", "1,000"]


def test_a_metric_that_a_seed_lacks_is_a_dash() -> None:
    made = whole()
    del made.seeds.metrics["base"]["gold"]
    assert dict(spread(made))["gold reward"][0] == "–"


def test_without_pairs_there_is_no_remark_on_the_reward_model() -> None:
    made = whole()
    assert len(remarks(made)) == 2
    made.reliability = None
    assert remarks(made) == ["a note"]
