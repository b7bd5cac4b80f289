from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import Settings
from rlhf.runs.identity import content, difference, flatten
from rlhf.runs.parents import find_parents
from tests.conftest import composed


def test_flatten_by_hand() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text("abc", min_size=1), trees), st.dictionaries(st.text("abc", min_size=1), trees))
def test_two_trees_differ_just_where_their_flat_forms_do(one: dict, two: dict) -> None:
    assert (difference(flatten(one), flatten(two)) is None) == (flatten(one) == flatten(two))


def test_directory_and_tracker_of_a_run_do_not_count(settings: Callable[..., Settings]) -> None:
    plain = content(settings("base"), {})
    assert (
        difference(plain, content(settings("base", "name=other", "tracker=tensorboard", "overwrite=true"), {})) is None
    )


def test_what_counts_is_named(settings: Callable[..., Settings]) -> None:
    plain = content(settings("base"), {})
    assert difference(plain, content(settings("base", "seed=7"), {})) == "seed was 0, now 7"
    assert "stage.block_length was" in difference(plain, content(settings("base", "stage.block_length=16"), {}))


def test_a_changed_file_is_noticed(settings: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "one"}\n')
    before = content(settings("base", f"data.text.path={file}"), {})
    file.write_text('{"text": "two"}\n')
    after = content(settings("base", f"data.text.path={file}"), {})
    assert difference(before, after) == "the data behind text has changed"


def test_a_parent_counts_by_its_weights(beside_chain: Callable[..., Settings]) -> None:
    settings = beside_chain("dpo")
    before = content(settings, find_parents(settings))
    assert before["parents.policy"]
    after = before | {"parents.policy": "0" * 64}
    assert difference(before, after) == "its parent policy has changed"


def test_two_runs_that_differ_in_a_secret_are_the_same_run(settings: Callable[..., Settings]) -> None:
    one, two = (
        content(settings("base", f"+stage.trainer.run_name={token}"), {})
        for token in ("hf_abcdefghijkl", "hf_mnopqrstuvwx")
    )
    assert difference(one, two) is None
    assert one["stage.trainer.run_name"] == "***"


def test_a_run_that_was_stopped_can_continue_with_only_warnings(beside_chain: Callable[..., Settings]) -> None:
    """Stopped or warned, an update computes the same; a rollback changes what follows."""

    def of(action: str) -> dict:
        settings = beside_chain("ppo", f"stage.sentinel.action={action}")
        return content(settings, find_parents(settings))

    assert difference(of("stop"), of("warn")) is None
    assert difference(of("warn"), of("rollback")) == "stage.sentinel.action was 'warn', now 'rollback'"


@pytest.mark.parametrize("stage", ["ppo", "online_dpo", "raft", "sample", "compare"])
def test_the_number_of_samples_counts(stage: str) -> None:
    contents = [content(composed(f"stage={stage}", f"stage.samples={count}"), {}) for count in (2, 3)]
    assert difference(*contents) == "stage.samples was 2, now 3"
