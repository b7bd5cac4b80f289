from pathlib import Path

import pytest

from rlhf.storage import paths


def test_a_directory_beside_the_package_is_found_from_a_checkout() -> None:
    assert (paths.bundled("conf") / "config.yaml").is_file()


def test_a_directory_inside_the_package_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel conf/ lies in the package, and whatever lies beside site-packages/rlhf is somebody else's."""
    package = tmp_path / "rlhf"
    monkeypatch.setattr(paths, "PACKAGE", package)
    (package / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    assert paths.bundled("conf") == package / "conf"
