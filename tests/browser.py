"""A real browser for the tests of pages.

Chromium and chromedriver are taken from the machine and never downloaded. Without them the tests
are skipped, unless ``FASTIMD_TEST_BROWSER=required`` says that they must be there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

PATIENCE = 20.0  # seconds until something awaited counts as missing
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)


def wait_until(condition: Callable[[], bool], missing: Callable[[], str]) -> None:
    """Poll ``condition``; after ``PATIENCE`` seconds fail with what ``missing`` says."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, missing()
        time.sleep(0.05)


def find_programs() -> tuple[str, str]:
    """The paths of a Chromium and of its driver; without them not even a daemon is started."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    missing = "no chromedriver" if browser else "no Chromium or Chrome"
    if os.environ.get("FASTIMD_TEST_BROWSER") == "required":
        pytest.fail(f"{missing} on this machine, and FASTIMD_TEST_BROWSER=required")
    pytest.skip(f"{missing} on this machine")


@contextmanager
def running_browser(
    programs: tuple[str, str], profile: Path, language: str
) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location, driver_path = programs
    for flag in BROWSER_FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument(f"--lang={language}")
    options.add_argument(f"--accept-lang={language}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        yield driver
    finally:
        driver.quit()


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console has complained of, in any tab, since this was last asked."""
    entries = browser.execute("getLog", {"type": "browser"})["value"]
    return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
