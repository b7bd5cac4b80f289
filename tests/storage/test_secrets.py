"""Secrets are neither written nor printed, whatever setting they are in."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rlhf.cli import main as cli
from rlhf.config import Settings
from rlhf.runs.identity import Origin, content
from rlhf.runs.run import Run
from rlhf.storage import secrets
from rlhf.storage.paths import PACKAGE
from tests.conftest import composed


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"hub_token": "abc"}, {"hub_token": "***"}),
        ({"hub_token": 1234}, {"hub_token": "***"}),
        ({"a": {"api_key": "abc", "b": 1}}, {"a": {"api_key": "***", "b": 1}}),
        (["tracker.password=abc", "seed=1"], ["tracker.password=***", "seed=1"]),
        ("use hf_abcdefghijklmnop here", "use *** here"),
        ("my_hf_abcdefghijklmnop", "my_***"),
        ("https://me:secret@host/x", "https://***@host/x"),
        ("http://SECRET@h/v1", "http://***@h/v1"),
        ("judge.url='http://h/v1?token=Q&x=1'", "judge.url='http://h/v1?***'"),
        ("mend http://h/v1?token=Q): and go on", "mend http://h/v1?*** and go on"),
        ("http://h:8000/v1/a#b", "http://h:8000/v1/a#b"),
        ({"https://u:p@h/x": 2.0}, {"https://***@h/x": 2.0}),
        ({"eos_token": "<|end|>", "mask_token": "[M]"}, {"eos_token": "<|end|>", "mask_token": "[M]"}),
        (["+stage.trainer.pad_token=<|pad|>", "+x.token=a b"], ["+stage.trainer.pad_token=<|pad|>", "+x.token=***"]),
        ("+stage.trainer={hub_token:T, lr: 1}", "+stage.trainer={hub_token:***, lr: 1}"),
        (
            "stage.overrides={dpo: ['+stage.trainer.hub_token=T', \"password='a b'\"]}",
            "stage.overrides={dpo: ['+stage.trainer.hub_token=***', \"password=***\"]}",
        ),
        ("{'hub_token': 'a\\'b', \"api_key\": \"c\"}", "{'hub_token': ***, \"api_key\": ***}"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: ***"),
        (r"data.x=Bearer\ abcdefgh", "data.x=***"),
        (r"judge.url=http\://me\:pw@h/v1", r"judge.url=http\://***@h/v1"),
        (repr([r"judge.url=http\://pw@h"]), repr([r"judge.url=http\://***@h"])),
        (r"data.x=hub_token\=T", r"data.x=hub_token\=***"),
        (
            {"stage.trainer.hub_token": "abc", "videos_token": "x"},
            {"stage.trainer.hub_token": "***", "videos_token": "***"},
        ),
        (
            {"max_tokens": 5, "eos_token_id": 2, "tokenizer": "x", "entropy_a_token": 0.5},
            {"max_tokens": 5, "eos_token_id": 2, "tokenizer": "x", "entropy_a_token": 0.5},
        ),
    ],
)
def test_only_secrets_are_hidden(value: object, shown: object) -> None:
    assert secrets.redact(value) == shown
    assert secrets.redact(shown) == shown


def test_messages_of_this_package_lose_no_word() -> None:
    """A word before a colon, as in "no token: set one", would be taken for the name of a secret."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            said = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)
            if node not in documented and " " in said and secrets.text(said) != said:
                found.append(f"{path}:{node.lineno}: {said}")
    assert not found


SECRET = "Zq7SecretWord9"
FORMS = (  # forms of a secret in a value
    f"hf_{SECRET}", f"sk-{SECRET}", f"http://me:{SECRET}@127.0.0.1:9/v1", f"http://{SECRET}@h/v1", f"http://h/v1?key={SECRET}",
    f"http://h/v1?a=1&sig={SECRET}", f"hub_token={SECRET}", f"{{hub_token: {SECRET}}}", f"Bearer {SECRET}",
)  # fmt: skip
# Settings that name places on this machine, which are in the file system anyway.
PLACES = ("name", "checkpoints", "data.cache", "judge.cache")


def texts(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting that holds text."""
    for field in fields(node):
        value, key = getattr(node, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from texts(value, f"{key}.")
        elif (field.type is str or "str | None" in str(field.type)) and key not in PLACES:
            yield key


def planted(node: Any, value: str, prefix: str = "") -> Any:
    """Return settings with ``value`` in every text, without checking rules: only their output is tested."""
    changed = {}
    for field in fields(node):
        now, key = getattr(node, field.name), f"{prefix}{field.name}"
        if is_dataclass(now):
            changed[field.name] = planted(now, value, f"{key}.")
        elif field.type is str and key not in (*PLACES, "stage.name", "hardware.device"):
            changed[field.name] = value
        elif field.name in ("trainer", "rewards", "overrides"):
            changed[field.name] = (now or {}) | {"hub_token": SECRET, "deep": [{"remote": {"url": value}}, value]}
    with mock.patch.object(type(node), "__post_init__", return_value=None, create=True):
        return replace(node, **changed)


@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo", "publish", "inspect"])
@pytest.mark.parametrize("form", FORMS)
def test_a_run_records_no_secret(stage: str, form: str, tmp_path: Path) -> None:
    made: Settings = planted(composed(f"stage={stage}", f"checkpoints={tmp_path}"), form)
    overrides = [f"judge.url='{form}'", f"stage.overrides={{dpo: ['+stage.trainer.hub_token={SECRET}', '{form}']}}"]
    run = Run.start(tmp_path / "run", made, overrides, Origin({}, {}))
    run.manifest["reason"] = f"RuntimeError: {form}"  # as ``stop`` does
    run.write()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET in path.read_text(encoding="utf-8")]
    run.stop("failed", "closes the files")
    if stage == "sft":
        assert SECRET not in str(content(made, {}))


KEYS = {stage: sorted(texts(composed(f"stage={stage}"))) for stage in ("sft", "reward", "sample")}
DRAWN = st.sampled_from([(stage, key) for stage, keys in KEYS.items() for key in keys])


@settings(
    max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=DRAWN, form=st.sampled_from(FORMS), swept=st.booleans())
def test_the_command_line_prints_and_writes_no_secret(
    place: tuple[str, str], form: str, swept: bool, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Run a command that fails because its parent is missing, and a sweep of such commands."""
    stage, key = place
    words = [f"stage={stage}", f"checkpoints={tmp_path}", "hardware=cpu", f"{key}={form}"]
    words += [f"+stage.trainer.hub_token={SECRET}"] if stage != "sample" else []
    words += ["-m", "seed=1,2"] if swept else []
    with mock.patch.object(sys, "argv", ["rlhf", *words]), pytest.raises((SystemExit, Exception)):
        cli.main()
    told = capfd.readouterr()
    assert SECRET not in told.out + told.err
    assert told.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET in path.read_text(encoding="utf-8") or SECRET in str(path)]


@pytest.mark.parametrize("shown", [["--cfg", "job"], ["--cfg=all"]])
def test_printed_settings_have_no_secret(shown: list[str], capsys: pytest.CaptureFixture) -> None:
    with mock.patch.object(sys, "argv", ["rlhf", "stage=dpo", f"+stage.trainer.hub_token={SECRET}", *shown]):
        cli.main()
    told = capsys.readouterr().out
    assert "beta" in told
    assert SECRET not in told


def test_a_traceback_has_no_secret(capsys: pytest.CaptureFixture) -> None:
    try:
        raise RuntimeError(f"http://u:{SECRET}@h/v1")
    except RuntimeError as error:
        cli._traceback_without_secrets(type(error), error, error.__traceback__)
    told = capsys.readouterr().err
    assert "RuntimeError: http://***@h/v1" in told
    assert "Traceback" in told
