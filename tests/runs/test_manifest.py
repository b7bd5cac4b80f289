import json
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.modeling.loading import chat_template
from rlhf.runs.manifest import read_manifest
from rlhf.storage.digests import tokenizer_record
from rlhf.storage.json_files import write_json


def test_an_unreadable_manifest_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="is not a run's manifest"):
        read_manifest(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}


def test_a_tokenizer_is_known_by_vocabulary_template_and_special_tokens() -> None:
    tokenizer = new_tokenizer(["Lima is in Peru."] * 3, 300, chat_template("almanac"))
    first = tokenizer_record(tokenizer)
    assert (first["pad"], first["eos"]) == (0, 1)
    assert tokenizer_record(new_tokenizer(["Lima is in Peru."] * 3, 300, chat_template("almanac"))) == first
    tokenizer.chat_template += " "
    changed = tokenizer_record(tokenizer)
    assert {key for key in first if first[key] != changed[key]} == {"chat_template"}
