"""Names of a sweep's jobs."""

import re
from types import SimpleNamespace

import hydra
import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, _utils

from rlhf.cli import compose
from rlhf.cli.overrides import parsed
from rlhf.config import STAGES
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


def test_yaml_is_parsed_in_c_with_the_values_and_errors_of_omegaconf() -> None:
    compose.register()
    compose.register()  # as the tests of a whole process do
    fast = _utils.get_yaml_loader()
    assert fast.__mro__[1] is yaml.CSafeLoader
    [plain] = set(fast.__bases__) - {yaml.CSafeLoader}
    texts = [path.read_text(encoding="utf-8") for path in bundled("conf").rglob("*.yaml")]
    assert len(texts) > 100
    texts += ["a: 1e-3\nb: [.5, 1_000, 2026-01-02, 012, yes, on, ~, '1', !!str 3]\nc: |\n  x\n  y\n"]
    for text in texts:
        assert repr(yaml.load(text, fast)) == repr(yaml.load(text, plain)), text
    for wrong in ("a: 1\na: 2\n", "a: [1\n", "a: !!python/object:os.system {}\n"):
        with pytest.raises(yaml.YAMLError):
            yaml.load(wrong, fast)
    with pytest.raises(yaml.constructor.ConstructorError, match="found duplicate key a"):
        OmegaConf.create("a: 1\na: 2\n")


def test_a_command_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose.register()
    made, library = [], hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda **given: made.append(given["overrides"]) or library(**given))
    with hydra.initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        first = compose.composed(["stage=dpo", "seed=3", "--config-dir=x"])
        assert compose.composed(["stage=dpo", "seed=3"]) == first
        assert compose.composed(["stage=dpo", "seed=3"]) is not first
        assert made == [["stage=dpo", "seed=3"]]
        assert compose.composed(["stage=dpo", "seed=4"]).seed == 4
        compose.register()  # another command may have other files
        assert compose.composed(["stage=dpo", "seed=3"]) == first
    assert len(made) == 3


def test_only_types_that_a_command_reads_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    compose.register()
    made = []
    structured = OmegaConf.structured
    monkeypatch.setattr(OmegaConf, "structured", lambda kind: made.append(kind) or structured(kind))
    node = ConfigStore.instance().load("schema/stage/dpo.yaml").node
    assert OmegaConf.get_type(node) is STAGES["dpo"]
    assert made == [STAGES["dpo"]]
    node.beta = 3.0
    assert ConfigStore.instance().load("schema/stage/dpo.yaml").node != node  # each caller has a copy
