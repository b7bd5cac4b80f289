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


def test_a_row_of_judgebench_has_the_right_response_first_and_a_tie_for_the_second() -> None:
    row = {"pair_id": "x", "source": "mmlu-pro-law", "question": "q", "response_A": "a", "response_B": "b"}
    assert items.judgebench(row | {"label": "A>B"}, "gpt") == Item("x", "mmlu-pro", "q", ["a", "b"], tie=0)
    assert items.judgebench(row | {"label": "B>A", "source": "livecodebench"}, "gpt") == Item(
        "x", "livecodebench", "q", ["b", "a"], tie=1
    )
    with pytest.raises(RowError, match="field 'label' must be A>B or B>A, got 'A'"):
        items.judgebench(row | {"label": "A"}, "gpt")


def test_a_row_of_llmbar_has_the_folder_of_its_file() -> None:
    row = {"input": "q", "output_1": "a", "output_2": "b", "label": 2}
    read = items.llmbar(row, "LLMBar/Adversarial/Manual/dataset.json")
    assert read == Item("", "Manual", "q", ["b", "a"], tie=0.5)


def test_rows_of_rmb() -> None:
    turn = {"role": "user", "content": "c", "language": "English"}
    row = {"conversation_input": [*TALK[:2], turn], "category_path": "Pairwise_set/Helpfulness/Chat/Discussion"}
    pair = items.rmb(row | {"pair_uid": "1", "chosen": {"answer": "a"}, "reject": {"answer": "b"}}, "")
    assert pair == Item("1", "Pairwise_set/Helpfulness/Chat", TALK, ["a", "b"], language="English")
    assert pair.turns == 2
    several = {"bon_uid": "2", "bon_best": {"answer": "a"}, "loser_list": [{"answer": "b"}, {"answer": "c"}]}
    several |= {"conversation_input": [turn], "category_path": "BoN_set/Harmlessness/S1"}
    assert items.rmb(several, "").responses == ["a", "b", "c"]
    assert items.rmb(several, "").subset == "BoN_set/Harmlessness/S1"
    with pytest.raises(RowError, match="field 'reject or loser_list' must hold the answer of a model"):
        items.rmb(several | {"loser_list": ["b"]}, "")


def test_rows_of_ppe() -> None:
    vote = {"question_id": "7", "prompt": "q", "response_1": "a", "response_2": "b", "language": "Polish"}
    read = items.ppe(vote | {"winner": "model_b"}, "lmarena-ai/PPE-Human-Preference-V1/all")
    assert read == Item("7", items.HUMAN, "q", ["b", "a"], language="Polish")
    assert items.ppe(vote | {"winner": "tie (bothbad)"}, "") is None
    answers = {f"response_{number}": str(number) for number in range(1, 5)}
    row = {"question_id": "8", "prompt": "q", **answers, "scores": [False, True, False, True]}
    read = items.ppe(row | {"sampled_conflict_pairs": [[0, 1], [3, 2]]}, "x/PPE-MATH-Best-of-K/all")
    assert (read.subset, read.responses, read.right) == ("MATH", ["2", "4", "1", "3"], 2)
    assert read.compared == ((0, 2), (1, 3))
    assert items.ppe(row | {"sampled_conflict_pairs": []}, "x") is None
    with pytest.raises(RowError, match="field 'scores' and sampled_conflict_pairs must be lists"):
        items.ppe(row, "x")


def test_the_pairs_of_a_row_are_all_of_right_and_wrong_or_those_of_the_benchmark() -> None:
    right, wrong = Item("", "s", "q", [*"abcd"], right=2).pairs()
    assert list(zip(right, wrong, strict=True)) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    right, wrong = Item("", "s", "q", [*"abcd"], right=2, compared=((1, 2),)).pairs()
    assert list(zip(right, wrong, strict=True)) == [(1, 2)]
