"""American spelling of names and keys, and a docstring for every public function, class and method."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_language import COMPILED, FOLDERS, ROOT

BRITISH = ("British -ise", "British -our, -re, -ll-")  # patterns of spelling
FORMER = {  # files that hold former names, or words for a test
    "benchmarks/progression.py", "rlhf/storage/renamed.py", "tests/storage/test_renamed.py", "tests/test_language.py",
    "tests/test_names.py",
}  # fmt: skip


def spelled_british(path: Path) -> list[str]:
    """Return the names in a Python file, and the strings without a space, such as keys, with a British spelling."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    written = {one.string for one in tokens if one.type in (tokenize.NAME, tokenize.STRING) and " " not in one.string}
    words = {name: re.sub(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])", " ", name).lower() for name in written}
    return sorted(name for name, text in words.items() if any(COMPILED[one].search(text) for one in BRITISH))


def undocumented(path: Path) -> Iterator[int]:
    """Yield the lines of functions, classes and methods without a docstring; a leading "_" marks private names."""
    bodies: list[ast.Module | ast.ClassDef] = [ast.parse(path.read_text(encoding="utf-8"))]
    for body in bodies:  # grows by the classes in it
        for node in body.body:
            bodies += [node] if isinstance(node, ast.ClassDef) else []
            named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                yield node.lineno


def python(folder: str) -> list[Path]:
    return [path for path in FOLDERS[folder] if path.suffix == ".py"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_and_keys_have_american_spelling(folder: str) -> None:
    paths = [path for path in python(folder) if path.relative_to(ROOT).as_posix() not in FORMER]
    assert {path: names for path in paths if (names := spelled_british(path))} == {}


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.startswith("rlhf")])
def test_public_functions_and_classes_have_a_docstring(folder: str) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in python(folder) for line in undocumented(path)]
    assert not found, "\n".join(["without a docstring:", *found])


def test_a_british_name_and_a_missing_docstring_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('class _A:\n    def b(self): pass\n    def _c(self): pass\ndef colour_of(): """D."""\n')
    assert list(undocumented(path)) == [2]
    assert spelled_british(path) == ["colour_of"]
