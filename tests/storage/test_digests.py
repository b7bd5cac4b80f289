import hashlib
import os
from pathlib import Path

import pytest

from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.storage import digests


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digests.file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_digest_of_files_depends_on_names_and_contents_and_not_on_order(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"x")
    two.write_bytes(b"y")
    digest = digests.files_digest([one, two])
    assert digest == digests.files_digest([two, one])
    two.write_bytes(b"z")
    assert digest != digests.files_digest([one, two])
    three = one.rename(tmp_path / "3")
    two.write_bytes(b"y")
    assert digest != digests.files_digest([three, two])


def test_a_folder_without_weights_has_no_digest(tmp_path: Path) -> None:
    assert digests.weights_digest(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert digests.weights_digest(tmp_path) is not None


def test_a_file_is_read_again_only_if_it_has_changed_or_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read, original = tmp_path / "a", [], digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda file: read.append(file) or original(file))
    path.write_bytes(b"x")
    assert digests.once(path) == digests.once(path) == original(path)
    assert len(read) == 2  # a change within the resolution of the clock would be missed
    old = path.stat().st_mtime_ns - 2 * digests.SETTLED
    os.utime(path, ns=(old, old))
    assert digests.once(path) == original(path)
    assert len(read) == 3
    path.write_bytes(b"y")
    os.utime(path, ns=(old + 1, old + 1))
    assert digests.once(path) == original(path) != hashlib.sha256(b"x").hexdigest()
    assert len(read) == 4


def test_a_vocabulary_is_digested_again_only_if_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, original = [], digests.text_digest
    monkeypatch.setattr(digests, "text_digest", lambda text: texts.append(text) or original(text))
    tokenizer = new_tokenizer(["Lima is in Peru."] * 3, 300, "{{ messages }}")
    first = digests.tokenizer_record(tokenizer)
    assert digests.tokenizer_record(tokenizer) == first
    tokenizer.chat_template += " "
    assert digests.tokenizer_record(tokenizer)["vocabulary"] == first["vocabulary"]
    vocabularies = [text for text in texts if text.startswith("[[")]
    assert len(vocabularies) == 1
    tokenizer.add_tokens(["Peru"])
    added = digests.tokenizer_record(tokenizer)
    tokenizer._tokenizer = new_tokenizer(["Oslo is in Norway."] * 3, 300, "").backend_tokenizer
    assert len({first["vocabulary"], added["vocabulary"], digests.tokenizer_record(tokenizer)["vocabulary"]}) == 3


def test_facts_about_the_machine() -> None:
    assert digests.versions()["python"].startswith("3.")
    assert digests.hardware()["cores"] >= 1
    assert 0.01 < digests.peak_memory_gib() < 1000
