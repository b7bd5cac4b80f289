import pytest

from rlhf.data.rows import RowError
from rlhf.evaluation.benchmarks import items
from rlhf.evaluation.benchmarks.items import Item

TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


def test_a_row_of_rewardbench_and_of_its_prior_sets() -> None:
    row = {"id": 3, "subset": "hep-go", "prompt": "q", "chosen": "c", "rejected": "r", "chosen_model": "m"}
    assert items.rewardbench(row, "filtered.jsonl") == Item("3", "hep-go", "q", ["c", "r"])
    prior = {"id": 0, "subset": "part", "prompt": TALK, "chosen": "c", "rejected": "r"}
    assert items.prior(prior, "data/shp-00000-of-00001.parquet") == Item("0", "shp", TALK, ["c", "r"])
    assert items.prior(prior | {"prompt": TALK[:1]}, "anthropic_hhh").prompt == "a"


def test_a_row_of_rewardbench_2_has_its_right_responses_first() -> None:
    row = {"id": "tied:1", "subset": "Ties", "prompt": "q", "chosen": ["a", "b"], "rejected": ["c"], "num_correct": 2}
    assert items.rewardbench2(row, "test") == Item("tied:1", "Ties", "q", ["a", "b", "c"], right=2)
    with pytest.raises(RowError, match="field 'rejected' must be a list of responses"):
        items.rewardbench2(row | {"rejected": "c"}, "test")


def test_a_row_of_rm_bench_has_its_domain_or_that_of_its_file() -> None:
    row = {"id": 1, "prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    read = Item("1", "safety", "q", [*"abcdef"], right=3)
    assert items.rm_bench(row | {"domain": "safety-refuse"}, "total_dataset.json") == read
    assert items.rm_bench(row, "data/safety-response_filtered.json") == read
    with pytest.raises(RowError, match="field 'chosen' must have 3 responses, got 2"):
        items.rm_bench(row | {"chosen": ["a", "b"]}, "total_dataset.json")


@pytest.mark.parametrize("missing", ["prompt", "chosen", "subset"])
def test_a_missing_field_is_named(missing: str) -> None:
    row = {"id": 3, "subset": "hep-go", "prompt": "q", "chosen": "c", "rejected": "r"}
    with pytest.raises(RowError, match=f"field '{missing}' is missing"):
        items.rewardbench({key: value for key, value in row.items() if key != missing}, "")
