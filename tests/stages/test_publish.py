"""The stage from end to end, against a local server with the real client."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.manifest import read_manifest
from rlhf.stages import execute
from tests.conftest import composed, tiny_overrides
from tests.hub.server import Hub

REPO = "alice/almanac-ppo"


@pytest.fixture
def publish(aligned: Path, tmp_path: Path) -> Callable[..., dict]:
    """Publish a run of the tiny chain; what the run.json of the publishing says."""

    def of(*overrides: str, stage: str = "ppo") -> dict:
        given = [f"stage.run={aligned}/almanac/{stage}", *overrides]
        execute(composed(*tiny_overrides("publish", tmp_path), *given), tmp_path / "publish")
        return read_manifest(tmp_path / "publish")

    return of


def test_a_chain_goes_up_whole(publish, hub: Hub) -> None:
    found = publish(f"stage.repo={REPO}", "stage.publish=chain")
    print(found["published"], hub.requests)
