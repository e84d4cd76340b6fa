"""People at the test page, and such who talk to them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from browser import complaints, wait_until
from clients import RawClient
from conftest import Daemon
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys


class Person:
    """Somebody at the page."""

    def __init__(self, driver: webdriver.Chrome, daemon: Daemon, user: str, part: str = "") -> None:
        self.driver = driver
        self.daemon = daemon
        self.user = user
        driver.get("about:blank")
        complaints(driver)  # of earlier tests
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.get(f"http://{daemon.address}/test/websocket{part}")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script's body in the page; gives what it returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list[str]:
        """The texts of the elements that can be seen."""
        script = """
        return [...document.querySelectorAll(arguments[0])]
          .filter((e) => e.checkVisibility()).map((e) => e.innerText)
        """
        return list(self.run(script, selector))

    def wait(self, selector: str, text: str) -> None:
        """Wait until an element that can be seen contains a text."""
        wait_until(
            lambda: any(text in each for each in self.find(selector)),
            lambda: f"no {text!r} in {selector}: {self.find(selector)}",
        )

    def fill(self, name: str, text: str) -> None:
        field = self.driver.find_element(By.ID, name)
        field.send_keys(Keys.CONTROL + "a", Keys.NULL, text)

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def log_in(self, password: str = "x") -> None:
        self.fill("sign-in-user", self.user)
        self.fill("sign-in-password", password)
        self.click("#sign-in-go")

    def enter(self, group: str) -> None:
        """Log in and join a group."""
        self.log_in()
        self.wait("#me", self.user)
        self.join(group)

    def join(self, group: str) -> None:
        self.fill("join-group", group)
        self.click("#join-go")
        self.wait("#room-title", group)
        self.wait("#chat-status", "Connected")

    def say(self, text: str) -> None:
        self.driver.find_element(By.ID, "words").send_keys(text, Keys.ENTER)

    def lose(self, text: str) -> None:
        """Say something that reaches no server, and nobody notices."""
        self.run(
            """
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (frame) {
              if (!frame.includes('"method":"send"')) return send.call(this, frame);
              WebSocket.prototype.send = send;
            };
            """
        )
        self.say(text)
        self.wait(".drafts li", "Sending")

    def resize(self, width: int, height: int = 700) -> None:
        """Give the window another size, until the next test."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the keyboard is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def show(self, selector: str) -> str:
        """What can be seen, for a test that fails."""
        return f"{selector}: {self.find(selector)}"

    def focus(self) -> str:
        """The id of what has the keyboard."""
        return str(self.run("return document.activeElement.id"))

    def messages(self) -> list[str]:
        """The texts in sight or above or below it, without those on their way."""
        script = "return [...document.querySelectorAll('.messages .text > span')]"
        return list(self.run(script + ".map((e) => e.textContent)"))

    def wait_messages(self, expected: list[str]) -> None:
        """Wait until exactly these are shown."""
        wait_until(
            lambda: self.messages() == expected,
            lambda: f"{self.messages()}, not {expected}",
        )

    def wait_message(self, text: str) -> None:
        wait_until(lambda: text in self.messages(), lambda: f"no {text!r}: {self.messages()}")


def tell(daemon: Daemon, group: str, texts: list[str], user: str = "crier") -> None:
    """Somebody says all this."""
    with RawClient(daemon.address, f"/group/chat/{quote(group)}/{quote(user)}/t") as client:
        client.next_text()
        for text in texts:
            client.say(text)
        while json.loads(client.next_text())["info"] != texts[-1]:
            pass
