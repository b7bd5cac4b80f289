"""Results that are measured in parts."""

import json
from pathlib import Path

import pytest

from benchmarks import stored


def test_new_rows_take_the_place_of_stored_ones_with_the_same_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    monkeypatch.setattr("sys.argv", ["x", "--options", "the default"])
    stored.add(path, [{"seed": 1, "option": "b", "x": 1}, {"seed": 0, "option": "b", "x": 2}], ("seed", "option"), "y")
    found = stored.add(path, [{"seed": 1, "option": "b", "x": 3}, {"seed": 0, "option": "a", "x": 4}],
                       ("seed", "option"), "z")  # fmt: skip
    assert [row["x"] for row in found] == [4, 2, 3]
    read = json.loads(path.read_text())
    assert read["rows"] == found
    assert [one["command"] for one in read["commands"]] == [
        f"python -m {name} --options 'the default'" for name in "yz"
    ]
