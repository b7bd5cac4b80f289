from pathlib import Path

import pytest

from rlhf.errors import HubError
from rlhf.publishing.scrub import Scrubber, secrets
from rlhf.storage.paths import bundled

CHECKPOINTS = "/data/me/ck"


@pytest.fixture
def scrubber() -> Scrubber:
    return Scrubber({CHECKPOINTS: "checkpoints"}, ("s3cr3t-value",), "bigbox")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"checkpoints={CHECKPOINTS}", "checkpoints=checkpoints"),
        (f"stage.policy={CHECKPOINTS}/a/sft seed=1", "stage.policy=checkpoints/a/sft seed=1"),
        (f"{CHECKPOINTS}2/x", "x"),
        ("/home/ann/models/gpt2", "gpt2"),
        ("~/models/gpt2", "gpt2"),
        ("../ann/gpt2", "gpt2"),
        ("/srv/w/preference_data/almanac/text", "preference_data/almanac/text"),
        ("a key s3cr3t-value here", "a key *** here"),
        ("hf_abcdefgh12345", "***"),
        ("ghp_0123456789abcdefghij0123", "***"),
        ("https://ann:pw@host/x/y", "https://***@host/x/y"),
        ("on bigbox, not bigboxes", "on ***, not bigboxes"),
        ("see https://arxiv.org/abs/2305.18290", "see https://arxiv.org/abs/2305.18290"),
        ("and/or, </s>, 3/4, n/a", "and/or, </s>, 3/4, n/a"),
        ("[`run.json`](run.json) (figures/reward_kl.png)", "[`run.json`](run.json) (figures/reward_kl.png)"),
    ],
)
def test_a_text(scrubber: Scrubber, text: str, left: str) -> None:
    assert scrubber.text(text) == left


def test_a_tree(scrubber: Scrubber) -> None:
    tree = {"api_key": "x", "a": [f"{CHECKPOINTS}/b", 1, None, True], "/home/ann/x": {"eos_token": "</s>"}}
    assert scrubber.tree(tree) == {"api_key": "***", "a": ["checkpoints/b", 1, None, True], "x": {"eos_token": "</s>"}}


def test_the_bundled_data_have_one_name_everywhere() -> None:
    assert Scrubber.of([], {}).text(f"{bundled('preference_data')}/almanac") == "preference_data/almanac"


def test_secrets_are_recognized_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_thelogin123")
    environment = {
        "OPENAI_API_KEY": "sk-12345678",
        "DB_PASSWORD": "correct horse battery",
        "SSH_AUTH_SOCK": "/tmp/agent.1234",
        "TOKENIZERS_PARALLELISM": "false",
        "MY_TOKEN": "disabled",
        "HOME": "/root",
    }
    assert set(secrets(environment)) == {"sk-12345678", "correct horse battery", "hf_thelogin123"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer.json", "x s3cr3t-value x", "a secret of the environment"),
        ("model.safetensors", "s3cr3t-value", "a secret of the environment"),
        ("README.md", "hf&#95;abcdefgh12345", "a token"),
        ("run.json", '{"a": "/home/ann/x"}', "a path of this machine"),
        ("settings.yaml", "key: -----BEGIN RSA PRIVATE KEY-----", "a private key"),
    ],
)
def test_the_check_finds_leaks(scrubber: Scrubber, tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(HubError, match=f"{name} contains {told}; nothing is sent: remove it from the run"):
        scrubber.check(tmp_path)


def test_a_secret_across_two_blocks_is_found(
    scrubber: Scrubber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.publishing.scrub.BLOCK", 16)
    (tmp_path / "model.safetensors").write_bytes(b"0123456789s3cr3t-value")
    with pytest.raises(HubError, match="a secret of the environment"):
        scrubber.check(tmp_path)


def test_a_vocabulary_may_hold_what_looks_like_a_path(scrubber: Scrubber, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"/home/user": 1, "hf_abcdefgh12345": 2}')
    scrubber.check(tmp_path)
