"""A plan and the links of the tiny chain, for tests before the upload."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.publishing import bundle, lineage
from rlhf.publishing.bundle import Bundle, Plan
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.runs.parents import Parent
from rlhf.storage.manifest import read_manifest
from tests.conftest import composed


@pytest.fixture
def chain_of(aligned: Path) -> Callable[[str], list[Link]]:
    """The links that a run of the tiny chain descends from, itself the last."""

    def of(stage: str) -> list[Link]:
        path = aligned / "almanac" / stage
        return lineage.chain(Parent("run", str(path), read_manifest(path)))

    return of


@pytest.fixture
def plan(aligned: Path) -> Callable[..., Plan]:
    """How to write a bundle, without the Hub; keywords change the stage's settings."""

    def of(above: list[Link], **changes: object) -> Plan:
        settings = composed("stage=publish")
        plain = Plan(
            replace(settings.stage, **changes),
            settings.model,
            (),
            Scrubber.of([str(aligned)], {}),
            aligned / "almanac" / "compare",
        )
        return replace(plain, above=tuple(bundle.kept(link, replace(plain, above=tuple(above))) for link in above))

    return of


@pytest.fixture
def build(chain_of: Callable, plan: Callable[..., Plan], tmp_path: Path) -> Callable[..., Bundle]:
    def of(stage: str, repo: str | None = None, **changes: object) -> Bundle:
        *above, link = chain_of(stage)
        folder = tmp_path / f"bundle-{len(list(tmp_path.glob('bundle-*')))}"
        folder.mkdir()
        return bundle.build(link, repo, "name", folder, plan(above, **changes))

    return of
