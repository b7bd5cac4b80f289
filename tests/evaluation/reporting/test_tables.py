"""Headings, cells and which rows there are."""

from rlhf.evaluation.reporting.tables import HEADINGS, costs, grids, heading, keys_of, remarks, rows, spread
from rlhf.evaluation.statistics.metrics import Estimate
from tests.evaluation.making import whole


def test_headings_tell_rows_apart() -> None:
    names = [name for name, _ in HEADINGS.values()]
    assert len(set(names)) == len(names)


def test_win_rates_of_another_judge_have_rows_too() -> None:
    told = whole()
    told.metrics["ppo"] |= {
        "win_rate/judge": Estimate(0.6, 0.5, 0.7), "win_rate/lc/judge": Estimate(0.5, 0.4, 0.6),
        "win_rate_previous/judge": Estimate(0.7, 0.6, 0.8),
    }  # fmt: skip
    assert keys_of(told)[-3:] == ["win_rate/judge", "win_rate/lc/judge", "win_rate_previous/judge"]
    found = dict(rows(told))
    assert found["wins by judge"] == ["–", "–", "–", "0.60 ±0.10"]
    assert found["wins by judge, equal length"][-1] == "0.50 ±0.10"
    assert found["wins over before by judge"][-1] == "0.70 ±0.10"


def test_the_last_part_of_a_key_is_the_heading_of_a_section_s_row() -> None:
    assert heading("gold/task/two_steps") == "two_steps"
    assert heading("instructions/kind/punctuation:no_comma") == "punctuation:no_comma"


def test_sections_are_there_where_they_were_measured() -> None:
    told = whole()
    told.metrics["sft"]["instructions/kind/startend:quotation"] = Estimate(0.5, 0.5, 0.5)
    titles = [grid.title for grid in grids(told)]
    assert titles == [
        "Every metric", "Over seeds 0, 1: mean (standard deviation)", "Instructions followed, by kind",
        "What each stage cost",
    ]  # fmt: skip


def test_costs_of_runs_of_ours_alone() -> None:
    grid = costs(whole())
    assert grid.headings == ["", "base", "sft", "dpo", "ppo"]
    assert grid.rows[1] == ["tokens", "1,000", "1,000", "1,000", "1,000"]


def test_what_one_seed_lacks_is_a_dash() -> None:
    told = whole()
    del told.seeds.metrics["base"]["gold"]
    assert dict(spread(told))["gold reward"][0] == "–"


def test_without_pairs_there_is_no_remark_on_the_reward_model() -> None:
    told = whole()
    assert len(remarks(told)) == 2
    told.reliability = []
    assert remarks(told) == ["a note"]
