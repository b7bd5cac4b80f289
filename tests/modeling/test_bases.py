"""The model below an adapter; tests/modeling/test_foreign.py has adapters of other people."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Input, Settings
from rlhf.errors import LineageError
from rlhf.modeling import bases, loading
from rlhf.runs.parents import find_parent
from rlhf.stages import execute


def test_an_adapter_whose_base_has_changed_is_refused(
    beside_chain: Callable[..., Settings], chain: Path, tmp_path: Path
) -> None:
    settings = beside_chain("sft", "adapter=lora")
    execute(settings, tmp_path / "sft")
    path = tmp_path / "sft" / "run.json"
    manifest = json.loads(path.read_text())
    manifest["parents"]["policy"]["digest"] = "0" * 64
    path.write_text(json.dumps(manifest))
    parent = find_parent("policy", Input(str(tmp_path / "sft"), ("sft",)), settings)
    tokenizer = loading.load_tokenizer(parent, settings.model)
    with pytest.raises(LineageError, match="is an adapter on .*, whose weights have changed or are missing"):
        loading.load_policy(parent, settings.model, tokenizer)
    with pytest.raises(LineageError, match="have changed or are missing"):
        bases.ancestry(parent)
