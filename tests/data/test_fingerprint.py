import subprocess
import sys

from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import fingerprint
from rlhf.data.fingerprint import READ_AT_ONCE

ROWS = [{"prompt": "Q", "chosen": [{"role": "user", "content": "é"}], "margin": 0.1}, {"prompt": "R"}]


def test_by_hand() -> None:
    # printf '{"a":"\xc3\xa9"}\n' | sha256sum
    assert fingerprint([{"a": "é"}]) == "5e0f7e82a2607a29d2c0362817309ea079b9d0e4766cc16899772a4e8d230848"


def test_a_fingerprint_depends_only_on_the_rows() -> None:
    rows = [{"b": 1, "a": "x"}, {"b": 2, "a": "y"}]
    assert fingerprint(rows) == fingerprint([{"a": "x", "b": 1}, {"a": "y", "b": 2}])
    for many in (rows, rows * READ_AT_ONCE):
        assert fingerprint(Dataset.from_list(many)) == fingerprint(many)


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    code = f"from rlhf.data.fingerprint import fingerprint; print(fingerprint({ROWS!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == fingerprint(ROWS)


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.text(max_size=3)), max_size=4), st.data())
def test_order_and_content_count(rows: list[dict], data: st.DataObject) -> None:
    other = data.draw(st.permutations(rows))
    assert (fingerprint(other) == fingerprint(rows)) == (list(other) == rows)
