"""Completion without Hydra: its words are those of Hydra, except for types, lists and files of other kinds."""

from dataclasses import fields

import hydra
import pytest
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.core.global_hydra import GlobalHydra

from rlhf import config
from rlhf.cli import main
from rlhf.cli.completion import TYPED, below, keys, offers
from rlhf.config import STAGES, Settings
from rlhf.storage.paths import bundled

SAME = (
    "rlhf stage=",
    "rlhf stage=dp",
    "rlhf experiment=none model=smol",
    "rlhf stage=dpo stage.be",
    "rlhf stage=dpo stage.trainer.",
    "rlhf stage=ppo stage.kl",
    "rlhf stage=ppo data.preferences.",
    "rlhf stage=sft hardware=cpu see",
    "rlhf stage.",
    "rlhf -m stage=dpo eval_set.",
    "rlhf mo",
    "rlhf chec",
    "rlhf stage=nothing",
    "rlhf nothing",
)


def hydras(line: str) -> list[str]:
    main.register()
    with hydra.initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return BashCompletion(loader)._query("config", line.partition(" ")[2])


@pytest.mark.parametrize("line", SAME)
def test_the_words_are_those_of_hydra(line: str) -> None:
    assert offers(line) == hydras(line)


def test_an_empty_word_offers_what_hydra_offers_but_types_and_places_in_a_list() -> None:
    found, theirs = offers("rlhf stage=dpo "), hydras("rlhf stage=dpo ")
    assert found is not None
    assert set(theirs) - set(found) == {"schema", "chat_template", "curves."}
    assert set(found) - set(theirs) == {"curves="}


@pytest.mark.parametrize(
    "line",
    [
        "rlhf hydra.", "rlhf hydra/la", "rlhf stage=dpo stage.beta=", "rlhf stage=dpo +stage.tr", "rlhf ~mo",
        "rlhf --config-dir mine stage=", "rlhf data.path=./", "python -m rlhf stage=", "rlhf seed=", "rlhf --c",
    ],
)  # fmt: skip
def test_the_rest_is_left_to_hydra(line: str) -> None:
    assert offers(line) is None


def test_every_setting_can_be_completed() -> None:
    for stage, kind in STAGES.items():
        found = set(keys(bundled("conf"), stage))
        assert found >= {f"stage.{field.name}" for field in fields(kind)}
        for group in TYPED:
            assert found >= {f"{group}.{field.name}" for field in fields(getattr(config, group.capitalize()))}
        assert found >= {field.name for field in fields(Settings)} - {*TYPED, "stage"}


def test_a_setting_that_holds_settings_ends_with_a_dot() -> None:
    known = ["a", "a.b", "a.b.c", "a.d", "e"]
    assert set(below("", known)) == {"a.", "e="}
    assert set(below("a.", known)) == {"a.b.", "a.d="}
    assert set(below("a.b.c", known)) == {"a.b.c="}
