"""The test page's chat, in real browsers on real daemons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from browser import complaints, find_programs, running_browser, wait_until
from clients import metrics
from conftest import Daemon, StartDaemon, redis_servers, run_daemon, run_fastimd
from faults import MortalRedis
from page_people import Person, tell
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("leaving")]

KEPT = 300  # as in conversation.js
HOSTILE = """<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>"""
BEGIN = "The beginning of what is kept"


Visit = Callable[..., Person]


@pytest.fixture
def visit(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> Visit:
    """Somebody, Ada mostly, at the page of a daemon that is started with these settings."""

    def visit_page(part: str = "", user: str = "ada", **settings: str) -> Person:
        return Person(browsers[0], start_daemon(**settings), user, part)

    return visit_page


@pytest.fixture
def ada(visit: Visit) -> Person:
    """Ada in a group."""
    person = visit()
    person.enter("guild")
    return person


def recall(daemon: Daemon, group: str, place: int, user: str = "crier") -> None:
    """Somebody takes back what they said, by its place in the list."""
    with httpx.Client(base_url=daemon.http) as client:
        token = client.post("/user/login", data={"userId": user, "password": "x"}).json()["msg"]
        client.headers.update({"userId": user, "token": token})
        range_ = {"groupId": group, "startPage": place, "endPage": place}
        [entry] = client.post("/group/listMessage", data=range_).json()["data"]
        asked = {"groupId": group, "ts": json.loads(entry)["ts"]}
        assert client.post("/group/delMessage", data=asked).json()["code"] == 200


HOLD_BACK = """
const Real = WebSocket;
window.comeBack = () => { window.WebSocket = Real; dispatchEvent(new Event("online")); };
window.WebSocket = class extends Real {
  constructor() { super(`ws://${location.host}/nowhere`); }
};
dispatchEvent(new Event("online"));
"""
"""Cuts the page off until `comeBack`."""


def numbers(count: int, first: int = 1) -> list[str]:
    return [f"number {number}" for number in range(first, first + count)]


def test_two_people_talk(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """What one says both see; the list of groups says what is new elsewhere, and how much."""
    daemon = start_daemon()
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


def test_recall(visit: Visit) -> None:
    """One's own message vanishes; one that is too old stays, and the page says why."""
    ada = visit(group_message__recall_time_limit="2")
    ada.enter("guild")
    for text in ("older", "old"):
        ada.say(text)
        ada.wait_message(text)
    old_at = time.monotonic()
    tell(ada.daemon, "guild", ["of another"])
    ada.say("slip")
    ada.wait_messages(["older", "old", "of another", "slip"])
    assert len(ada.find(".recall")) == 3
    ada.click("li:last-child .recall")
    ada.wait_messages(["older", "old", "of another"])
    wait_until(lambda: time.monotonic() > old_at + 2.5, lambda: "time stands still")
    ada.click("li:nth-child(2) .recall")
    ada.wait("#room-failure", "too late")
    assert ada.messages() == ["older", "old", "of another"]
    assert ada.find(".recall") == []  # nor for what is older still
    ada.say("new")
    ada.wait(".recall", "Recall")


def test_another_ones_recall_is_seen_at_once(ada: Person) -> None:
    """The message vanishes, and those beside it stay; so does one that was recalled meanwhile."""
    tell(ada.daemon, "guild", numbers(4))
    ada.wait_messages(numbers(4))
    recall(ada.daemon, "guild", 1)
    ada.wait_messages(["number 1", "number 3", "number 4"])
    ada.wait("#room-note", "3 messages")
    ada.run(HOLD_BACK)
    recall(ada.daemon, "guild", 1)
    ada.run("window.comeBack()")
    ada.wait_messages(["number 1", "number 4"])


def test_a_purge_is_seen_at_once(ada: Person) -> None:
    """All that was said until then is gone."""
    tell(ada.daemon, "guild", numbers(3))
    ada.wait_messages(numbers(3))
    purge = run_fastimd(
        "purge", "guild", "--yes", admin__bind=ada.daemon.admin.removeprefix("http://")
    )
    assert purge.returncode == 0, purge.stderr
    ada.wait_messages([])
    ada.wait("#scroller .help", "Nobody has said anything yet.")
    tell(ada.daemon, "guild", ["new"])
    ada.wait_messages(["new"])


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


def test_a_text_that_is_lost_is_said_once(ada: Person, redis: Redis) -> None:
    """It is sent again on the next connection, and is there once if the server had it, too."""
    ada.lose("lost")
    ada.run("dispatchEvent(new Event('online'))")
    ada.wait_messages(["lost"])
    ada.run(
        """
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (frame) {
          send.call(this, frame);
          if (!frame.includes('"method":"send"')) return;
          WebSocket.prototype.send = send;
          dispatchEvent(new Event("online"));
        };
        """
    )
    ada.say("stored")
    ada.wait_messages(["lost", "stored"])
    wait_until(lambda: ada.find(".drafts li") == [], lambda: str(ada.find(".drafts li")))
    assert redis.llen("gml:guild") == 2
    assert ada.messages() == ["lost", "stored"]


def test_an_empty_group_says_so_until_somebody_speaks(ada: Person) -> None:
    """Then its beginning is in sight."""
    ada.join("new")
    ada.wait("#scroller .help", "Nobody has said anything yet.")
    ada.say("hello")
    ada.wait("#scroller .help", "The beginning of what is kept")


def test_a_kick_leaves_nothing_under_way(ada: Person) -> None:
    """A text whose fate is open is told as not sent; the way back is the person's to choose."""
    ada.lose("lost")
    kick = run_fastimd("kick", "ada", admin__bind=ada.daemon.admin.removeprefix("http://"))
    assert kick.returncode == 0, kick.stderr
    ada.wait("#chat-status", "An operator closed the connection")
    ada.wait(".drafts li", "Not sent")
    ada.wait("#list-reconnect", "Connect again")
    ada.say("not now")
    ada.wait(".drafts li:last-child", "Not sent: no connection")
    ada.click("#reconnect")
    ada.wait("#chat-status", "Connected")
    ada.click(".drafts li:first-child button")
    ada.wait_messages(["lost"])
    ada.wait("#groups button", "lost")  # the list is back, too
    assert ada.find("#list-reconnect") == []


def test_a_socket_that_stays_silent_is_left(visit: Visit) -> None:
    """One that opens, but brings no greeting, is tried again."""
    ada = visit()
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


def test_text_stays_text(visit: Visit) -> None:
    """Markup in a message, a user id or a group id is shown letter by letter."""
    ada = visit(user=HOSTILE)
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


def test_by_keyboard_alone(visit: Visit) -> None:
    """Log in, join, talk, change the group, recall, and back to the raw tab."""
    ada = visit()
    tell(ada.daemon, "trade", ["iron ore"], "ada")

    def press(*keys: str) -> None:
        ActionChains(ada.driver).send_keys(*keys).perform()

    def shift(key: str) -> None:
        ActionChains(ada.driver).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()

    ada.run("document.getElementById('sign-in-user').select()")
    press("ada", Keys.TAB, "secret", Keys.ENTER)
    ada.wait("#me", "ada")
    ada.wait("#groups button", "iron ore")
    assert ada.focus() == "me"
    press(Keys.TAB, Keys.TAB)
    assert ada.focus() == "join-group"
    press("guild", Keys.ENTER)
    ada.wait("#room-title", "guild")
    assert ada.focus() == "words"
    ada.wait("#chat-status", "Connected")
    press("one")
    shift(Keys.ENTER)
    press("two", Keys.ENTER)
    ada.wait_messages(["one\ntwo"])
    ada.wait("#groups button", "one")
    shift(Keys.TAB)
    assert "Recall: one\ntwo" in str(ada.run("return document.activeElement.ariaLabel"))
    press(Keys.ENTER)
    ada.wait_messages([])
    assert ada.focus() == "scroller"
    wait_until(
        lambda: "trade" in ada.find("#groups button")[0],  # the other one is empty now
        lambda: str(ada.find("#groups button")),
    )
    ada.run("document.querySelector('#groups button[aria-current=true]').focus()")
    shift(Keys.TAB)
    press(Keys.ENTER)
    ada.wait("#room-title", "trade")
    ada.wait_messages(["iron ore"])
    ada.run("document.getElementById('tab-chat').focus()")
    press(Keys.ARROW_RIGHT)
    assert ada.focus() == "tab-raw"
    assert ada.find("#settings h2") == ["Connection"]


def test_in_chinese(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The browser's language is the page's; the switch turns all of it, messages' times too."""
    daemon = start_daemon()
    with running_browser(find_programs(), tmp_path / "profile", "zh-CN") as driver:
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


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out(ada: Person, redis: Redis, width: int) -> None:
    """Of the window or of its place, however long a name, a word, or a page of messages."""
    ada.resize(width)
    long = "long" * 32
    tell(ada.daemon, "guild", [*numbers(40), long * 4], long)
    ada.wait_message(long * 4)
    ada.run("location.hash = `#group=${arguments[0]}`", long)
    ada.wait("#room-title", long)
    ada.driver.back()
    ada.wait("#room-title", "guild")
    sizes = """
    return ["scroller", "room", "room-title", "groups"].map((id) => document.getElementById(id))
      .concat(document.documentElement)
      .filter((e) => e.checkVisibility() && getComputedStyle(e).overflowX !== "hidden")
      .map((e) => [e.id, e.scrollWidth - e.clientWidth])
    """
    assert [name for name, beyond in ada.run(sizes) if beyond > 0] == []
    page = "const page = document.documentElement; return page.scrollHeight - page.clientHeight"
    assert ada.run(page) == 0


def test_on_a_narrow_screen(ada: Person) -> None:
    """The list and the group are two views; out of sight a group has unread messages."""
    ada.resize(340)
    assert ada.find("#groups") == []
    ada.click("#back")
    ada.wait("#groups button", "guild")
    assert ada.find("#room") == []
    tell(ada.daemon, "guild", ["one", "two"])
    ada.wait("#groups .unread", "2")
    ada.click("#groups button")
    ada.wait("#room-title", "guild")
    ada.wait_messages(["one", "two"])


def test_a_token_that_was_lost(visit: Visit, redis: Redis) -> None:
    """The page asks for a login, and goes on where it was."""
    ada = visit("#group=guild", group__login_auth="true", group__auto_join="false")
    ada.log_in()
    ada.wait("#chat-status", "Only members")
    assert ada.find("#reconnect") == ["Join this group"]
    ada.click("#reconnect")
    ada.wait("#chat-status", "Connected")
    ada.say("one")
    ada.wait_messages(["one"])
    redis.delete("login:ada")
    ada.say("two")
    ada.wait("#sign-in-note", "This login has ended")
    ada.fill("sign-in-password", "x")
    ada.click("#sign-in-go")
    ada.wait("#chat-status", "Connected")
    ada.wait(".drafts li", "Not sent")
    ada.click(".drafts button")
    ada.wait_messages(["one", "two"])


def test_logins_that_fail(visit: Visit) -> None:
    """Each says why, and can be tried again."""
    ada = visit(login__hook="hook_of_tests:log_in")
    ada.log_in("wrong")
    ada.wait("#sign-in-failure", "The server says: wrong user or password")
    for server, said in (
        ("http://127.0.0.1:1", "No answer"),
        ("chat.example", "Not accepted: not a URL: chat.example"),
    ):
        ada.fill("sign-in-server", server)
        ada.log_in("right")
        ada.wait("#sign-in-failure", said)
    assert ada.focus() == "sign-in-go"
    ada.fill("sign-in-server", f"ws://{ada.daemon.address}/")
    ada.user += " "  # as phones' keyboards add it
    ada.log_in("right")
    wait_until(lambda: ada.find("#me") == ["ada"], lambda: str(ada.find("#me")))
    ada.click("#sign-out")
    ada.wait("#sign-in h2", "Log in")


def test_what_a_hook_refuses(visit: Visit) -> None:
    """The reason is shown beside the text, and read out, to the one who said it."""
    ada = visit(hooks__handler="hook_of_tests:Filter")
    ada.enter("guild")
    ada.say("a bad word")
    ada.wait(".drafts [role=alert]", "Refused: not here")
    ada.say("shout")
    ada.wait_messages(["SHOUT"])
    wait_until(lambda: len(ada.find(".drafts li")) == 1, lambda: str(ada.find(".drafts li")))
    ada.click(".drafts button")
    assert ada.find(".drafts li") == []
    ada.say("nothing at all")
    wait_until(  # by a hook that gives no reason
        lambda: ada.find(".drafts .help") == ["Refused"], lambda: str(ada.find(".drafts li"))
    )


def test_a_text_that_is_too_long(visit: Visit) -> None:
    """The page says so, and does not offer to send it again."""
    ada = visit(group_message__max_bytes="64")
    ada.enter("guild")
    ada.say("长" * 30)
    ada.wait(".drafts li", "Not sent: it is too long")
    assert ada.find(".drafts button") == ["Discard"]
    ada.wait("#chat-status", "Connected")
    ada.say("short")
    ada.wait_messages(["short"])


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
        "        if 'nothing' in message.info:\n"
        "            return None\n"
        "        return dataclasses.replace(message, info=message.info.upper())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def test_nothing_comes_from_another_host(ada: Person) -> None:
    """The page loads its own parts and nothing else, and its policy forbids more."""
    ada.say("hello")
    ada.wait_messages(["hello"])
    loaded = ada.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert f"{ada.daemon.http}/test/static/fastim.js" in loaded
    assert {address.split("/")[2] for address in loaded} == {ada.daemon.address}
    assert complaints(ada.driver) == []
    refused = ada.run("try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; }")
    assert refused == "TypeError"


# What the page asks of the server


COUNT_HISTORY = """
window.asked = 0;
const { send } = WebSocket.prototype;
WebSocket.prototype.send = function (frame) {
  if (JSON.parse(frame).history) window.asked += 1;
  send.call(this, frame);
};
"""


def test_out_of_sight_no_history_is_loaded(visit: Visit) -> None:
    """A group behind the tab Raw that connects anew does not fetch all that was ever said."""
    ada = visit()
    tell(ada.daemon, "guild", numbers(400))
    ada.enter("guild")
    ada.wait_message("number 400")
    ada.click("#tab-raw")
    ada.run(COUNT_HISTORY)
    ada.run("dispatchEvent(new Event('online'))")
    tell(ada.daemon, "guild", ["one more"])
    ada.wait_message("one more")
    ada.run("return new Promise((resolve) => setTimeout(resolve, 500))")
    assert ada.run("return window.asked") == 0
    ada.click("#tab-chat")
    script = "const s = document.getElementById('scroller');"
    below = script + "return s.scrollHeight - s.scrollTop - s.clientHeight"
    wait_until(lambda: ada.run(below) < 2, lambda: f"{ada.run(below)} px below")


def test_history_that_fails_is_asked_for_by_hand(visit: Visit) -> None:
    """However one scrolls, the server is asked again when the person says so."""
    ada = visit()
    tell(ada.daemon, "guild", numbers(200))
    ada.enter("guild")
    ada.wait_message("number 200")
    ada.run(
        """
        window.asked = 0;
        window.isBroken = true;
        const { send } = WebSocket.prototype;
        WebSocket.prototype.send = function (frame) {
          const command = JSON.parse(frame);
          if (command.history) window.asked += 1;
          if (command.history && window.isBroken) command.history.channel = "elsewhere";
          send.call(this, JSON.stringify(command));
        };
        document.getElementById("scroller").scrollTop = 0;
        """
    )
    ada.wait("#scroller .help", "could not be loaded")
    for top in (20, 0, 30, 0):
        ada.run(
            "document.getElementById('scroller').scrollTop = arguments[0];"
            "return new Promise((resolve) => setTimeout(resolve, 100))",
            top,
        )
    assert ada.run("return window.asked") == 1
    known = len(ada.messages())
    ada.run("window.isBroken = false")
    ada.click("#scroller .help button")
    wait_until(lambda: len(ada.messages()) > known, lambda: "no more")
    assert ada.focus() == "scroller"


def test_nothing_stays_of_who_has_left(ada: Person) -> None:
    """After logging out neither sockets nor elements of the groups are left."""
    driver = ada.driver

    def elements() -> int:
        driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        return int(driver.execute_cdp_cmd("Memory.getDOMCounters", {})["nodes"])

    def talk_and_leave() -> None:
        for group in ("guild", "trade"):
            tell(ada.daemon, group, numbers(100))
            ada.join(group)
            ada.wait_message("number 100")
        ada.click("#sign-out")
        ada.wait("#sign-in h2", "Log in")

    talk_and_leave()
    before = elements()
    for _ in range(2):
        ada.log_in()
        ada.wait("#me", "ada")
        talk_and_leave()
    # A hundred messages have a thousand nodes and more.
    wait_until(lambda: elements() < before + 500, lambda: f"{elements()}, not {before}")
    wait_until(
        lambda: metrics(ada.daemon)["fastimd_sockets"] == 0,
        lambda: str(metrics(ada.daemon)),
    )
    ada.user = "eve"
    ada.log_in()
    ada.wait("#no-groups", "No groups yet")


# Where one is


def test_back_forward_and_links(ada: Person) -> None:
    """The address says which group is in sight; one that is no id is told."""
    ada.join("trade")
    assert ada.run("return location.hash") == "#group=trade"
    ada.driver.back()
    ada.wait("#room-title", "guild")
    ada.driver.back()
    ada.wait("#nowhere", "Pick a group")
    ada.driver.forward()
    ada.wait("#room-title", "guild")
    ada.run("location.hash = '#group=' + encodeURIComponent('a/b 群')")
    ada.wait("#room-title", "a/b 群")
    ada.wait("#chat-status", "Connected")
    ada.run("location.hash = '#group=..'")
    ada.wait("#join-failure", "Not accepted: groupId must be")
    assert ada.find("#room") == []


def test_a_push_moves_no_row_that_need_not(ada: Person) -> None:
    """A row that is taken out and put back loses a click that is being made."""
    tell(ada.daemon, "trade", ["one"], "ada")
    ada.wait("#groups li:first-child", "one")
    ada.run(
        """
        window.moved = [];
        new MutationObserver((records) => {
          for (const { addedNodes } of records) {
            for (const row of addedNodes) window.moved.push(row.querySelector(".name").innerText);
          }
        }).observe(document.getElementById("groups"), { childList: true });
        """
    )
    tell(ada.daemon, "trade", ["two"])
    ada.wait("#groups li:first-child", "two")
    assert ada.run("return window.moved") == []
    tell(ada.daemon, "guild", ["three"])
    ada.wait("#groups li:first-child", "three")
    assert ada.run("return window.moved") == ["guild"]


# Who hears it, or sees less


def test_names_and_roles(ada: Person) -> None:
    """Each control has a name, what is current is marked, and what changes is read out once."""
    ada.join("trade")
    ada.say("hello")
    ada.wait_messages(["hello"])
    tree = ada.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""), node.get("properties", []))
        for node in tree
        if not node["ignored"]
    ]
    controls = ("button", "textbox", "tab", "tabpanel", "navigation", "region")
    named = {(role, name) for role, name, _ in nodes if role in controls}
    assert {role for role, name in named if not name} == set()
    assert named >= {
        ("tab", "Chat"),
        ("tabpanel", "Chat"),
        ("navigation", "Groups"),
        ("textbox", "Group id"),
        ("textbox", "Message"),
        ("region", "trade"),
        ("region", "Messages"),
        ("button", "Recall: hello"),
        ("button", "Send"),
    }
    assert [role for role, _, _ in nodes].count("main") == 1
    current = (
        "return [...document.querySelectorAll('[aria-current=true] .name')].map((e) => e.innerText)"
    )
    assert ada.run(current) == ["trade"]
    live = "return document.getElementById('chat-state').role"
    assert ada.run(live) == "status"


def test_an_outage_is_read_out_once(ada: Person) -> None:
    """The seconds until the next try are for the eyes; what is live says only what has changed."""
    ada.run(
        """
        window.said = [];
        const state = document.getElementById("chat-state");
        new MutationObserver(() => window.said.push(state.innerText))
          .observe(state, { childList: true, characterData: true, subtree: true });
        """
    )
    ada.daemon.process.kill()
    ada.daemon.expected_status = -9
    ada.wait("#chat-seconds", "s")
    texts = ada.find("#chat-seconds")
    wait_until(lambda: ada.find("#chat-seconds") not in ([], texts), lambda: "it stays")
    said = ada.run("return window.said")
    assert all(a != b for a, b in pairwise(said)), said
    assert set(said) <= {"Offline, trying again…", "Connecting…"}


CONTRASTS = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
const luminance = (color) => color.map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => (e
  ? over(channels(getComputedStyle(e).backgroundColor), ground(e.parentElement))
  : [255, 255, 255]);
const opacity = (e) => (e ? getComputedStyle(e).opacity * opacity(e.parentElement) : 1);
const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
return [...document.querySelectorAll("body *")]
  .filter((e) => e.checkVisibility() && hasText(e) && opacity(e) > 0)
  .map((e) => {
    const below = ground(e);
    const [r, g, b, a = 1] = channels(getComputedStyle(e).color);
    const [dark, light] = [below, over([r, g, b, a * opacity(e)], below)].map(luminance)
      .sort((x, y) => x - y);
    return [e.innerText, (light + 0.05) / (dark + 0.05)];
  });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(ada: Person, scheme: str) -> None:
    """All text stands out from its ground at 4.5 to 1 or more, WCAG's AA."""
    tell(ada.daemon, "trade", ["one"], "ada")
    for user in ("bob", "林", "eve", "mallory", "trent", "zoe", "kim", "lea", "max"):
        tell(ada.daemon, "guild", ["hello"], user)
    ada.run("for (const e of document.querySelectorAll('*')) e.style.transition = 'none'")
    emulated = [{"name": "prefers-color-scheme", "value": scheme}]
    ada.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": emulated})
    ada.lose("on its way")
    weak = [(text, ratio) for text, ratio in ada.run(CONTRASTS) if ratio < 4.5]
    kick = run_fastimd("kick", "ada", admin__bind=ada.daemon.admin.removeprefix("http://"))
    assert kick.returncode == 0, kick.stderr
    ada.wait(".drafts li", "Not sent")
    weak += [(text, ratio) for text, ratio in ada.run(CONTRASTS) if ratio < 4.5]
    ada.click("#sign-out")
    weak += [(text, ratio) for text, ratio in ada.run(CONTRASTS) if ratio < 4.5]
    ada.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert weak == []
