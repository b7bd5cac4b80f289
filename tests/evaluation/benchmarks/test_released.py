import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import HfApi

from rlhf.errors import DataError
from rlhf.evaluation.benchmarks import released
from rlhf.evaluation.benchmarks.items import Item
from rlhf.evaluation.benchmarks.released import files
from tests.conftest import composed
from tests.hub.server import Hub

ROW = {"id": 1, "subset": "donotanswer", "prompt": "q", "chosen": "c", "rejected": "r"}
STYLED = {"id": 1, "prompt": "q", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}


def load(name: str, path: Path | str, prior: Path | str | None = None) -> list[Item]:
    given = [f"stage.benchmark={name}", f"stage.benchmark_path={path}", f"stage.prior_sets={prior or 'null'}"]
    return released.load(composed("stage=evaluate_reward", *given).stage)


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def test_a_folder_is_read_by_the_names_of_its_files(tmp_path: Path) -> None:
    for name in ("raw", "filtered"):
        (tmp_path / "data").mkdir(exist_ok=True)
        Dataset.from_list([ROW | {"prompt": name}]).to_parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    assert [item.prompt for item in load("rewardbench", tmp_path)] == ["filtered"]
    write(tmp_path / "own" / "mine.json", [ROW])
    assert len(load("rewardbench", tmp_path / "own")) == 1


def test_the_whole_file_of_rm_bench_or_those_of_its_domains(tmp_path: Path) -> None:
    write(tmp_path / "chat_filtered.json", [STYLED])
    write(tmp_path / "safety-refuse_filtered.json", [STYLED])
    assert [item.subset for item in load("rm_bench", tmp_path)] == ["chat", "safety"]
    write(tmp_path / "total_dataset.json", [STYLED | {"domain": "code"}])
    assert [item.subset for item in load("rm_bench", tmp_path)] == ["code"]
    assert files(tmp_path / "chat_filtered.json", ()) == [tmp_path / "chat_filtered.json"]


def test_the_prior_sets_are_read_from_their_files(tmp_path: Path) -> None:
    core = write(tmp_path / "core.json", [ROW])
    write(tmp_path / "prior" / "shp.json", [ROW])
    write(tmp_path / "prior" / "pku_safer.json", [ROW])
    assert [item.subset for item in load("rewardbench", core, tmp_path / "prior")] == [
        "donotanswer", "shp",
    ]  # fmt: skip


def test_a_hub_id_is_read_by_the_splits_of_its_readme_at_a_revision(hub: Hub) -> None:
    HfApi().create_repo("alice/bench", repo_type="dataset")
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: raw, path: a/raw.jsonl}\n"
        "  - {split: filtered, path: a/kept.jsonl}\n---\n"
    )
    contents = {"README.md": card, "a/raw.jsonl": json.dumps(ROW), "a/kept.jsonl": json.dumps(ROW | {"prompt": "kept"})}

    def put(name: str, content: str) -> str:
        return (
            HfApi()
            .upload_file(
                path_or_fileobj=content.encode(), path_in_repo=name, repo_id="alice/bench", repo_type="dataset"
            )
            .oid
        )

    first = [put(name, content) for name, content in contents.items()][-1]
    put("a/kept.jsonl", json.dumps(ROW | {"prompt": "later"}))
    assert [item.prompt for item in load("rewardbench", f"alice/bench@{first}")] == ["kept"]
    with pytest.raises(DataError, match=r"alice/bench: the split 'test' cannot be read .*stage\.benchmark_path=my"):
        load("rewardbench2", "alice/bench")


def test_mistakes_name_the_setting_or_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^stage\.benchmark_path=nowhere\.json: there is no such file or folder"):
        load("rewardbench", "nowhere.json")
    with pytest.raises(DataError, match=r"^stage\.benchmark_path=\S+ has no rows: set another file"):
        load("rewardbench", tmp_path)
    bad = write(tmp_path / "bad.json", [ROW, {"prompt": "q"}])
    with pytest.raises(DataError, match=r"bad\.json row 2: field 'chosen' is missing"):
        load("rewardbench", bad)


def test_folders_of_the_github_releases(tmp_path: Path) -> None:
    row = {"input": "q", "output_1": "a", "output_2": "b", "label": 1}
    for name in ("Natural", "Adversarial/Manual"):
        write(tmp_path / "LLMBar" / name / "dataset.json", [row])
        write(tmp_path / "LLMBar" / name / "evaluators" / "result.json", [{}])
    assert sorted(item.subset for item in load("llmbar", tmp_path / "LLMBar")) == ["Manual", "Natural"]
    assert [item.subset for item in load("llmbar", tmp_path / "LLMBar" / "Natural")] == ["Natural"]
    pair = {"source": "s", "question": "q", "response_A": "a", "response_B": "b", "label": "A>B"}
    for model in ("gpt-4o-2024-05-13", "claude-3-5-sonnet-20240620"):
        path = tmp_path / "judge" / f"dataset=judgebench,response_model={model}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(pair | {"source": model}))
    assert [item.subset for item in load("judgebench", tmp_path / "judge")] == ["gpt-4o-2024-05-13"]


def test_every_split_of_a_hub_id_of_ppe_is_read_and_ties_are_left_out(hub: Hub) -> None:
    HfApi().create_repo("alice/PPE-X", repo_type="dataset")
    votes = [
        {"question_id": str(n), "prompt": "q", "response_1": "a", "response_2": "b", "winner": winner}
        for n, winner in enumerate(("model_a", "tie", "model_b"))
    ]
    content = "".join(f"{json.dumps(vote)}\n" for vote in votes).encode()
    HfApi().upload_file(
        path_or_fileobj=content, path_in_repo="data/test.jsonl", repo_id="alice/PPE-X", repo_type="dataset"
    )
    assert [item.responses for item in load("ppe", "alice/PPE-X")] == [["a", "b"], ["b", "a"]]


def test_a_limit_draws_from_every_subset_in_proportion_and_keeps_the_order() -> None:
    """60, 30 and 1 rows: the first of each, then nine by place, 6 of the one and 3 of the other."""
    rows = [Item(str(n), subset, "q", ["a", "b"]) for n, subset in enumerate(["x"] * 60 + ["y"] * 30 + ["z"])]
    found = released.drawn(rows, 12, 0)
    assert Counter(item.subset for item in found) == {"x": 7, "y": 4, "z": 1}
    assert found == sorted(found, key=lambda item: int(item.id))
    assert found == released.drawn(rows, 12, 0) != released.drawn(rows, 12, 1)
    assert found[:7] != rows[:7]
    assert {item.subset for item in released.drawn(rows, 3, 0)} == {"x", "y", "z"}
    assert released.drawn(rows, None, 0) == released.drawn(rows, 91, 0) == rows
    counted = Counter(item.id for seed in range(200) for item in released.drawn(rows, 12, seed))
    assert counted["90"] == 200
    assert all(3 <= counted[str(n)] <= 50 for n in range(90))  # 7/60 and 4/30 of 200 draws: 23 and 27, five deviations


def test_the_two_rows_of_a_tie_are_drawn_together() -> None:
    rows = [Item(f"{kind}:{n}", "Ties", "q", ["a", "b"]) for kind in ("ref", "tied") for n in range(5)]
    rows += [Item(f"ref:{n}", "Math", "q", ["a", "b"]) for n in range(5)]  # not a group
    for seed in range(20):
        found = released.drawn(rows, 7, seed)
        tied = [item.id for item in found if item.subset == "Ties"]
        assert Counter(key.partition(":")[2] for key in tied) == dict.fromkeys({key[-1] for key in tied}, 2)
        assert len(found) >= 6
        assert any(item.subset == "Math" for item in found)
