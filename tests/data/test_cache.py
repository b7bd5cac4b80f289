import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from rlhf.data import cache
from rlhf.errors import DataError
from rlhf.storage import digests

SCHEMA = pyarrow.schema([("a", pyarrow.int64())])


def build(writer: cache.Writer) -> dict[str, int]:
    for batch in cache.batches(({"a": n} for n in range(2_500)), 1_000):
        writer.write(batch, SCHEMA)
    return {"read": 2_500}


def never(_: cache.Writer) -> dict[str, int]:
    raise AssertionError("it was there")


def test_a_second_run_reads_the_table_of_the_first(tmp_path: Path) -> None:
    rows, built = cache.table(str(tmp_path), "k", "x", build)
    assert (rows["a"][:], built) == (list(range(2_500)), {"read": 2_500})
    again, built = cache.table(str(tmp_path), "k", "x", never)
    assert (again["a"][:], built) == (list(range(2_500)), {"read": 2_500})
    assert again._fingerprint == rows._fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


@pytest.mark.parametrize("damage", ["flip", "cut", "rows", "meta", "text"])
def test_a_damaged_table_is_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture, damage: str) -> None:
    cache.table(str(tmp_path), "k", "my.jsonl", build)
    rows, meta = tmp_path / "k" / cache.ROWS, tmp_path / "k" / cache.META
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: rows.write_bytes(content),
        "cut": lambda: rows.write_bytes(content[:-100]),
        "rows": rows.unlink,
        "meta": meta.unlink,
        "text": lambda: meta.write_text("[]"),
    }[damage]()
    again, _ = cache.table(str(tmp_path), "k", "my.jsonl", build)
    assert again["a"][:] == list(range(2_500))
    printed = " ".join(capsys.readouterr().out.split())
    assert "my.jsonl: its table in data.cache is damaged and is rebuilt" in printed


def test_a_large_file_is_read_for_its_digest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGE", 10)
    path = tmp_path / "rows.jsonl"
    path.write_text("a" * 20)
    original = cache.digests.file_digest
    digest, read = original(path), []
    monkeypatch.setattr(cache.digests, "file_digest", lambda file: read.append(file.name) or original(file))
    cached = str(tmp_path / "cache")
    assert cache.content_digest(cached, path) == digest  # it has just been written
    old = path.stat().st_mtime_ns - 10 * digests.SETTLED
    os.utime(path, ns=(old, old))
    for _ in range(3):
        assert cache.content_digest(cached, path) == digest
    assert read.count("rows.jsonl") == 2
    path.write_text("b" * 20)
    os.utime(path, ns=(old + 1, old + 1))
    assert cache.content_digest(cached, path) != digest


def test_a_large_table_is_read_for_its_digest_if_its_time_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.table(str(tmp_path), "k", "x", build)
    monkeypatch.setattr(cache, "LARGE", 10)
    monkeypatch.setattr(cache.digests, "file_digest", lambda _: pytest.fail("its time has not changed"))
    assert cache.table(str(tmp_path), "k", "x", never)[1] == {"read": 2_500}
    monkeypatch.undo()
    (tmp_path / "k" / cache.ROWS).touch()
    assert cache.table(str(tmp_path), "k", "x", never)[1] == {"read": 2_500}


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fails(writer: cache.Writer) -> dict:
        writer.write([{"a": 1}], SCHEMA)
        raise DataError("line 2")

    with pytest.raises(DataError, match="line 2"):
        cache.table(str(tmp_path), "k", "x", fails)
    assert list(tmp_path.iterdir()) == []
    assert cache.table(str(tmp_path), "k", "x", build)[1] == {"read": 2_500}


def test_a_folder_that_cannot_be_written_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache=.*file cannot be written \(.*\): set another folder"):
        cache.table(str(tmp_path / "file"), "k", "x", build)


def test_a_table_without_rows_is_cached_as_missing(tmp_path: Path) -> None:
    assert cache.table(str(tmp_path), "k", "x", lambda _: {"read": 0}) == (None, {"read": 0})
    assert cache.table(str(tmp_path), "k", "x", never) == (None, {"read": 0})


def test_a_value_is_computed_once(tmp_path: Path) -> None:
    assert cache.value(str(tmp_path), "v", lambda: [1, None]) == [1, None]
    assert cache.value(str(tmp_path), "v", lambda: pytest.fail("it was there")) == [1, None]


def test_a_key_depends_on_content_settings_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache.key_of({"a": 1, "b": 2}, "x")
    assert key == cache.key_of({"b": 2, "a": 1}, "x") != cache.key_of({"a": 1, "b": 3}, "x")
    monkeypatch.setattr(cache, "code_digest", lambda: "other")
    assert cache.key_of({"a": 1, "b": 2}, "x") != key


def test_the_meta_file_holds_no_rows(tmp_path: Path) -> None:
    cache.table(str(tmp_path), "k", "x", build)
    assert set(json.loads((tmp_path / "k" / cache.META).read_text())) == {"digest", "rows", "told", "stamp"}


def test_tables_of_killed_processes_are_deleted_and_those_of_others_kept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [f"{cache.ASIDE}{os.getpid()}-x", f".partial-elsewhere-{gone.pid}-x", ".partial-x"]
    for name in (*kept, f"{cache.ASIDE}{gone.pid}-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / cache.ROWS).touch()
    cache.table(str(tmp_path), "k", "x", build)
    assert {path.name for path in tmp_path.iterdir()} == {"k", *kept}
