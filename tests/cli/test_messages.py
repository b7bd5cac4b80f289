from rlhf.cli.messages import explain
from rlhf.errors import ConfigError


def test_an_error_of_ours_is_its_message() -> None:
    assert explain(ConfigError("plain")) == "plain"
