"""Real data as its publishers release it, from the folder in RLHF_TEST_DATA: pytest -m slow tests/data."""

import os
from pathlib import Path

import pytest

from rlhf.data import leaks
from rlhf.errors import DataError
from tests.data.test_load import read

# What each file of the collection is read as; the kind is all that has to be said about it.
REAL = {"preference": "preferences", "sft": "demonstrations", "prompts": "prompts", "text": "text", "sentiment": "text"}
REAL |= {"raw_forms/alpaca": "demonstrations", "raw_forms/dpo": "preferences"}
REAL |= dict.fromkeys(("preference/bon", "preference/kto", "raw_forms/kto"), "prompts")  # rankings and thumbs
UNREADABLE = "oasst_en100_trees"  # message trees


def kind_of(file: Path) -> str:
    name = f"{file.parent.name}/{file.name}"
    return REAL[max((key for key in REAL if name.startswith(key)), key=len)]


@pytest.mark.slow
def test_every_file_of_the_real_collection_loads_by_name_alone() -> None:
    root = os.environ.get("RLHF_TEST_DATA")
    if root is None:
        pytest.skip("RLHF_TEST_DATA names no folder of real data")
    files = sorted(Path(root).glob("*/*.gz"))
    assert files
    for file in files:
        if file.name.startswith(UNREADABLE):
            with pytest.raises(DataError, match=":1: field 'prompt' must be text, got dict"):
                read(file, "prompts")
            continue
        train, validation = read(file, kind_of(file)), read(file, kind_of(file), "validation")
        assert len(train) > len(validation) >= 1, file
        assert leaks(train, validation).count == 0, file
