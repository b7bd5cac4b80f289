"""The bounds in pyproject.toml are the releases that the suite runs on: .ci/oldest.txt to .ci/newest.txt."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rlhf.storage.paths import PACKAGE

ROOT = PACKAGE.parent
WINDOW = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "hydra-core", "huggingface-hub")

pytestmark = pytest.mark.skipif(not (ROOT / ".ci").exists(), reason=".ci/ is not in an installed wheel")


def pins(file: str) -> dict[str, Version]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    parts = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in parts}


def allowed() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {canonicalize_name(one.name): one for one in map(Requirement, project["dependencies"])}


@pytest.mark.parametrize("name", WINDOW)
def test_the_bounds_are_the_releases_that_were_tested(name: str) -> None:
    bounds = {one.operator: Version(one.version) for one in allowed()[name].specifier}
    newest = pins(".ci/newest.txt")[name]
    assert bounds == {">=": pins(".ci/oldest.txt")[name], "<": Version(f"{newest.major}.{newest.minor + 1}")}


def test_the_pinned_releases_lie_in_the_window() -> None:
    pinned = pins("constraints.txt")
    assert [str(one) for name, one in allowed().items() if pinned[name] not in one.specifier] == []


@pytest.mark.parametrize("file", [".ci/oldest.txt", ".ci/newest.txt"])
def test_every_end_of_the_window_is_whole(file: str) -> None:
    assert pins(file).keys() >= set(WINDOW)
    assert pins(file).keys() - WINDOW <= pins("constraints.txt").keys()  # what those releases pin in turn


def test_the_readme_names_the_pinned_torch() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"torch==([\d.]+)", text) == [str(pins("constraints.txt")["torch"])]
