"""The packages of rlhf/ are layers: each imports only those below it, and only some know Hydra and TRL."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from rlhf.storage.paths import PACKAGE

LAYERS = (
    "errors", "console", "storage", "config", "almanac", "hub", "data", "hardware", "runs", "modeling", "training",
    "rewards", "evaluation", "preference", "labeling", "ppo", "planning", "publishing", "stages", "cli", "__main__",
)  # fmt: skip
OWNERS = {"hydra": ("cli",), "trl": ("stages",)}
MATHEMATICS = ("modeling.logprobs", "modeling.seeding", "ppo.kl", "ppo.advantages", "ppo.losses", "preference.losses")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Return the dotted name of a file below ``rlhf``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at its top or in its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph() -> dict[str, set[str]]:
    """Map each unit, a package or module at the top level, to the units that it imports."""
    units: dict[str, set[str]] = {}
    for path in FILES:
        here = module_of(path).split(".")[0]
        needed = {name.split(".")[1] for name in imports(path) if name.startswith("rlhf.")}
        units.setdefault(here, set()).update(needed - {here, "__version__"})
    del units["__init__"]
    return units


def test_packages_do_not_import_in_circles() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError with the circle


def test_every_unit_has_a_layer_and_imports_only_those_below() -> None:
    assert set(graph()) == set(LAYERS)
    upward = [
        f"{here} imports {needed}"
        for here, others in graph().items()
        for needed in others
        if LAYERS.index(needed) > LAYERS.index(here)
    ]
    assert not upward


def test_the_top_level_is_small() -> None:
    assert len(LAYERS) + 1 <= 22  # with __init__


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_hydra_and_trl_are_imported_in_one_package_each(path: Path) -> None:
    unit = module_of(path).split(".")[0]
    for name in imports(path):
        assert unit in OWNERS.get(name.split(".")[0], (unit,)), f"{path} imports {name}"


def test_mathematics_imports_torch_and_nothing_heavier() -> None:
    allowed = ("torch", "math", "typing", "collections", "hashlib", "functools", "rlhf")
    for module in MATHEMATICS:
        for name in imports(PACKAGE / f"{module.replace('.', '/')}.py"):
            assert name.split(".")[0] in allowed, f"{module} imports {name}"


def test_no_stage_imports_another() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        if path.stem != "__init__":
            own = ("rlhf.stages.adopt", "rlhf.stages.inner")  # functions of the package that run a stage inside another
            others = [name for name in imports(path) if name.startswith("rlhf.stages") and name not in own]
            assert not others, path.name


def test_no_module_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]
