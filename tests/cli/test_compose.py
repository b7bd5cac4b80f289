"""Names of a sweep's jobs."""

import pytest

from rlhf.cli import compose
from rlhf.cli.overrides import parsed
from rlhf.storage.digests import text_digest


def test_the_directory_of_a_job_names_the_swept_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "-m",
        "stage=sft,dpo",
        "stage.beta=0.1,0.3",
        "model.path=a/b,c/d",
        "adapter=lora",
        "stage.loss=[sigmoid,ipo]",
    ]
    swept = compose.swept_keys(arguments)
    assert swept == ["stage.beta", "model.path"]
    monkeypatch.setenv(compose.SWEPT, ",".join(swept))
    assert (
        compose.member(["stage=dpo", "stage.beta=0.1", "model.path=a/b", "adapter=lora"])
        == "stage.beta-0.1_model.path-a-b"
    )
    for value, named in {
        "[ipo]": "ipo",
        "[sigmoid,ipo]": "sigmoid+ipo",
        "'1.10'": "1.10",
        "checkpoints/a": "checkpoints-a",
        "my file": "my-file-",
        "{a: 1}": "a-1-",
    }.items():
        monkeypatch.setenv(compose.SWEPT, "stage.loss")
        name = compose.member([f"stage.loss={value}"])
        assert name.startswith(f"stage.loss-{named}")
        assert parsed(f"stage.policy=dpo/{name}").value() == f"dpo/{name}"
        assert (name != f"stage.loss-{named}") is named.endswith("-")
    assert compose.member(["stage.loss=hf_abcdefghij"]) == f"stage.loss-{text_digest('hf_abcdefghij')[:8]}"
    monkeypatch.setenv(compose.SWEPT, "x")
    long = compose.member(["x=" + "y" * 300])
    assert len(long) == compose.LONGEST_NAME
    assert long != compose.member(["x=" + "y" * 299 + "z"])
