import pytest

from rlhf.config.library_errors import blame, first_sentence
from rlhf.config.ranges import require_warmup
from rlhf.data import fingerprint
from rlhf.errors import ConfigError, DataError


def library(error: Exception) -> None:
    """Raise ``error`` as a library would: this file is outside the package."""
    raise error


@pytest.mark.parametrize("error", [ValueError("No. Never."), TypeError("No"), ImportError("No."), OSError("Yes")])
def test_a_value_that_a_library_refuses_is_reported_with_its_key(error: Exception) -> None:
    if isinstance(error, OSError):
        with pytest.raises(OSError, match="Yes"), blame("a.b=1"):
            library(error)
        return
    with pytest.raises(ConfigError) as told, blame("a.b=1"):
        library(error)
    assert str(told.value) == "a.b=1 cannot be used (No): correct it or leave it out"
    assert told.value.__cause__ is error


def test_an_error_around_a_refusal_is_reported_by_the_refusal() -> None:
    """As of huggingface_hub's strict dataclasses, whose own text is a heading."""
    wrapped = Exception("Validation error:")
    wrapped.__cause__ = ValueError("17 is odd")
    with pytest.raises(ConfigError, match=r"a.b cannot be used \(17 is odd\)"), blame("a.b"):
        library(wrapped)


def test_a_defect_of_ours_and_an_error_of_ours_stay_what_they_are() -> None:
    with pytest.raises(TypeError), blame("a.b"):
        fingerprint(None)
    with pytest.raises(TypeError), blame("a.b"):
        require_warmup("one", 3)  # compared in our own line
    with pytest.raises(DataError), blame("a.b"):
        library(DataError("row 1"))


def test_an_error_after_construction_is_not_blamed_on_settings() -> None:
    with pytest.raises(ValueError, match="late"), blame("a.b", until=lambda: True):
        library(ValueError("late"))


def test_first_sentences_by_hand() -> None:
    assert first_sentence(ValueError("Not found: a.b.\nTry again.")) == "Not found: a.b"
    assert first_sentence(KeyError("nope")) == "unknown key 'nope'"
    assert first_sentence(ValueError()) == "ValueError"
    assert len(first_sentence(ValueError("x " * 999))) <= 400
