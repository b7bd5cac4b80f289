import hashlib
from pathlib import Path

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


def test_facts_about_the_machine() -> None:
    assert digests.versions()["python"].startswith("3.")
    assert digests.hardware()["cores"] >= 1
    assert 0.01 < digests.peak_memory_gib() < 1000
