import json
from enum import Enum
from pathlib import Path

import pytest

from rlhf.storage.json_files import write_json


def test_json_is_written_atomically(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_enumerations_and_paths_are_written_as_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"kind": Enum("Kind", {"lora": "lora"}).lora, "place": Path("a/b"), "ü": 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"kind": "lora", "place": "a/b", "ü": 1}
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")
