"""The table and the counts do not depend on the number of processes; rlhf.data.reading has the worked values."""

import json
from pathlib import Path
from random import Random

import pytest

from rlhf.data import cache, conversion, workers
from rlhf.data.reading import read
from rlhf.errors import DataError
from tests.data.test_load import PAIRING, source, write

PAIRS = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": "b", "task": str(n), "unread": n} for n in range(60)]
THUMBS = [{"prompt": f"q{n // 9}", "completion": f"a{n}", "label": n % 2 == 0} for n in range(60)]
TALK = {name: [{"role": "user" if name == "prompt" else "assistant", "content": name}] for name in PAIRS[0]}
FILES = {
    "pairs": PAIRS,
    "thumbs that wait": [*PAIRS[:30], *THUMBS, *PAIRS[30:]],
    "rows that cannot be read": [*PAIRS[:40], {"prompt": "x"}, *PAIRS[40:], {"prompt": 1}],
    "another type": [*PAIRS[:40], TALK, *PAIRS[40:]],
    "equal responses": [*PAIRS, {"prompt": "x", "chosen": "b", "rejected": "b"}],
}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BATCH", 5)
    monkeypatch.setattr(workers, "ENOUGH", 10)


def told(path: Path, folder: Path, processes: int, strict: bool, kind: str = "preferences") -> tuple[list, str, str]:
    given = {"pairing": PAIRING, "folder": str(folder), "tell": False, "strict": strict, "processes": processes}
    rows, counts = read(source(path), kind, "train", **given)
    [table] = folder.glob("*/rows.arrow")
    return rows[:], json.dumps(counts), cache.digests.file_digest(table)


@pytest.mark.parametrize("name", FILES)
def test_two_processes_write_what_one_writes(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "rows.jsonl", FILES[name])
    assert told(path, tmp_path / "two", 2, strict=False) == told(path, tmp_path / "one", 1, strict=False)


@pytest.mark.parametrize("name", ["rows that cannot be read", "another type", "equal responses"])
def test_two_processes_refuse_what_one_refuses(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "rows.jsonl", FILES[name])
    messages = []
    for processes in (1, 2):
        with pytest.raises(DataError, match=r"rows\.jsonl:(41|61): ") as caught:
            told(path, tmp_path / str(processes), processes, strict=True)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:61: invalid JSON"):
        told(path, tmp_path / "cache", 2, strict=False)


@pytest.mark.parametrize("form", ["text", "conversation"])
def test_repeated_prompts_are_left_out_across_batches(tmp_path: Path, form: str) -> None:
    prompts = [row["prompt"] if form == "text" else [{"role": "user", "content": row["prompt"]}] for row in PAIRS]
    path = write(tmp_path / "rows.jsonl", [{"prompt": prompt} for prompt in (*prompts[:33], *prompts, prompts[59])])
    one, two = (told(path, tmp_path / str(n), n, strict=True, kind="prompts") for n in (1, 2))
    assert one == two
    assert one[0]["prompt"] == prompts
    assert json.loads(one[1])["left_out"] == {"with a repeated prompt": 34}


def test_digests_are_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "RECENT", 7)
    random, own, found = Random(0), set(), conversion.Digests()
    for number in (random.choice((random.randrange(50), 2**64 - random.randrange(1, 50))) for _ in range(500)):
        assert found.add(number) is (number not in own)
        own.add(number)
