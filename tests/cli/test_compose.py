"""Names of a sweep's jobs."""

import re
from types import SimpleNamespace

import pytest
from hydra._internal.hydra import Hydra

from rlhf.cli import compose
from rlhf.cli.overrides import parsed
from rlhf.storage.digests import text_digest
from rlhf.storage.paths import bundled


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


@pytest.mark.parametrize(
    ("options", "overrides", "once"),
    [
        (["-m"], ["stage=dpo", "stage.beta=0.1,0.3"], True),
        (["--config-dir=mine"], ["stage=dpo"], False),
        (["-cd", "mine"], ["stage=dpo"], False),
        ([], ["hydra.mode=MULTIRUN"], False),
        ([], ["+hydra/callbacks=mine"], False),
    ],
)
def test_the_settings_are_composed_once_unless_the_mode_may_be_set(
    monkeypatch: pytest.MonkeyPatch, options: list[str], overrides: list[str], once: bool
) -> None:
    composed = SimpleNamespace(hydra=SimpleNamespace(mode="composed"))
    monkeypatch.setattr(Hydra, "compose_config", lambda *_, **__: composed)
    monkeypatch.setattr(Hydra, "__init__", lambda _: None)
    hydra = Hydra()
    with compose.composed_once(options, overrides):
        assert hydra.get_mode("config", overrides) == (None if once else "composed")
    assert hydra.get_mode("config", overrides) == "composed"


def test_no_file_of_conf_sets_the_mode() -> None:
    """Else Hydra would have to compose the settings to read it."""
    texts = [path.read_text(encoding="utf-8") for path in bundled("conf").rglob("*.yaml")]
    assert texts
    assert not [text for text in texts if re.search(r"^\s+mode: *(RUN|MULTIRUN)|hydra\.mode", text, re.MULTILINE)]
