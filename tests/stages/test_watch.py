import time
from pathlib import Path

import pytest

from rlhf.errors import ConfigError
from rlhf.stages import execute
from tests.conftest import composed
from tests.evaluation.reporting.test_live import training


def test_the_file_is_written_again_until_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    training(tmp_path / "runs")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    file = tmp_path / "watch.html"
    execute(composed("stage=watch", f"checkpoints={tmp_path}/runs", f"stage.file={file}", "stage.every=3"), tmp_path)
    assert waits == [3, 3]
    assert '"every": 3.0' in file.read_text()
    assert capsys.readouterr().out == f"Open {file} in a browser; it is rewritten every 3 seconds, Ctrl-C ends\n"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["stage.folder=nowhere"], "stage.folder=nowhere does not exist: "),
        (["stage.folder=.", "stage.file=nowhere/watch.html"], "stage.file=nowhere/watch.html cannot be written "),
    ],
)
def test_a_folder_or_a_file_that_does_not_exist_is_refused(
    overrides: list[str], error: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=error):
        execute(composed("stage=watch", *overrides), tmp_path)


def test_a_missing_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rlhf.labeling.watch_page", None)
    monkeypatch.delattr("rlhf.labeling.watch_page", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'rlhf\[label\]', or set stage.file"):
        execute(composed("stage=watch", f"stage.folder={tmp_path}"), tmp_path)
