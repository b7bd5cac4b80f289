from rlhf.cli.messages import closest, explain
from rlhf.errors import ConfigError


def test_an_error_of_ours_is_its_message() -> None:
    assert explain(ConfigError("plain")) == "plain"


def test_a_setting_of_another_place_comes_after_a_near_name_and_before_a_far_one() -> None:
    assert closest("bta", ["beta"], "stage", ["model.bta"]) == "; did you mean stage.beta?"
    assert closest("epochs", ["policy"], "stage", ["stage.trainer.epochs"]) == "; did you mean stage.trainer.epochs?"
    assert closest("xyz", ["beta"], "stage") == "; known are beta"
    assert closest("xyz", ["beta"]) == ""
