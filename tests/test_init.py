"""The public API: every name can be imported, is listed, and is visible to type checkers."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf


@pytest.mark.parametrize("name", rlhf.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from rlhf import {name}", namespace)
    assert namespace[name] is getattr(rlhf, name)
    assert name in dir(rlhf)
    assert name == "__version__" or callable(namespace[name])  # a module of the same name is not callable


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse(Path(rlhf.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == rlhf._PUBLIC
    assert Path(rlhf.__file__).with_name("py.typed").exists()


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, rlhf; dir(rlhf); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trainer_of'"):
        _ = rlhf.trainer_of


def test_rows_are_read_without_hydra(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"Name city {i}.", "chosen": "Lima.", "rejected": "No."} for i in range(4)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    parts = [rlhf.load_rows(str(file), "preferences", split, holdout=0.25) for split in ("train", "validation")]
    found = [row for part in parts for row in part]
    assert sorted(found, key=lambda row: row["prompt"]) == pairs
