"""A real browser for the tests of pages.

Chromium and chromedriver are taken from the machine and never downloaded. Without them the tests
are skipped, unless ``FASTIMD_TEST_BROWSER=required`` says that they must be there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

SCRIPT_SECONDS = 30.0  # WebDriver's own
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


class Started:
    """A browser that modules of tests have one after the other, started for the first of them.

    Args:
        profile: a folder of its own.
    """

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._stack = ExitStack()
        self._driver: webdriver.Chrome | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def anew(self) -> Iterator[webdriver.Chrome]:
        """The browser with one empty tab and nothing stored, as if it had just been started."""
        if self._driver is None:
            self._driver = self._stack.enter_context(
                running_browser(find_programs(), self._profile, "en-US")
            )
        yield self._driver
        try:
            _empty(self._driver)
        except BaseException:  # the next module begins with another one
            self._driver = None
            self._stack.close()
            raise


def _empty(driver: webdriver.Chrome) -> None:
    """Leave one new tab, and nothing that pages have stored."""
    old = driver.window_handles
    driver.switch_to.new_window("tab")
    new = driver.current_window_handle
    for each in old:
        driver.switch_to.window(each)
        driver.close()
    driver.switch_to.window(new)
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    everything = {"origin": "*", "storageTypes": "all"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", everything)
    driver.set_script_timeout(SCRIPT_SECONDS)


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console has complained of, in any tab, since this was last asked."""
    entries = browser.execute("getLog", {"type": "browser"})["value"]
    return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
