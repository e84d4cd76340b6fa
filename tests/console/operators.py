"""Operators at the console, and what they could do as well with the API alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path
from typing import Any

from browser import complaints, wait_until
from conftest import Daemon
from page_people import Person
from selenium import webdriver
from selenium.webdriver.common.by import By


def call(
    daemon: Daemon, method: str, body: dict[str, object] | None = None, key: str = ""
) -> dict[str, Any]:
    """Call a method of the API on the admin address: with a key, or as an operator.

    Returns:
        The whole answer, which has a ``result`` or an ``error``.
    """
    caller = {"X-API-Key": key} if key else {"Fastimd-Command": "1"}
    asking = urllib.request.Request(
        f"{url_of(daemon)}/api/{method}",
        json.dumps(body or {}).encode(),
        {"Content-Type": "application/json", **caller},
    )
    try:
        with urllib.request.urlopen(asking, timeout=10) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as refused:
        return dict(json.load(refused))


def done(
    daemon: Daemon, method: str, body: dict[str, object] | None = None, key: str = ""
) -> dict[str, Any]:
    """The result of a call that is done."""
    answer = call(daemon, method, body, key)
    assert "result" in answer, answer
    return dict(answer["result"])


def url_of(daemon: Daemon) -> str:
    """The admin address; one that is reached from everywhere is reached from here, too."""
    return daemon.admin.replace("//0.0.0.0:", "//127.0.0.1:")


def settings_with_keys(folder: Path, **keys: dict[str, list[str]]) -> Path:
    """A file of settings with keys; the secret of each is its name."""
    tables = [
        "[[api.keys]]\n"
        f'name = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n'
        + "".join(f"{field} = {json.dumps(globs)}\n" for field, globs in limits.items())
        for name, limits in keys.items()
    ]
    path = folder / "keys.toml"
    path.write_text("\n".join(tables))
    return path


class Operator(Person):
    """Somebody at the console."""

    def __init__(self, driver: webdriver.Chrome, daemon: Daemon, part: str = "") -> None:
        self.driver = driver
        self.daemon = daemon
        self.user = ""
        driver.get("about:blank")
        complaints(driver)  # of earlier tests
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.go(part)

    def go(self, part: str) -> None:
        """Open a part of the console, such as ``#/groups``."""
        self.driver.get(f"{url_of(self.daemon)}/console{part}")

    def enter(self, group: str) -> None:
        """Open a group."""
        self.run("location.hash = '#/group/' + encodeURIComponent(arguments[0])", group)
        self.wait("#group-title", group)

    def look(self) -> None:
        """Have the console ask for all that it shows now, as when one comes back to its tab."""
        self.run("document.dispatchEvent(new Event('visibilitychange'))")

    def wait_looking(self, selector: str, text: str) -> None:
        """``wait`` for what only the next look finds, and that is up to five seconds away."""

        def is_there() -> bool:
            self.look()
            return any(text in each for each in self.find(selector))

        wait_until(is_there, lambda: f"no {text!r} in {selector}: {self.find(selector)}")

    def press_button(self, text: str, within: str = "body") -> None:
        """Press the one button of a text that can be seen within an element."""
        wait_until(
            lambda: len(self._buttons(text, within)) == 1,
            lambda: f"not one {text!r}: {self.find(f'{within} button')}",
        )
        self._buttons(text, within)[0].click()

    def lines(self, selector: str) -> list[str]:
        """The texts of elements, on one line each."""
        return [" ".join(each.split()) for each in self.find(selector)]

    def wait_lines(self, selector: str, expected: list[str]) -> None:
        """Wait until these are the texts of the elements that can be seen."""
        wait_until(
            lambda: self.lines(selector) == expected,
            lambda: f"{self.lines(selector)} in {selector}, not {expected}",
        )

    def about(self, text: str, within: str = "#messages") -> None:
        """Open what can be done about a message."""
        self.wait(f"{within} .text", text)
        self.about_in(f"Act on: {text}", text, within)

    def about_in(self, label: str, text: str, within: str = "#messages") -> None:
        """The same, by what the button is called in the language of the page."""
        self.wait(f"{within} .text", text)
        button = f"{within} [aria-label='{label}']"
        self.run("document.querySelector(arguments[0]).click()", button)
        self.wait("#act .quote", text)

    def _buttons(self, text: str, within: str) -> list[Any]:
        found = self.driver.find_elements(By.CSS_SELECTOR, f"{within} button")
        return [each for each in found if each.is_displayed() and each.text == text]
