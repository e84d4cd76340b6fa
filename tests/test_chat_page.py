"""The test page's chat, and fastim.js by itself, in real browsers on real daemons."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import complaints, find_programs, running_browser, wait_until
from clients import RawClient
from conftest import Daemon, StartDaemon, redis_servers, run_daemon, run_fastimd
from faults import MortalRedis
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parent.parent
KEPT = 300  # as in conversation.js
HOSTILE = """<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>"""
BEGIN = "The beginning of what is kept"


@pytest.fixture(scope="module", autouse=True)
def programs() -> tuple[str, str]:
    """Without a browser not even a daemon is started."""
    return find_programs()


@pytest.fixture(scope="module")
def browsers(
    programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[webdriver.Chrome]]:
    """Two of them, as two people have."""
    with (
        running_browser(programs, tmp_path_factory.mktemp("ada"), "en-US") as first,
        running_browser(programs, tmp_path_factory.mktemp("bob"), "en-US") as second,
    ):
        yield [first, second]


class Person:
    """Somebody at the page."""

    def __init__(self, driver: webdriver.Chrome, daemon: Daemon, user: str, part: str = "") -> None:
        self.driver = driver
        self.user = user
        complaints(driver)  # of earlier tests
        driver.get("about:blank")
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
    with RawClient(daemon.address, f"/group/chat/{group}/{user}/t") as client:
        client.next_text()
        for text in texts:
            client.say(text)
        while json.loads(client.next_text())["info"] != texts[-1]:
            pass


def numbers(count: int, first: int = 1) -> list[str]:
    return [f"number {number}" for number in range(first, first + count)]


def test_two_people_talk(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """What one says both see; the list of groups says what is new elsewhere, and how much."""
    daemon = start_daemon(group_list__update_rate="0.1")
    ada, bob = (Person(b, daemon, u) for b, u in zip(browsers, ("ada", "bob"), strict=True))
    ada.enter("guild")
    bob.enter("guild")
    ada.say("good morning 早上好")
    bob.wait_messages(["good morning 早上好"])
    bob.say("and to you")
    ada.wait_messages(["good morning 早上好", "and to you"])
    assert bob.find(".message .head b") == ["ada", "bob"]
    assert bob.find(".message.own .text > span") == ["and to you"]
    ada.join("trade")
    bob.say("one")
    bob.say("two")
    ada.wait("#groups button", "two")
    ada.wait("#groups .unread", "2")
    assert [row.split("\n")[0] for row in ada.find("#groups button")] == ["guild", "trade"]
    ada.click("#groups button")
    ada.wait_messages(["good morning 早上好", "and to you", "one", "two"])
    ada.wait("#room-note", "4 messages")
    assert ada.find("#groups .unread") == []
    for person in (ada, bob):
        assert complaints(person.driver) == []


def test_history_comes_as_one_scrolls(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """All of it, once, in order; and what one reads stays where it is."""
    daemon = start_daemon()
    texts = numbers(460)
    tell(daemon, "guild", texts)
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.wait_message(texts[-1])
    assert len(ada.messages()) < len(texts)
    place = """
    const scroller = document.getElementById("scroller");
    const first = document.querySelector(".messages li");
    const place = () => first.querySelector(".text").getBoundingClientRect().top;
    scroller.scrollTop = 100;
    return new Promise((resolve) => {
      const before = place();
      const top = document.querySelector("#scroller .help");
      const isLoading = () => top.innerText.startsWith("Loading");
      const look = () => first.previousElementSibling && !isLoading()
        ? resolve([before, place()])
        : setTimeout(look, 10);
      look();
    });
    """
    while len(ada.messages()) < len(texts):
        known = len(ada.messages())
        before, after = ada.run(place)
        assert abs(before - after) < 2, (known, before, after)
        wait_until(lambda n=known: len(ada.messages()) > n, lambda: "no more")  # type: ignore[misc]
    assert ada.messages() == texts
    ada.run("document.getElementById('scroller').scrollTop = 0")
    ada.wait("#scroller .help", BEGIN)
    tell(daemon, "guild", ["new"])
    ada.wait("#newer", "1")
    assert ada.run("return document.getElementById('scroller').scrollTop") == 0
    ada.click("#newer")
    wait_until(lambda: ada.find("#newer") == [], lambda: "it stays")
    # At the end again, most of what is above goes, and comes back when it is wanted.
    tell(daemon, "guild", ["newer"])
    ada.wait_messages([*texts, "new", "newer"][-KEPT:])


def test_recall(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """One's own message vanishes; one that is too old stays, and the page says why."""
    daemon = start_daemon(group_message__recall_time_limit="2")
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.say("old")
    ada.wait_message("old")
    old_at = time.monotonic()
    tell(daemon, "guild", ["of another"])
    ada.say("slip")
    ada.wait_messages(["old", "of another", "slip"])
    assert len(ada.find(".recall")) == 2
    ada.click("li:last-child .recall")
    ada.wait_messages(["old", "of another"])
    wait_until(lambda: time.monotonic() > old_at + 2.5, lambda: "time stands still")
    ada.click("li:first-child .recall")
    ada.wait("#room-failure", "too late")
    assert ada.messages() == ["old", "of another"]


def test_another_ones_recall_is_seen_after_a_reconnection(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], redis: Redis
) -> None:
    """The greeting no longer has it."""
    daemon = start_daemon()
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    tell(daemon, "guild", numbers(3))
    ada.wait_messages(numbers(3))
    [recalled] = redis.lrange("gml:guild", 1, 1)
    redis.lrem("gml:guild", 1, str(recalled, "utf-8") if isinstance(recalled, bytes) else recalled)
    ada.run("dispatchEvent(new Event('online'))")  # after that connections are made anew
    ada.wait_messages(["number 1", "number 3"])


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[MortalRedis]:
    server = MortalRedis(redis_servers()[0], tmp_path / "redis")
    yield server
    server.close()


def test_nothing_is_missed(
    tmp_path: Path, mortal_redis: MortalRedis, browsers: list[webdriver.Chrome]
) -> None:
    """Redis is killed under the page, then the daemon: it comes back, no gap, no double."""

    def start(bind: str) -> Daemon:
        return run_daemon(
            tmp_path, mortal_redis.url, server__bind=bind, group_message__list_num="5"
        )

    daemon = start("127.0.0.1:0")
    try:
        ada, bob = (Person(b, daemon, u) for b, u in zip(browsers, ("ada", "bob"), strict=True))
        ada.enter("guild")
        bob.enter("guild")
        ada.say("before")
        bob.wait_messages(["before"])
        mortal_redis.kill()
        ada.say("while Redis is away")
        mortal_redis.start()
        expected = ["before", "while Redis is away"]
        ada.wait_messages(expected)
        bob.wait_messages(expected)
        daemon.process.kill()
        daemon.process.wait()
        ada.wait("#chat-status", "Offline")
        ada.say("while the daemon is away")
        ada.wait(".drafts li", "Waits for the connection")
        daemon = start(daemon.address)
        tell(daemon, "guild", numbers(150))
        for person in (ada, bob):
            person.wait("#chat-status", "Connected")
            person.wait_message("while the daemon is away")
            person.wait_message("number 150")
        stored = [
            json.loads(entry)["info"] for entry in mortal_redis.ask("LRANGE", "gml:guild", 0, -1)
        ]
        assert sorted(stored) == sorted([*expected, "while the daemon is away", *numbers(150)])
        ada.wait_messages(stored)
        bob.wait_messages(stored)
        assert ada.find(".drafts li") == []
    finally:
        assert daemon.stop() == 0


def test_a_text_that_is_lost_is_told(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], redis: Redis
) -> None:
    """It is not sent again by itself: that is for the one who said it to decide."""
    daemon = start_daemon()
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.say("stored")
    ada.wait_messages(["stored"])
    # What is sent now reaches no server, and the connection is gone before anybody notices.
    ada.run(
        "const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function () { WebSocket.prototype.send = send; }"
    )
    ada.say("lost")
    ada.wait(".drafts li", "Sending")
    ada.run("dispatchEvent(new Event('online'))")
    ada.wait(".drafts li", "Not sent: the connection broke")
    assert redis.llen("gml:guild") == 1
    ada.click(".drafts button")
    ada.wait_messages(["stored", "lost"])
    assert ada.find(".drafts li") == []


def test_a_kick_leaves_nothing_under_way(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """A text whose fate is open is told as not sent; the way back is the person's to choose."""
    daemon = start_daemon()
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.run(
        "const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function () { WebSocket.prototype.send = send; }"
    )
    ada.say("lost")
    ada.wait(".drafts li", "Sending")
    kick = run_fastimd("kick", "ada", admin__bind=daemon.admin.removeprefix("http://"))
    assert kick.returncode == 0, kick.stderr
    ada.wait("#chat-status", "An operator closed the connection")
    ada.wait(".drafts li", "Not sent")
    ada.click("#reconnect")
    ada.wait("#chat-status", "Connected")
    ada.click(".drafts button")
    ada.wait_messages(["lost"])


def test_a_socket_that_stays_silent_is_left(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """One that opens, but brings no greeting, is tried again."""
    daemon = start_daemon()
    ada = Person(browsers[0], daemon, "ada")
    ada.log_in()
    ada.wait("#me", "ada")
    # The deadline of the first one comes at once, and its frames never.
    ada.run(
        """
        const Real = WebSocket, later = setTimeout;
        let isFirst = true;
        window.setTimeout = (act, ms) => later(act, ms === 15000 ? 500 : ms);
        window.WebSocket = class extends Real {
          addEventListener(type, act) {
            if (isFirst && type === "message") isFirst = false;
            else super.addEventListener(type, act);
          }
        };
        """
    )
    ada.join("guild")
    ada.say("here")
    ada.wait_messages(["here"])


def test_text_stays_text(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], redis: Redis
) -> None:
    """Markup in a message, a user id or a group id is shown letter by letter."""
    daemon = start_daemon(group_list__update_rate="0.1")
    ada = Person(browsers[0], daemon, HOSTILE)
    group = HOSTILE.replace("/", "_")
    ada.enter(group)
    title = ada.run("return document.title")
    ada.say(HOSTILE)
    ada.wait_messages([HOSTILE])
    ada.wait("#groups button", HOSTILE)
    assert ada.find("#me") == [HOSTILE]
    assert ada.find("#room-title") == [group]
    assert ada.run("return document.querySelectorAll('main :is(img, script)').length") == 0
    assert ada.run("return document.title") == title
    assert complaints(ada.driver) == []


def test_by_keyboard_alone(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """Log in, join, talk, change the group, recall, and back to the raw tab."""
    daemon = start_daemon(group_list__update_rate="0.1")
    tell(daemon, "trade", ["iron ore"], "ada")
    ada = Person(browsers[0], daemon, "ada")

    def press(*keys: str) -> None:
        ActionChains(ada.driver).send_keys(*keys).perform()

    def shift(key: str) -> None:
        ActionChains(ada.driver).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()

    def focus() -> str:
        return str(ada.run("return document.activeElement.id"))

    ada.run("document.getElementById('sign-in-user').select()")
    press("ada", Keys.TAB, "secret", Keys.ENTER)
    ada.wait("#me", "ada")
    ada.wait("#groups button", "iron ore")
    for _ in range(10):
        if focus() == "join-group":
            break
        press(Keys.TAB)
    assert focus() == "join-group"
    press("guild", Keys.ENTER)
    ada.wait("#room-title", "guild")
    assert focus() == "words"
    ada.wait("#chat-status", "Connected")
    press("one")
    shift(Keys.ENTER)
    press("two", Keys.ENTER)
    ada.wait_messages(["one\ntwo"])
    shift(Keys.TAB)
    assert "Recall: one\ntwo" in str(ada.run("return document.activeElement.ariaLabel"))
    press(Keys.ENTER)
    ada.wait_messages([])
    assert focus() == "scroller"
    wait_until(
        lambda: "trade" in ada.find("#groups button")[0],  # the other one is empty now
        lambda: str(ada.find("#groups button")),
    )
    ada.run("document.querySelector('#groups button[aria-current]').focus()")
    shift(Keys.TAB)
    press(Keys.ENTER)
    ada.wait("#room-title", "trade")
    ada.wait_messages(["iron ore"])
    ada.run("document.getElementById('tab-chat').focus()")
    press(Keys.ARROW_RIGHT)
    assert focus() == "tab-raw"
    assert ada.find("#settings h2") == ["Connection"]


def test_in_chinese(start_daemon: StartDaemon, programs: tuple[str, str], tmp_path: Path) -> None:
    """The browser's language is the page's; the switch turns all of it, messages' times too."""
    daemon = start_daemon()
    with running_browser(programs, tmp_path / "profile", "zh-CN") as driver:
        lin = Person(driver, daemon, "林")
        assert lin.find("#sign-in h2") == ["登录"]
        lin.log_in()
        lin.wait("#me", "林")
        lin.fill("join-group", "公会")
        lin.click("#join-go")
        lin.wait("#chat-status", "已连接")
        lin.say("收到")
        lin.wait_messages(["收到"])
        assert lin.find(".day") == ["今天"]
        assert lin.run("return document.documentElement.lang") == "zh-CN"
        lin.click("#language")
        assert lin.run("return document.documentElement.lang") == "en"
        assert (lin.find(".day"), lin.find("#chat-status")) == (["Today"], ["Connected"])
        assert lin.find(".recall") == ["Recall"]


def test_on_a_narrow_screen(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """The list and the group are two views, and nothing sticks out sideways."""
    daemon = start_daemon()
    size = {"width": 340, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browsers[0].execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        ada = Person(browsers[0], daemon, "ada")
        ada.enter("guild")
        ada.say("long" * 100)
        ada.wait_message("long" * 100)
        for name in ("scroller", "room", "groups"):
            inside = f"const e = document.getElementById('{name}');"
            assert ada.run(inside + "return e.scrollWidth <= Math.max(e.clientWidth, 340)")
        assert ada.run("return document.documentElement.scrollWidth") <= 340
        assert ada.find("#groups") == []
        ada.click("#back")
        ada.wait("#groups button", "guild")
        assert ada.find("#room") == []
        ada.click("#groups button")
        ada.wait("#room-title", "guild")
    finally:
        browsers[0].execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_token_that_was_lost(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], redis: Redis
) -> None:
    """The page asks for a login, and goes on where it was."""
    daemon = start_daemon(group__login_auth="true", group__auto_join="false")
    ada = Person(browsers[0], daemon, "ada", "#group=guild")
    ada.log_in()
    ada.wait("#chat-status", "Only members")
    ada.fill("join-group", "guild")
    ada.click("#join-go")
    ada.wait("#groups button", "guild")
    ada.click("#reconnect")
    ada.wait("#chat-status", "Connected")
    ada.say("one")
    ada.wait_messages(["one"])
    redis.delete("login:ada")
    ada.say("two")
    ada.wait("#sign-in-note", "Log in again")
    ada.fill("sign-in-password", "x")
    ada.click("#sign-in-go")
    ada.wait("#chat-status", "Connected")
    ada.wait(".drafts li", "Not sent")
    ada.click(".drafts button")
    ada.wait_messages(["one", "two"])


def test_logins_that_fail(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """Each says why, and can be tried again."""
    daemon = start_daemon(login__hook="hook_of_tests:log_in")
    ada = Person(browsers[0], daemon, "ada")
    ada.log_in("wrong")
    ada.wait("#sign-in-failure", "Wrong user or password")
    ada.fill("sign-in-server", "http://127.0.0.1:1")
    ada.log_in("right")
    ada.wait("#sign-in-failure", "No answer")
    ada.fill("sign-in-server", f"ws://{daemon.address}/")
    ada.log_in("right")
    ada.wait("#me", "ada")
    ada.click("#sign-out")
    ada.wait("#sign-in h2", "Log in")


def test_what_a_hook_refuses(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """The reason is shown beside the text, to the one who said it."""
    daemon = start_daemon(hooks__handler="hook_of_tests:Filter")
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.say("a bad word")
    ada.wait(".drafts li", "Refused: not here")
    ada.say("shout")
    ada.wait_messages(["SHOUT"])
    wait_until(lambda: len(ada.find(".drafts li")) == 1, lambda: str(ada.find(".drafts li")))
    ada.click(".drafts button")
    assert ada.find(".drafts li") == []


@pytest.fixture(autouse=True)
def hook_of_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hook_of_tests.py").write_text(
        "import dataclasses\n"
        "from fastimd.hooks import Refused\n"
        "async def log_in(user, password):\n"
        "    return {} if password == 'right' else None\n"
        "class Filter:\n"
        "    async def on_message(self, message):\n"
        "        if 'bad' in message.info:\n"
        "            raise Refused('not here')\n"
        "        return dataclasses.replace(message, info=message.info.upper())\n"
        "class Doorkeeper:\n"
        "    async def authorize(self, user, token, action, group):\n"
        "        if action == 'chat':\n"
        "            raise Refused('not your group')\n"
        "        return True\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def test_nothing_comes_from_another_host(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """The page loads its own parts and nothing else, and its policy forbids more."""
    daemon = start_daemon()
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.say("hello")
    ada.wait_messages(["hello"])
    loaded = ada.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert f"http://{daemon.address}/test/static/fastim.js" in loaded
    assert {address.split("/")[2] for address in loaded} == {daemon.address}
    assert complaints(ada.driver) == []
    refused = ada.run("try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; }")
    assert refused == "TypeError"


# fastim.js by itself


@contextmanager
def another_origin(folder: Path) -> Iterator[str]:
    """A web server of somebody else's, with an empty page."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    (folder / "index.html").write_text("<!doctype html><title>a game</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def test_who_is_refused_by_a_hook_stays_away(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """A group is closed for good, with the hook's reason, and not tried again and again."""
    daemon = start_daemon(hooks__handler="hook_of_tests:Doorkeeper")
    ada = Person(browsers[0], daemon, "ada")
    script = """
    const done = arguments[0];
    (async () => {
      const { FastIM } = await import("/test/static/fastim.js");
      const im = new FastIM({ url: location.origin, userId: "ada", token: "of the game" });
      const group = im.join("guild");
      group.addEventListener("state", () => {
        if (["waiting", "closed"].includes(group.state)) done([group.state, group.reason]);
      });
    })().catch((error) => done(String(error)));
    """
    ada.driver.set_script_timeout(20)
    assert ada.driver.execute_async_script(script) == ["closed", "not your group"]


def test_fastim_in_a_page_of_another_origin(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], tmp_path: Path
) -> None:
    """A game's page takes the library from the daemon, and chats."""
    daemon = start_daemon(group_list__update_rate="0.1")
    script = """
    const [address, done] = arguments;
    (async () => {
      const { FastIM, FastIMError } = await import(`${address}/test/static/fastim.js`);
      const im = new FastIM({ url: address, userId: "ada" });
      await im.login("x");
      const group = im.join("guild");
      const heard = [];
      const hear = new Promise((resolve) => group.addEventListener("message", ({ detail }) => {
        heard.push(detail.info);
        if (heard.length === 2) resolve();
      }));
      const drafts = [];
      group.addEventListener("draft", ({ detail }) => {
        drafts.push(`${detail.text} ${detail.state}`);
      });
      const list = new Promise((resolve) => {
        im.watchGroups().addEventListener("groups", ({ detail }) => {
          if (detail[0]?.newMessage?.info === "two") resolve(detail[0].total);
        });
      });
      group.send("one");
      group.send("two");
      await hear;
      const total = await list;
      const newest = (await im.listMessage("guild", -1, -1))[0];
      const older = await group.history(newest);
      await group.recall(newest);
      let code = null;
      try {
        await group.recall(newest);
      } catch (error) {
        code = error instanceof FastIMError && error.code;
      }
      im.close();
      const infos = older.map(({ info }) => info);
      return { heard, drafts, total, older: infos, code, state: group.state };
    })().then(done, (error) => done(String(error)));
    """
    with another_origin(tmp_path) as page:
        browsers[0].get(page)
        browsers[0].set_script_timeout(30)
        found = browsers[0].execute_async_script(script, f"http://{daemon.address}")
    assert found == {
        "heard": ["one", "two"],
        "drafts": [
            *("one queued", "two queued", "one sending", "two sending"),
            *("one sent", "two sent"),
        ],
        "total": 2,
        "older": ["one"],
        "code": 100,
        "state": "closed",
    }


def test_the_example_of_the_document(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], tmp_path: Path
) -> None:
    """docs/FASTIM_JS.md begins with a page that chats, as it stands there."""
    daemon = start_daemon()
    document = (ROOT / "docs" / "FASTIM_JS.md").read_text()
    example = document.partition("```html\n")[2].partition("```")[0]
    library = ROOT / "fastimd" / "http" / "static" / "fastim.js"
    with another_origin(tmp_path) as page:
        (tmp_path / "fastim.js").write_bytes(library.read_bytes())
        text = example.replace("http://127.0.0.1:9000", f"http://{daemon.address}")
        (tmp_path / "index.html").write_text(text)
        browsers[0].get(page)
        tell(daemon, "1", ["from another client"])
        field = browsers[0].find_element(By.ID, "text")
        shown = "return document.getElementById('messages').innerText.split('\\n')"
        expected = ["crier: from another client"]
        wait_until(
            lambda: browsers[0].execute_script(shown) == expected,
            lambda: str(browsers[0].execute_script(shown)),
        )
        field.send_keys("hello", Keys.ENTER)
        expected.append("ada: hello")
        wait_until(
            lambda: browsers[0].execute_script(shown) == expected,
            lambda: str(browsers[0].execute_script(shown)),
        )
