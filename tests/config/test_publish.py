"""The settings of stage=publish."""

import pytest

from rlhf.config import Input
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage=publish", "stage.repo=a/b/c"],
            "stage.repo must be the name of a repository, such as me/almanac-ppo, got .a/b/c.",
        ),
        (
            ["stage=publish", "stage.dry_run=false"],
            "stage.dry_run must be true if stage.repo is not set, got False",
        ),
        (["stage=publish", "stage.tag=two words"], "stage.tag must be a valid git ref name, got .two words."),
        (
            ["stage=publish", "stage.parent_commit=abc"],
            "stage.parent_commit must be a commit hash of 40 hexadecimal digits, got .abc.",
        ),
        (["stage=publish", "stage.max_shard_size=big"], "stage.max_shard_size must be like 5GB, got .big."),
        (["stage=publish", "stage.base=a b"], "stage.base must be a Hub id such as org/name, or none, got .a b."),
        (["stage=publish", "stage.attempts=0"], "stage.attempts must be positive, got 0"),
        (["stage=publish", "stage.wait=-1"], "stage.wait must not be negative, got -1"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_nothing_is_sent_if_no_repository_is_named() -> None:
    assert composed("stage=publish").stage.dry
    assert not composed("stage=publish", "stage.repo=me/it").stage.dry
    assert composed("stage=publish", "stage.repo=me/it", "stage.dry_run=true").stage.dry


def test_the_comparison_beside_the_run_is_used_if_it_exists() -> None:
    beside = composed("stage=publish", "stage.run=checkpoints/mine/ppo").stage.inputs()["compare"]
    assert beside == Input("checkpoints/mine/compare", ("compare",), required=False)
    assert composed("stage=publish", "stage.compare=there").stage.inputs()["compare"].required
