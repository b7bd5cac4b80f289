"""Debian's Chromium without a window, for the tests that open a page as a person would."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

BINARY, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 60  # limit of a request to the driver; selenium has none
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Yield a browser with a new profile; skip the test with a reason if the browser is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'rlhf[test]'")
    if BINARY is None or DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BINARY
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # what the console says is a test's to look at
    service = webdriver.ChromeService(executable_path=DRIVER, log_output=os.devnull)
    browser = webdriver.Chrome(options=options, service=service)
    driver = psutil.Process(service.process.pid)
    started = [driver, *driver.children(recursive=True)]
    try:
        browser.command_executor.client_config.timeout = SECONDS
        browser.set_page_load_timeout(SECONDS / 2)
        browser.set_script_timeout(SECONDS / 2)
        yield browser
    finally:
        for process in started:  # browser.quit() waits for minutes if the browser does not answer
            with suppress(psutil.NoSuchProcess):
                process.kill()
        service.process.wait(10)
        service.stop()
        browser.command_executor.close()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until ``condition`` is true; an element that the page has replaced in between is looked up again."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds  # a busy machine takes many times as long as an idle one
    while True:
        with suppress(StaleElementReferenceException):
            if condition():
                return
        assert time.monotonic() < end, "the page does not show it"
        time.sleep(0.05)
