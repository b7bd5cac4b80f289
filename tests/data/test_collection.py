"""Real data as its publishers release it, from the folder in RLHF_TEST_DATA: pytest -m slow tests/data."""

import os
from pathlib import Path

import pytest

from rlhf.data import leaks
from rlhf.data.overview import tables
from rlhf.errors import DataError
from tests.conftest import composed
from tests.data.test_load import read, source

# The kind of each file of the collection, by its name.
KINDS = {
    "preference": "preferences",
    "sft": "demonstrations",
    "prompts": "prompts",
    "text": "text",
    "sentiment": "text",
}
KINDS |= {"raw_forms/alpaca": "demonstrations", "raw_forms/dpo": "preferences", "raw_forms/oasst": "preferences"}
KINDS |= {"raw_forms/kto": "demonstrations"}  # none of its prompts has both a good and a bad answer


def kind_of(file: Path) -> str:
    name = f"{file.parent.name}/{file.name}"
    return KINDS[max((key for key in KINDS if name.startswith(key)), key=len)]


@pytest.mark.slow
def test_every_file_of_the_real_collection_loads_by_its_name() -> None:
    root = os.environ.get("RLHF_TEST_DATA")
    if root is None:
        pytest.skip("RLHF_TEST_DATA names no folder of real data")
    files = sorted(Path(root).glob("*/*.gz"))
    assert files
    for file in files:
        [(kind, path, _)] = tables(composed("stage=inspect", f"data.path='{file}'").data)
        assert (kind, path) == (kind_of(file), str(file))
        train, validation = (read(source(file, drop_identical=True), kind, split) for split in ("train", "validation"))
        assert len(train) > len(validation) >= 1, file
        assert leaks(train, validation).count == 0, file


@pytest.mark.slow
def test_thumbs_without_a_counterpart_are_counted() -> None:
    root = os.environ.get("RLHF_TEST_DATA")
    if root is None:
        pytest.skip("RLHF_TEST_DATA names no folder of real data")
    with pytest.raises(
        DataError, match="no row of preferences; left out 240 completions without a counterpart: stage=kto"
    ):
        read(Path(root) / "raw_forms" / "kto_en_demo.json.gz", "preferences")
