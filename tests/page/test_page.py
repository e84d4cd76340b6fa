"""The test page's tab "Raw", in a real browser on a real daemon."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import PATIENCE, complaints, find_programs, running_browser, wait_until
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

LOG_ENTRIES = 1000  # as in raw-log.js
MARKUP = """<img src=x onerror="document.title='pwned'">"""
SCRIPT = "<script>document.title = 'pwned'</script>"


# The daemon


def serving_page(log: Path) -> str | None:
    """The page's address, once the daemon has logged it."""
    for line in log.read_text().splitlines():
        if '"daemon.serving"' in line:
            return str(json.loads(line)["page"])
    return None


@contextmanager
def running_daemon(home: Path, **settings: str) -> Iterator[str]:
    """Run a whole daemon with a Redis of its own; yields the address of its test page."""
    log = home / "daemon.log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FASTIMD_")}
    environment = inherited | {
        "FASTIMD_SERVER__BIND": "127.0.0.1:0",
        "FASTIMD_SERVER__DRAIN_SECONDS": "1",
        "FASTIMD_ADMIN__BIND": "",
        "FASTIMD_REDIS__DATA_DIR": str(home / "redis"),
        "FASTIMD_LOG__FORMAT": "json",
        **settings,
    }
    command = [sys.executable, "-m", "fastimd", "serve"]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, cwd=home, env=environment, stderr=stderr) as daemon,
    ):
        try:
            wait_until(
                lambda: serving_page(log) is not None or daemon.poll() is not None,
                lambda: f"the daemon does not serve: {log.read_text()}",
            )
            page = serving_page(log)
            assert page is not None, f"the daemon ended: {log.read_text()}"
            yield page
        finally:
            status = stop(daemon)
    assert status == 0, log.read_text()


def stop(daemon: subprocess.Popen[bytes]) -> int:
    """End the daemon as an operator would; gives its exit status."""
    daemon.terminate()
    try:
        return daemon.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as address:
        yield address


@pytest.fixture(scope="module")
def strict_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a daemon that checks tokens and lets nobody into a group unasked."""
    home = tmp_path_factory.mktemp("strict")
    settings = {"FASTIMD_GROUP__LOGIN_AUTH": "true", "FASTIMD_GROUP__AUTO_JOIN": "false"}
    with running_daemon(home, **settings) as address:
        yield address


# The browser


@pytest.fixture(scope="module", autouse=True)
def programs() -> tuple[str, str]:
    """Without a browser not even a daemon is started."""
    return find_programs()


class Window:
    """The raw page in a browser's tab of its own; whatever is done with it happens there."""

    def __init__(self, browser: webdriver.Chrome, page: str) -> None:
        self._browser = browser
        browser.switch_to.new_window("tab")
        self._handle = browser.current_window_handle
        browser.get(f"{page}#raw")

    def close(self) -> None:
        self._enter()
        self._browser.close()

    def reload(self) -> None:
        self._enter()
        self._browser.refresh()

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script's body in the page; gives what it returns."""
        self._enter()
        return self._browser.execute_script(script, *arguments)

    def find(self, name: str) -> WebElement:
        self._enter()
        return self._browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.find(name).text

    def value(self, name: str) -> str:
        return str(self.find(name).get_property("value"))

    def click(self, name: str) -> None:
        self.find(name).click()

    def fill(self, name: str, value: str) -> None:
        self.find(name).send_keys(Keys.CONTROL + "a", Keys.NULL, value)

    def choose(self, name: str, value: str) -> None:
        Select(self.find(name)).select_by_value(value)

    def say(self, text: str) -> None:
        self.find("message").send_keys(text, Keys.ENTER)

    def enabled(self) -> set[str]:
        """Which of the three buttons that depend on the socket can be pressed."""
        return {n for n in ("connect", "disconnect", "send") if self.find(n).is_enabled()}

    def connect(self, group: str, user: str) -> None:
        self.fill("group", group)
        self.fill("user", user)
        self.click("connect")
        self.wait_text("status", "Connected")
        self.wait_text("log", "Greeting")

    def wait_text(self, name: str, expected: str) -> None:
        """Wait until the element contains ``expected``."""
        wait_until(
            lambda: expected in self.text(name),
            lambda: f"no {expected!r} in #{name}: {self.text(name)!r}",
        )

    def shown(self, what: str, direction: str = "received") -> list[str]:
        """The texts of a class of elements in the log, in entries of one direction."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return list(self.run(script, f"#log .{direction} .{what}"))

    def wait_shown(self, text: str) -> None:
        """Wait until a received chat message says exactly ``text``."""
        wait_until(
            lambda: text in self.shown("text"),
            lambda: f"no message {text!r} among {self.shown('text')}",
        )

    def pixels_below(self) -> float:
        """How much of the log lies below what is in sight."""
        script = "const log = document.getElementById('log');"
        script += "return log.scrollHeight - log.scrollTop - log.clientHeight"
        return float(self.run(script))

    def _enter(self) -> None:
        if self._browser.current_window_handle != self._handle:
            self._browser.switch_to.window(self._handle)


OpenWindow = Callable[[str], Window]


@pytest.fixture
def open_window(browser: webdriver.Chrome) -> Iterator[OpenWindow]:
    """Opens the page in tabs that end with the test."""
    first = browser.current_window_handle
    opened: list[Window] = []

    def open_one(page: str) -> Window:
        opened.append(Window(browser, page))
        return opened[-1]

    yield open_one
    for window in opened:
        window.close()
        browser.switch_to.window(first)


_rooms = itertools.count(1)


@pytest.fixture
def group() -> str:
    """A group that nobody has spoken in."""
    return f"room-{next(_rooms)}"


def test_two_windows_talk(page: str, open_window: OpenWindow, group: str) -> None:
    """What one sends, both see, as readable text and as the raw frame."""
    ada, bob = open_window(page), open_window(page)
    ada.connect(group, "ada")
    bob.connect(group, "bob")
    ada.say("good morning 早上好")
    for window in (ada, bob):
        window.wait_shown("good morning 早上好")
        frame = json.loads(window.shown("raw")[-1])
        assert list(frame) == ["groupId", "userId", "info", "ts"]
        assert (frame["groupId"], frame["userId"]) == (group, "ada")
        assert window.shown("user") == ["ada"]
    assert ada.shown("plain", "sent") == ["good morning 早上好"]
    bob.say("and to you")
    ada.wait_shown("and to you")


def test_history_is_greeted_after_a_reload(page: str, open_window: OpenWindow, group: str) -> None:
    """A page that comes back shows what was said before, in order."""
    window = open_window(page)
    window.connect(group, "ada")
    for text in ("first", "second"):
        window.say(text)
        window.wait_shown(text)
    window.reload()
    assert window.shown("text") == []
    window.connect(group, "ada")
    assert window.shown("text") == ["first", "second"]
    assert json.loads(window.shown("raw")[0])["total"] == 2


@pytest.mark.parametrize("text", [MARKUP, SCRIPT, '{"info":"not parsed"}', "&lt;b&gt; </pre>"])
def test_text_stays_text(page: str, open_window: OpenWindow, group: str, text: str) -> None:
    """Markup from a client is shown letter by letter and never becomes an element."""
    window = open_window(page)
    window.connect(group, "<i>mallory")
    title = window.run("return document.title")
    window.say(text)
    window.wait_shown(text)
    assert text in window.text("log")
    assert window.shown("user")[-1] == "<i>mallory"
    assert window.run("return document.querySelectorAll('#log :is(img, script, i)').length") == 0
    assert window.run("return document.title") == title


def test_enter_sends_and_shift_enter_does_not(
    page: str, open_window: OpenWindow, group: str
) -> None:
    """Shift+Enter starts a line; Enter inside an input method's composition sends nothing."""
    window = open_window(page)
    window.connect(group, "ada")
    window.find("message").send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.SHIFT, "two")
    window.run(
        "document.getElementById('message').dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    assert window.value("message") == "one\ntwo"
    window.find("message").send_keys(Keys.ENTER)
    window.wait_shown("one\ntwo")
    assert window.value("message") == ""


def test_buttons_follow_the_socket(page: str, open_window: OpenWindow, group: str) -> None:
    """Disconnect closes with 1000, Clear empties the log, and only what can work is enabled."""
    window = open_window(page)
    assert window.enabled() == {"connect"}
    window.connect(group, "ada")
    assert window.enabled() == {"disconnect", "send"}
    window.click("disconnect")
    window.wait_text("status", "Closed (1000")
    window.wait_text("log", "Closed (1000")
    assert window.enabled() == {"connect"}
    window.click("clear")
    assert window.run("return document.getElementById('log').childElementCount") == 0
    window.connect(group, "ada")


def test_fields_and_address_follow_each_other(page: str, open_window: OpenWindow) -> None:
    """The fields compose the address, percent-encoded; an edited address fills the fields."""
    window = open_window(page)
    origin = page.removesuffix("/test/websocket").replace("http:", "ws:")
    user = window.value("user")
    assert window.value("address") == f"{origin}/group/chat/1/{user}/token"
    window.fill("group", "a/b 群")
    window.fill("user", "ada")
    assert window.value("address") == f"{origin}/group/chat/a%2Fb%20%E7%BE%A4/ada/token"
    window.choose("kind", "list")
    assert window.value("address") == f"{origin}/group/list/ada/token"
    window.fill("address", "wss://chat.example/im/group/chat/7/b%20b/t0")
    names = ("kind", "group", "user", "token")
    assert [window.value(name) for name in names] == ["chat", "7", "b b", "t0"]
    window.fill("group", "8")
    assert window.value("address") == "wss://chat.example/im/group/chat/8/b%20b/t0"


def test_an_unusable_address_is_explained(page: str, open_window: OpenWindow) -> None:
    """Neither a wrong scheme nor a refused handshake leaves the page stuck."""
    window = open_window(page)
    window.fill("address", "gopher://chat.example/")
    window.click("connect")
    window.wait_text("log", "Not a usable address")
    window.fill("address", page.replace("http:", "ws:") + "/nowhere")
    window.click("connect")
    window.wait_text("log", "the server refused it")
    window.wait_text("status", "Closed (1006)")
    assert window.enabled() == {"connect"}


def test_group_list_shows_a_push(page: str, open_window: OpenWindow, group: str) -> None:
    """A list socket shows the user's groups at once and again after a message."""
    chat, groups = open_window(page), open_window(page)
    reader = f"reader of {group}"
    chat.connect(group, reader)
    chat.say("before")
    chat.wait_shown("before")
    groups.choose("kind", "list")
    groups.fill("user", reader)
    groups.click("connect")
    groups.wait_shown("before")
    chat.say("after")
    groups.wait_shown("after")
    assert f"Group {group}" in groups.text("log")
    pushed = json.loads(groups.shown("raw")[-1])
    assert {"info": "after", "total": 2}.items() <= (pushed[0]["newMessage"] | pushed[0]).items()


def test_login_and_membership_are_explained(strict_page: str, open_window: OpenWindow) -> None:
    """440 leads to a login that fills in a token; a stranger to the group is told how to join."""
    window = open_window(strict_page)
    window.fill("user", "ada")
    window.click("connect")
    window.wait_text("status", "Closed (1008")
    window.wait_text("log", "/user/login")
    assert window.shown("raw") == ["440"]
    window.run("document.querySelector('#log button').click()")
    assert window.run("return document.activeElement.id") == "password"
    window.fill("password", "123456")
    window.click("login")
    window.wait_text("log", "Logged in as user ada")
    token = window.value("token")
    assert len(token) == 32
    assert window.value("address").endswith(f"/ada/{token}")
    window.click("connect")
    window.wait_text("log", "User ada is not a member of group 1")
    window.wait_text("status", "Closed (1008, not a member)")


def test_chinese_and_english(page: str, programs: tuple[str, str], tmp_path: Path) -> None:
    """The browser's language comes first; the switch turns everything, and is remembered."""
    with running_browser(programs, tmp_path / "profile", "zh-CN") as browser:
        window = Window(browser, page)
        assert window.run("return document.documentElement.lang") == "zh-CN"
        assert (window.text("connect"), window.text("status")) == ("连接", "未连接")
        window.click("connect")
        window.wait_text("status", "已连接")
        window.wait_text("log", "欢迎帧")
        window.click("language")
        assert window.run("return document.documentElement.lang") == "en"
        assert (window.text("connect"), window.text("status")) == ("Connect", "Connected")
        assert "Greeting" in window.text("log")
        assert "欢迎帧" not in window.text("log")
        window.reload()
        assert window.text("status") == "Not connected"


def test_log_keeps_the_newest_entries(page: str, open_window: OpenWindow, group: str) -> None:
    """Of many entries the oldest go, and the log stays at its end."""
    window = open_window(page)
    window.connect(group, "ada")
    window.run(
        """
        const message = document.getElementById("message");
        for (let i = 1; i <= arguments[0]; i++) {
          message.value = `number ${i}`;
          message.form.requestSubmit();
        }
        """,
        LOG_ENTRIES + 100,
    )
    window.wait_shown(f"number {LOG_ENTRIES + 100}")
    assert window.run("return document.getElementById('log').childElementCount") == LOG_ENTRIES
    assert "number 1" not in window.shown("plain", "sent")
    assert window.pixels_below() < 8


def test_log_does_not_move_under_a_reader(page: str, open_window: OpenWindow, group: str) -> None:
    """The log follows new entries only while its end is in sight."""
    window = open_window(page)
    window.connect(group, "ada")
    for number in range(20):
        window.say(f"line {number}")
    window.wait_shown("line 19")
    assert window.pixels_below() < 8
    window.run("document.getElementById('log').scrollTop = 0")
    wait_until(
        lambda: "following" not in (window.find("log").get_attribute("class") or ""),
        lambda: "the scroll went unnoticed",
    )
    window.say("one more")
    window.wait_shown("one more")
    assert window.run("return document.getElementById('log').scrollTop") == 0


def test_nothing_comes_from_another_host(
    page: str, browser: webdriver.Chrome, open_window: OpenWindow, group: str
) -> None:
    """The page works offline, under a policy that allows no other host and no inline code."""
    complaints(browser)  # of earlier tests
    window = open_window(page)
    window.connect(group, "ada")
    window.say("hello")
    window.wait_shown("hello")
    window.click("language")
    window.click("language")
    loaded = window.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    origin = page.removesuffix("/test/websocket")
    assert {f"{origin}/test/static/raw.{kind}" for kind in ("css", "js")} <= set(loaded)
    assert all(address.startswith(f"{origin}/test/static/") for address in loaded)
    assert complaints(browser) == []


@pytest.mark.parametrize("part", ["websocket", "static/chat.js", "static/page.css"])
def test_what_is_known_is_not_sent_again(page: str, part: str) -> None:
    """Each part has its policy, and an ETag that saves a reload from getting it all once more."""
    url = page.removesuffix("websocket") + part
    with urllib.request.urlopen(url) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-cache"
        known = {"If-None-Match": response.headers["ETag"]}
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        urllib.request.urlopen(urllib.request.Request(url, headers=known))
    assert unchanged.value.code == 304
    assert unchanged.value.read() == b""


@pytest.mark.parametrize("width", [340, 1200])
def test_page_fits_the_window(
    page: str, browser: webdriver.Chrome, open_window: OpenWindow, group: str, width: int
) -> None:
    """Nothing sticks out sideways, however long a word in a message."""
    window = open_window(page)
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    window.connect(group, "ada")
    window.say("long" * 100)
    window.wait_shown("long" * 100)
    assert window.run("return document.documentElement.scrollWidth") <= width
    assert window.run("return document.getElementById('log').scrollWidth") <= width
