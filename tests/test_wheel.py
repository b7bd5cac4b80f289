"""The wheel: built, installed somewhere else, and used from an empty directory."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from rlhf.storage.paths import PACKAGE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PACKAGE.parent / "pyproject.toml").exists(), reason="no checkout"),
]


def test_a_wheel_has_its_conf_and_its_data_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(PACKAGE.parent)]
    subprocess.run(build, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "rlhf/conf/config.yaml" in names
    assert "rlhf/publishing/card.md.jinja" in names
    assert {f"rlhf/evaluation/reporting/page_parts/report.{kind}" for kind in ("html", "css", "js")} <= set(names)
    assert "rlhf/preference_data/almanac/preferences/train.jsonl" in names
    assert not [name for name in names if "checkpoints" in name or name.startswith("tests/")]

    # The dependencies come from this environment; the package only from the wheel.
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True, system_site_packages=False)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    pth = next((environment / "lib").glob("python*/site-packages"))
    (pth / "dependencies.pth").write_text(f"{site}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a checkout on it would be found before the wheel
    for command in ([python, "-m", "rlhf"], [environment / "bin" / "rlhf"]):
        shown = subprocess.run(
            [*command, "stage=sft", "--cfg", "job"], cwd=empty, check=True, capture_output=True, text=True
        )
        assert "learning_rate" in shown.stdout
        shown = subprocess.run(command, cwd=empty, check=True, capture_output=True, text=True)
        assert "stage=progression" in shown.stdout
    where = "import rlhf, rlhf.storage.paths as p; print(rlhf.__file__, p.bundled('conf'))"
    found = subprocess.run([python, "-c", where], cwd=empty, check=True, capture_output=True, text=True).stdout.split()
    assert all(str(environment) in path for path in found)
