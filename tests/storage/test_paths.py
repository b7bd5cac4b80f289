from pathlib import Path

import pytest

from rlhf.storage import paths


def test_a_directory_beside_the_package_is_found_from_a_checkout() -> None:
    assert (paths.bundled("conf") / "config.yaml").is_file()


def test_a_directory_inside_the_package_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel, conf/ is in the package, and a conf/ beside site-packages/rlhf belongs to another package."""
    package = tmp_path / "rlhf"
    monkeypatch.setattr(paths, "PACKAGE", package)
    (package / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    assert paths.bundled("conf") == package / "conf"
