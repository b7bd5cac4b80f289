import pytest

from rlhf.publishing.licenses import conflicts, kind, listed, strictest
from tests.conftest import composed


@pytest.mark.parametrize(
    ("license", "what"),
    [
        ("apache-2.0", "permissive"),
        ("MIT", "permissive"),
        ("cc-by-sa-4.0", "share-alike"),
        ("gpl-3.0", "share-alike"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("cc-by-nc-nd-4.0", "no derivatives"),
        ("llama3.2", "own terms"),
        ("other", "own terms"),
        ("unknown", "unknown"),
    ],
)
def test_kinds(license: str, what: str) -> None:
    assert kind(license) == what


def test_a_license_is_found_by_any_part_of_a_path() -> None:
    table = composed("stage=publish").stage.licenses
    assert listed("preference_data/almanac/text", table) == "apache-2.0"
    assert listed("meta-llama/Llama-3.2-1B", table) == "llama3.2"
    assert listed("/models/stories15M", table) == "mit"
    assert listed("somebody/else", table) == "unknown"


def test_the_strictest_binds() -> None:
    assert strictest({"a": "mit", "b": "apache-2.0"}) == "mit"
    assert strictest({"a": "mit", "b": "cc-by-nc-4.0", "c": "cc-by-sa-4.0"}) == "cc-by-nc-4.0"
    assert strictest({}) == "apache-2.0"


def test_conflicts_are_named() -> None:
    found = {
        "model": "apache-2.0",
        "pairs": "cc-by-nc-4.0",
        "text": "cc-by-sa-3.0",
        "set": "unknown",
        "x": "cc-by-nd-4.0",
    }
    told = conflicts("apache-2.0", found)
    assert told[0] == "pairs (cc-by-nc-4.0) forbids commercial use; this model is published as apache-2.0."
    assert [line.split()[0] for line in told] == ["pairs", "text", "set", "x"]
    assert conflicts("cc-by-nc-4.0", {"a": "cc-by-nc-4.0", "b": "mit"}) == []
    assert len(conflicts("cc-by-nc-4.0", {"a": "cc-by-nc-4.0", "b": "cc-by-sa-4.0"})) == 1
