"""Debian's Chromium without a window, for the tests that open a page as a person would."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BINARY, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Any]:
    """Yield a browser with a new profile; skip the test with a reason if the browser is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'rlhf[test]'")
    if BINARY is None or DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BINARY
    for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # what the console says is a test's to look at
    service = webdriver.ChromeService(executable_path=DRIVER, log_output=os.devnull)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()
