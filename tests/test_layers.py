"""Who may import whom: the layers of the architecture, read from the source."""

import ast
from pathlib import Path

import pytest

from rlhf.storage.paths import PACKAGE

LAYERS = {
    0: ("errors", "paths", "config", "bounds"),
    1: ("ppo.tensors", "ppo.kl", "ppo.advantages", "ppo.losses", "preference.losses"),
    2: (
        "data", "almanac", "provenance", "parents", "content", "manifest", "directory", "run", "scratch", "models",
        "world", "launch", "follower", "halving", "generate", "decoding", "rewards", "progress", "memory", "sealed",
        "precision", "adapters", "vocabulary", "foreign",
        "tracking", "ppo.rollout", "ppo.forward", "ppo.critic", "ppo.diversity", "evaluation.metrics", "hub.pinned",
        "hub.faults", "evaluation.best_of_n",
        "evaluation.jobs", "slots",
    ),
    3: ("ppo", "planning", "evaluation", "labelling", "preference", "training", "exact", "hub"),
    4: ("stages",),
    5: ("cli", "progression", "sweep", "__main__", "__init__"),
}  # fmt: skip
ENTRY_ONLY = dict.fromkeys(("hydra", "omegaconf"), ("cli", "progression", "sweep"))
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer_of(module: str) -> int:
    """The layer of the longest listed name that the module is or lies in."""
    listed = {name: layer for layer, names in LAYERS.items() for name in names}
    while module:
        if module in listed:
            return listed[module]
        module = module.rpartition(".")[0]
    raise AssertionError(f"{module} has no layer")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=[name_of(path) for path in FILES])
def test_a_module_imports_its_own_layer_and_those_below(path: Path) -> None:
    module = name_of(path)
    for imported in imports(path):
        if imported.startswith("rlhf."):
            target = imported.removeprefix("rlhf.")
            assert layer_of(target) <= layer_of(module), f"{module} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=[name_of(path) for path in FILES])
def test_hydra_and_trl_are_known_where_they_may_be(path: Path) -> None:
    module = name_of(path)
    for imported in imports(path):
        package = imported.split(".")[0]
        assert module in ENTRY_ONLY.get(package, (module,)), f"{module} imports {package}"
        assert package != "trl" or module.startswith("stages."), f"{module} imports trl"


def test_mathematics_knows_torch_alone() -> None:
    for name in LAYERS[1]:
        for imported in imports(PACKAGE / f"{name.replace('.', '/')}.py"):
            assert imported.split(".")[0] in ("torch", "math", "typing", "collections", "rlhf"), f"{name}: {imported}"


def test_no_stage_imports_another() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        if path.stem != "__init__":
            assert not [name for name in imports(path) if name.startswith("rlhf.stages")], path.name


def test_no_module_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]
