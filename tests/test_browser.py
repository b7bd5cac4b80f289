"""A browser that hangs fails its test instead of blocking the tests after it."""

import signal
from pathlib import Path

import psutil
import pytest

from tests import browser


def test_a_browser_that_hangs_is_given_up_and_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(browser, "SECONDS", 4)
    with browser.chromium(tmp_path) as opened:
        driver = psutil.Process(opened.service.process.pid)
        [chrome] = driver.children()
        started = [driver, *driver.children(recursive=True)]
        chrome.send_signal(signal.SIGSTOP)
        with pytest.raises(Exception, match="(?i)timed out|timeout"):
            opened.get("about:blank")
    assert psutil.wait_procs(started, timeout=10)[1] == []
