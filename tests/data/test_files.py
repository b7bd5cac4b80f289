import gzip
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from datasets import Dataset, load_dataset

from rlhf.data.files import read_rows
from rlhf.errors import DataError

ROWS = [{"prompt": "a, b", "completion": "c\nd"}, {"prompt": "é", "completion": "f"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def written(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", LINES, (":1", ":2")),
        ("a.jsonl.gz", LINES, (":1", ":2")),
        ("a.ndjson", "\ufeff" + LINES.replace("\n", "\r\n\r\n"), (":1", ":3")),
        ("a.json", json.dumps(ROWS, indent=1), (" row 1", " row 2")),
        ("a.json.gz", json.dumps(ROWS), (" row 1", " row 2")),
        ("lines.json", LINES, (":1", ":2")),
        ("A.CSV", 'prompt,completion\n"a, b","c\nd"\né,f\n', (":3", ":4")),
        ("a.csv.gz", '\ufeffprompt,completion\n"a, b","c\nd"\né,f\n', (":3", ":4")),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, content: str, places: tuple) -> None:
    path = written(tmp_path / name, content)
    assert list(read_rows(path)) == [(f"{path}{place}", row) for place, row in zip(places, ROWS, strict=True)]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    Dataset.from_list(ROWS).to_parquet(str(path))
    assert list(read_rows(path)) == [(f"{path} row 1", ROWS[0]), (f"{path} row 2", ROWS[1])]


def test_an_empty_cell_is_a_missing_field(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "prompt,completion\na,\n")
    assert [row for _, row in read_rows(path)] == [{"prompt": "a", "completion": None}]


def test_a_cell_may_be_longer_than_csv_allows_by_default(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", f"prompt\n{'x' * 200_000}\n")
    assert [len(row["prompt"]) for _, row in read_rows(path)] == [200_000]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", "x", r"a\.txt: the name of a data file must end in one of \.jsonl"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl:2: invalid JSON \(Expecting value, column 6\)"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl:2: every row must be a JSON object, got list"),
        ("a.jsonl", b'{"a": 1}\n\xff\xfe\n', r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: invalid JSON \(maximum recursion"),
        ("a.jsonl", "1" * 5_000, r"a\.jsonl:1: invalid JSON \(Exceeds the limit"),
        ("a.json", "[1", r"a\.json: invalid JSON"),
        ("a.json", "[1]", r"a\.json row 1: every row must be a JSON object, got int"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv:3: has more values than the header"),
        ("a.csv", 'a,b\n"1"x,2\n', r"a\.csv:2: invalid CSV"),
        ("a.parquet", "x", r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_unreadable_rows_are_reported_with_file_and_line(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        list(read_rows(written(tmp_path / name, content)))


@pytest.mark.parametrize("damage", [b"no gzip", gzip.compress(LINES.encode() * 99)[:-20]])
def test_a_damaged_archive_is_reported_with_its_file(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read"):
        list(read_rows(path))


def test_parquet_with_json_inside_is_read_like_json_lines(tmp_path: Path) -> None:
    """datasets writes messages with different fields as list<arrow.json>."""
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "x"}]
    lines = written(tmp_path / "a.jsonl", "".join(json.dumps({"messages": talk[:n]}) + "\n" for n in (2, 1)))
    load_dataset("json", data_files=str(lines), split="train", cache_dir=str(tmp_path)).to_parquet(
        tmp_path / "a.parquet"
    )
    assert pyarrow.parquet.read_schema(tmp_path / "a.parquet").field("messages").type.value_type == pyarrow.json_()
    assert [row for _, row in read_rows(tmp_path / "a.parquet")] == [row for _, row in read_rows(lines)]


def test_json_within_structs_and_null_in_parquet(tmp_path: Path) -> None:
    inner = [pyarrow.array(['{"x": 1}', None, None], pyarrow.json_()), pyarrow.array([2, None, 3])]
    values = pyarrow.StructArray.from_arrays(inner, ["a", "b"], mask=pyarrow.array([False, True, False]))
    pyarrow.parquet.write_table(pyarrow.table({"s": values}), tmp_path / "a.parquet")
    found = [row["s"] for _, row in read_rows(tmp_path / "a.parquet")]
    assert found == [{"a": {"x": 1}, "b": 2}, None, {"a": None, "b": 3}]
