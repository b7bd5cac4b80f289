import hashlib
from pathlib import Path

import pytest

from rlhf.storage import digests


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"hub_token": "abc"}, {"hub_token": "***"}),
        ({"a": {"api_key": "abc", "b": 1}}, {"a": {"api_key": "***", "b": 1}}),
        (["tracker.password=abc", "seed=1"], ["tracker.password=***", "seed=1"]),
        ("use hf_abcdefghijklmnop here", "use *** here"),
        ("https://me:secret@host/x", "https://***@host/x"),
        ({"eos_token": "<|end|>", "mask_token": "[M]"}, {"eos_token": "<|end|>", "mask_token": "[M]"}),
        (["+stage.trainer.pad_token=<|pad|>", "+x.token=a"], ["+stage.trainer.pad_token=<|pad|>", "+x.token=***"]),
        (
            {"stage.trainer.hub_token": "abc", "videos_token": "x"},
            {"stage.trainer.hub_token": "***", "videos_token": "***"},
        ),
        (
            {"max_tokens": 5, "eos_token_id": 2, "tokenizer": "x"},
            {"max_tokens": 5, "eos_token_id": 2, "tokenizer": "x"},
        ),
    ],
)
def test_secrets_are_hidden_and_other_things_are_not(value: object, shown: object) -> None:
    assert digests.redact(value) == shown


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
