"""The tests mirror rlhf/ path for path: rlhf/data/turns.py is tested in tests/data/test_turns.py."""

import ast
from pathlib import Path

import pytest

from rlhf.storage.paths import PACKAGE

# Modules whose functions are tested elsewhere, and where.
ELSEWHERE = {
    "config/__init__.py": "config/test_stages.py",  # Settings, whose rules need a stage
}
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def has_functions(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return any(isinstance(node, ast.FunctionDef) for node in nodes)


def mirrored(file: str) -> str:
    """Return the place of a module's tests below tests/."""
    path = Path(file)
    return str(path.with_name(f"test_{'init' if path.stem == '__init__' else path.stem}.py"))


@pytest.mark.parametrize("file", [file for file in FILES if has_functions(PACKAGE / file)])
def test_every_module_with_functions_has_its_tests(file: str) -> None:
    tests = Path(__file__).parent / ELSEWHERE.get(file, mirrored(file))
    assert tests.is_file(), f"rlhf/{file} has functions and no {tests}"
    assert "def test_" in tests.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(ELSEWHERE))
def test_every_exception_is_needed(file: str) -> None:
    assert file in FILES
    assert not (Path(__file__).parent / mirrored(file)).exists()
