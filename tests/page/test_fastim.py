"""fastim.js by itself, in a page of somebody else's, on real daemons."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import wait_until
from clients import RawClient, message
from conftest import Daemon, StartDaemon
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "fastimd" / "page"
MOST_MISSED = 2000  # as in fastim-history.js
HOOKS = """
from fastimd.hooks import Refused

class Handler:
    def authorize(self, user_id, token, action, group_id):
        if group_id == "closed":
            raise Refused("members of the guild only")
        return True

    def on_message(self, message):
        if message.info == "bad":
            raise Refused("not here")
        if message.info == "broken":
            raise RuntimeError
        return message
"""
# What a script may use: `lab` stays from one to the next; `visit` opens a group and notes all that
# it tells; `shut` keeps Ada away until `open`, and `frames` are what came on her sockets; the text
# that is sent after `loseNext` reaches nobody, and the answer after `loseAnswer` is not heard.
PRELUDE = """
const [address, given, done] = arguments;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const until = async (condition) => { while (!condition()) await sleep(20); };
const lab = (window.lab ??= { sockets: [], frames: [], isShut: false });
if (!lab.Real) {
  lab.Real = WebSocket;
  window.WebSocket = class extends WebSocket {
    constructor(url) {
      super(url);
      this.addEventListener("message", ({ data }) => {
        if (this.isAda) lab.frames.push(data);
      });
    }
    send(frame) {
      if (frame.includes('"connect"') && frame.includes('"ada"')) {
        this.isAda = true;
        lab.sockets.push(this);
      }
      const isText = frame.includes('"method":"send"');
      const isHistory = frame.includes('"history"');
      if (this.isAda && lab.isShut) this.close();
      else if (this.isAda && isHistory && lab.beforeHistory) {
        lab.beforeHistory().then(() => super.send(frame));
        lab.beforeHistory = null;
      }
      else if (isText && lab.losesText) lab.losesText = false;
      else super.send(frame);
      if (isText && lab.losesAnswer) this.close();
      if (isText) lab.losesAnswer = false;
    }
  };
}
const shut = () => { lab.isShut = true; for (const socket of lab.sockets) socket.close(); };
const loseNext = () => { lab.losesText = true; };
const loseAnswer = () => { lab.losesAnswer = true; };
const open = (group) => { lab.isShut = false; group.reconnect(); };
const errorOf = (act) => { try { act(); } catch (e) { return [e.name, e.code, e.msg]; } };
(async () => {
  const { FastIM, FastIMError } = await import(`${address}/test/static/fastim.js`);
  const visit = async (userId, groupId, language) => {
    const im = new FastIM({ url: address, userId, language });
    await im.login("x");
    const group = im.join(groupId), told = [];
    const note = (type, show) => {
      group.addEventListener(type, ({ detail }) => told.push([type, show(detail)]));
    };
    note("message", ({ info }) => info);
    note("greeting", (list) => list.map(({ info }) => info));
    note("reset", () => null);
    note("removed", ({ first, last, userId }) => [last - first, userId]);
    note("gap", ({ missed }) => missed);
    note("refused", ({ code, msg, reason, text }) => [code, msg, reason, text]);
    note("draft", ({ text, state, reason }) => [text, state, reason]);
    await until(() => group.state !== "connecting");
    return { im, group, told };
  };
  %s
})().then(done, (error) => done(`failed: ${error.stack}`));
"""


@pytest.fixture
def game(tmp_path: Path) -> Iterator[str]:
    """A web server of somebody else's, with an empty page."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    (tmp_path / "index.html").write_text("<!doctype html><title>a game</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


Run = Callable[..., Any]


@pytest.fixture
def run(browser: webdriver.Chrome, game: str) -> Run:
    """Runs a script's body, which knows the prelude, in the game's page; gives what it returns."""
    browser.set_script_timeout(40)
    browser.get(game)

    def run_script(daemon: Daemon, script: str, given: Any = None) -> Any:
        return browser.execute_async_script(PRELUDE % script, daemon.http, given)

    return run_script


@pytest.fixture
def hooked_daemon(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    """One that refuses the group "closed", and the text "bad"; "broken" breaks its hook."""
    (tmp_path / "hook_of_tests.py").write_text(HOOKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return start_daemon(hooks__handler="hook_of_tests:Handler")


def test_a_page_of_another_origin(start_daemon: StartDaemon, run: Run) -> None:
    """A game's page takes the library from the daemon, and chats."""
    found = run(
        start_daemon(group_list__update_rate="0.1"),
        """
        const im = new FastIM({ url: address, userId: "ada" });
        await im.login("x");
        const group = im.join("guild");
        const heard = [], drafts = [];
        group.addEventListener("message", ({ detail }) => heard.push(detail.info));
        const note = ({ detail: { text, state } }) => drafts.push(`${text} ${state}`);
        group.addEventListener("draft", note);
        let total = 0;
        im.watchGroups().addEventListener("groups", ({ detail }) => {
          if (detail[0]?.newMessage?.info === "two") total = detail[0].total;
        });
        group.send("one");
        group.send("two");
        await until(() => heard.length === 2 && total);
        const [newest] = await im.listMessage("guild", -1, -1);
        const older = (await group.history(newest)).map(({ info }) => info);
        await group.recall(newest);
        let code = null;
        try {
          await group.recall(newest);
        } catch (error) {
          code = error instanceof FastIMError && error.code;
        }
        im.close();
        return { heard, drafts, total, older, code, state: group.state };
        """,
    )
    assert found == {
        "heard": ["one", "two"],
        "drafts": [
            *("one queued", "two queued", "one sending", "two sending"),
            *("one sent", "two sent"),
        ],
        "total": 2,
        "older": ["one"],
        "code": 404,
        "state": "closed",
    }


def test_the_example_of_the_document(
    start_daemon: StartDaemon, browser: webdriver.Chrome, game: str, tmp_path: Path
) -> None:
    """docs/FASTIM_JS.md begins with a page that chats, as it stands there."""
    daemon = start_daemon()
    document = (ROOT / "docs" / "FASTIM_JS.md").read_text()
    example = document.partition("```html\n")[2].partition("```")[0]
    for file in PAGE.glob("fastim*.js"):
        shutil.copy(file, tmp_path)
    (tmp_path / "index.html").write_text(example.replace("http://127.0.0.1:9000", daemon.http))
    browser.get(game)
    with RawClient(daemon.address, "/group/chat/1/bob/t") as bob:
        bob.say("good morning")

    def lines() -> str:
        return browser.find_element(By.ID, "messages").text

    wait_until(lambda: lines() == "bob: good morning", lines)
    browser.find_element(By.ID, "text").send_keys("hello", Keys.ENTER)
    wait_until(lambda: lines() == "bob: good morning\nada: hello", lines)


def test_what_it_does_not_accept(start_daemon: StartDaemon, run: Run) -> None:
    """A bad address, id or text is an error that names it, not a connection tried for ever."""
    found = run(
        start_daemon(),
        """
        const fine = { url: address, userId: "ada" };
        const make = (options) => errorOf(() => new FastIM({ ...fine, ...options }));
        const im = new FastIM({ url: address, userId: "林 3" });
        const group = im.join(7);
        const bad = ["", " a", "a\\n", "..", "\\u202eb", "x".repeat(129), undefined, {}];
        const found = {
          url: make({ url: "nowhere" }),
          scheme: make({ url: "gopher://x" }),
          users: bad.map((userId) => make({ userId })),
          groups: bad.map((groupId) => errorOf(() => im.join(groupId))),
          texts: ["", undefined, 7].map((text) => errorOf(() => group.send(text))),
          fine: [make({ userId: 7 }), make({ userId: "😀".repeat(128) }), group.groupId],
        };
        im.close();
        return found;
        """,
    )
    rule = "must be 1 to 128 printable characters"
    assert found["url"] == ["FastIMError", 1, "not a URL: nowhere"]
    assert found["scheme"] == ["FastIMError", 1, "neither http(s): nor ws(s): gopher://x"]
    for name, errors in (("userId", found["users"]), ("groupId", found["groups"])):
        assert all(msg.startswith(f"{name} {rule}") for _, _, msg in errors), errors
    assert found["texts"] == [["FastIMError", 1, "an empty text, or none"]] * 3
    assert found["fine"] == [None, None, "7"]


def test_what_is_closed_stays_closed(start_daemon: StartDaemon, run: Run) -> None:
    """After `close` there is no socket, no timer, no event; a new group takes its place."""
    found = run(
        start_daemon(),
        """
        const timers = new Set();
        const begin = setInterval, end = clearInterval;
        window.setInterval = (...a) => { const id = begin(...a); timers.add(id); return id; };
        window.clearInterval = (id) => { timers.delete(id); end(id); };
        const { im, group, told } = await visit("ada", "guild");
        // The groups are being asked for when the list is closed.
        let isTold = false;
        im.watchGroups().addEventListener("groups", () => { isTold = true; });
        const before = [timers.size, lab.sockets.map((s) => s.readyState)];
        im.close();
        await sleep(300);
        const draft = group.send("too late");
        const error = errorOf(() => group.reconnect());
        const isNew = im.join("guild") !== group;
        im.close();
        await until(() => lab.sockets.every((s) => s.readyState === WebSocket.CLOSED));
        const { state, reason } = draft;
        return { before, after: timers.size, isTold, error, isNew, draft: [state, reason] };
        """,
    )
    assert found == {
        "before": [2, [1]],
        "after": 0,
        "isTold": False,
        "error": ["FastIMError", 1, "it was closed: open a new one"],
        "isNew": True,
        "draft": ["unsent", "closed by the client"],
    }


def test_a_listener_may_close_at_any_event(start_daemon: StartDaemon, run: Run) -> None:
    """Closed within an event of the greeting, a group stays closed."""
    daemon = start_daemon()
    found = run(
        daemon,
        """
        const { im } = await visit("bob", "guild");
        const group = im.join("other");
        group.addEventListener("greeting", () => group.close());
        await until(() => group.state !== "connecting");
        await sleep(100);
        im.close();
        return [group.state, group.reason];
        """,
    )
    assert found == ["closed", "closed by the client"]


@pytest.mark.parametrize(
    ("language", "later"), [(None, "internal server error"), ("zh", "暂时无法服务")]
)
def test_refusals(hooked_daemon: Daemon, run: Run, language: str | None, later: str) -> None:
    """What a hook refuses is told with its reason; one that has failed is asked for a minute."""
    found = run(
        hooked_daemon,
        """
        const { im, group, told } = await visit("ada", "guild", given ?? undefined);
        group.send("bad");
        const broken = group.send("broken");
        await until(() => told.some(([type]) => type === "refused"));
        const state = broken.state;
        const { now } = Date;
        Date.now = () => now() + 61_000;
        await until(() => broken.state === "unsent");
        Date.now = now;
        const [{ msg }] = group.drafts;
        im.close();
        return { state, msg, told: told.filter(([type]) => type !== "greeting") };
        """,
        language,
    )
    assert [detail for kind, detail in found["told"] if kind == "refused"] == [
        [103, "not here", "not here", "bad"]
    ]
    drafts = [detail for kind, detail in found["told"] if kind == "draft"]
    assert ["bad", "refused", "not here"] in drafts
    assert ["broken", "unsent", later] in drafts
    assert (found["state"], found["msg"]) == ("sending", "internal server error")


def test_a_close_for_good(hooked_daemon: Daemon, run: Run) -> None:
    """1008 is final, whatever the reason: a hook's own words are, and nothing is tried again."""
    found = run(
        hooked_daemon,
        """
        const { im, group } = await visit("ada", "closed");
        const state = [group.state, group.reason];
        const { state: draft, reason } = group.send("hello");
        await sleep(1500);
        im.close();
        return { state, draft, reason, sockets: lab.sockets.length };
        """,
    )
    reason = "members of the guild only"
    expected = {"state": ["closed", reason], "draft": "unsent", "reason": reason, "sockets": 1}
    assert found == expected


def test_a_lost_token(start_daemon: StartDaemon, run: Run, redis: Redis) -> None:
    """It is told once for what was closed, and the next login opens all of it again."""
    daemon = start_daemon(group__login_auth="true")
    run(
        daemon,
        """
        const { im, group, told } = await visit("ada", "guild");
        im.addEventListener("login", () => told.push(["login"]));
        Object.assign(lab, { im, group, told });
        """,
    )
    redis.delete("login:ada")
    found = run(
        daemon,
        """
        const { im, group, told } = lab;
        group.send("hello");
        await until(() => group.state === "closed");
        const reason = group.reason;
        await im.login("x");
        await until(() => group.state === "connected");
        group.sendAgain(group.drafts[0]);
        await until(() => told.some(([type]) => type === "message"));
        im.close();
        return { reason, logins: told.filter(([type]) => type === "login").length };
        """,
    )
    assert found == {"reason": "login required", "logins": 1}


def test_a_text_is_said_once(start_daemon: StartDaemon, run: Run) -> None:
    """It is sent again after a break, whether it or the answer was lost, and is there once."""
    found = run(
        start_daemon(),
        """
        const { im, group, told } = await visit("ada", "guild");
        const drafts = [];
        for (const lose of [loseNext, loseAnswer]) {
          lose();
          drafts.push(group.send("ok"), group.send("ok"));
          shut();
          await until(() => group.state !== "connected");
          open(group);
          await until(() => drafts.every(({ state }) => state === "sent"));
        }
        await until(() => told.filter(([type]) => type === "message").length === 4);
        const stored = await im.listMessage("guild", 0, -1);
        const times = drafts.map(({ message }) => message.ts);
        im.close();
        return {
          stored: stored.length, heard: told.filter(([type]) => type === "message").length,
          isSame: stored.every(({ ts }) => times.includes(ts)), left: group.drafts.length,
        };
        """,
    )
    assert found == {"stored": 4, "heard": 4, "isSame": True, "left": 0}


def test_a_text_that_is_unsent_is_not_said_twice(start_daemon: StartDaemon, run: Run) -> None:
    """A server that had it knows it again when the user sends it again."""
    found = run(
        start_daemon(),
        """
        const { im, group, told } = await visit("ada", "guild");
        loseAnswer();
        const draft = group.send("ok");
        await until(() => lab.losesAnswer === false);
        lab.isShut = true;
        const { now } = Date;
        Date.now = () => now() + 61_000;
        await until(() => draft.state === "unsent");
        Date.now = now;
        const { reason } = draft;
        open(group);
        await until(() => group.state === "connected");
        const next = group.sendAgain(draft);
        await until(() => next.state === "sent");
        const stored = (await im.listMessage("guild", 0, -1)).map(({ info }) => info);
        im.close();
        return { reason, stored, heard: told.filter(([type]) => type === "message").length };
        """,
    )
    assert found == {"reason": "connection lost", "stored": ["ok"], "heard": 1}


def test_a_text_that_is_too_long(start_daemon: StartDaemon, run: Run) -> None:
    """It is refused, also where its frame breaks the connection; what was sent with it is said."""
    found = run(
        start_daemon(group_message__max_bytes="64"),
        """
        const { im, group, told } = await visit("ada", "guild");
        const long = group.send("长".repeat(30));
        const short = group.send("short");
        await until(() => long.state === "refused" && short.state === "sent");
        const endless = group.send("x".repeat(100_000));
        const next = group.send("next");
        await until(() => endless.state === "refused" && next.state === "sent");
        im.close();
        return [long.reason, endless.reason.replace(/\\d+/, "N")];
        """,
    )
    assert found == ["limit exceeded", "more than N bytes"]


SAY = """
        const bob = await visit("bob", "guild");
        const say = async (text) => {
          bob.group.send(text);
          await until(() => bob.told.some(([type, info]) => type === "message" && info === text));
        };
"""


def test_what_was_missed_comes_with_the_connection(start_daemon: StartDaemon, run: Run) -> None:
    """Each message once and in order, and what was taken back meanwhile."""
    found = run(
        start_daemon(),
        """
        const { im, group, told } = await visit("ada", "guild");
        """
        + SAY
        + """
        await say("first");
        await say("second");
        await until(() => told.length === 3);
        const [first] = await bob.im.listMessage("guild", 0, 0);
        shut();
        await until(() => group.state !== "connected");
        for (const number of [1, 2, 3]) await say(`missed ${number}`);
        await bob.group.recall(first);
        open(group);
        await until(() => told.length === 7);
        await say("live");
        await until(() => told.length === 8);
        im.close();
        bob.im.close();
        return told;
        """,
    )
    assert ["removed", [0, None]] in found[3:7]
    assert [text for kind, text in found if kind == "message"] == [
        *("first", "second"),
        *("missed 1", "missed 2", "missed 3"),
        "live",
    ]
    assert found[:1] == [["greeting", []]]


def test_live_messages_wait_for_what_was_missed(start_daemon: StartDaemon, run: Run) -> None:
    """Where the server cannot tell what was missed, the history can, before what is said now."""
    found = run(
        start_daemon(live__recover_limit="2"),
        """
        const { im, group, told } = await visit("ada", "guild");
        """
        + SAY
        + """
        await say("first");
        await until(() => told.length === 2);
        shut();
        await until(() => group.state !== "connected");
        for (let number = 1; number <= 170; number += 1) await say(`missed ${number}`);
        lab.beforeHistory = async () => {
          await say("live");
          await until(() => lab.frames.some((frame) => frame.includes('"live"')));
        };
        open(group);
        await until(() => told.some(([, info]) => info === "live"));
        await until(() => group.state === "connected");
        im.close();
        bob.im.close();
        return told;
        """,
    )
    missed = [f"missed {number}" for number in range(1, 171)]
    assert found == [
        ["greeting", []],
        ["message", "first"],
        *(["message", text] for text in [*missed, "live"]),
        ["greeting", [*missed, "live"][-50:]],
    ]


def test_too_much_was_missed(start_daemon: StartDaemon, run: Run, redis: Redis) -> None:
    """Of more messages than are worth fetching only the newest are told, after `reset`."""
    daemon = start_daemon()
    run(
        daemon,
        """
        const { im, group, told } = await visit("ada", "guild");
        group.send("first");
        await until(() => told.some(([type]) => type === "message"));
        shut();
        await until(() => group.state !== "connected");
        Object.assign(lab, { im, group, told });
        """,
    )
    now = int(time.time() * 1000) + 1000
    count = MOST_MISSED + 150
    missed = [message(now + n, group="guild", user="bob", info=str(n)) for n in range(count)]
    redis.rpush("gml:guild", *missed)
    found = run(
        daemon,
        """
        const { im, group, told } = lab;
        told.length = 0;
        open(group);
        await until(() => group.state === "connected");
        im.close();
        return told;
        """,
    )
    last = [str(count - n) for n in range(50, 0, -1)]
    assert found == [["reset", None], *(["message", info] for info in last), ["greeting", last]]


def test_who_is_here_and_types(start_daemon: StartDaemon, run: Run) -> None:
    """Who comes and goes is told, on another daemon too; so is who types, until it is said."""
    first, second = start_daemon(), start_daemon()
    found = run(
        first,
        """
        const { im, group } = await visit("ada", "guild");
        const here = () => group.present.users?.join() ?? "";
        const types = [];
        group.addEventListener("typing", ({ detail }) => types.push(detail));
        await until(() => here() === "ada");
        const bob = new FastIM({ url: given, userId: "bob" });
        await bob.login("x");
        const his = bob.join("guild");
        await until(() => here() === "ada,bob" && his.state === "connected");
        his.type();
        his.type();
        await until(() => types.length === 1);
        his.send("hello");
        await until(() => types.length === 2);
        const members = await group.members();
        const count = group.present.count;
        bob.close();
        await until(() => here() === "ada");
        im.close();
        return { members, count, types };
        """,
        second.http,
    )
    assert found == {"members": ["ada", "bob"], "count": 2, "types": [["bob"], []]}


def test_a_server_that_does_not_tell_who_is_here(start_daemon: StartDaemon, run: Run) -> None:
    """`present` says so, and all else works."""
    found = run(
        start_daemon(presence__enabled="false"),
        """
        const { im, group, told } = await visit("ada", "guild");
        await until(() => !group.present.isAvailable);
        group.type();
        const draft = group.send("hello");
        await until(() => draft.state === "sent");
        const code = await group.members().catch((error) => error.code);
        im.close();
        return { present: group.present, code };
        """,
    )
    assert found == {"present": {"count": None, "users": None, "isAvailable": False}, "code": 108}


def test_the_list_counts_what_is_unread(start_daemon: StartDaemon, run: Run) -> None:
    """Live, in groups that were never opened too, until it is read; a recall is not counted."""
    found = run(
        start_daemon(),
        """
        const { im, group } = await visit("ada", "guild");
        """
        + SAY
        + """
        let list = [];
        const other = new FastIM({ url: address, userId: "ada" });
        await other.login("x");
        other.watchGroups().addEventListener("groups", ({ detail }) => { list = detail; });
        const unread = () => list[0]?.unread;
        await until(() => list.length === 1);
        await say("one");
        await say("two");
        await until(() => unread() === 2);
        const { newMessage: { info, ts }, total } = list[0];
        await bob.group.recall({ ts });
        await until(() => unread() === 1);
        await say("three");
        await until(() => unread() === 2);
        const opened = other.join("guild");
        await until(() => opened.state === "connected");
        opened.read(list[0].newMessage.ts);
        const after = unread();
        await sleep(300);
        im.watchGroups().addEventListener("groups", ({ detail }) => { list = detail; });
        list = [];
        await until(() => list.length === 1);
        for (const each of [im, bob.im, other]) each.close();
        return { info, total, after, kept: unread() };
        """,
    )
    assert found == {"info": "two", "total": 2, "after": 0, "kept": 0}


def test_the_list_leaves_room_for_groups(start_daemon: StartDaemon, run: Run) -> None:
    """A group opens, though the list follows as many as a connection may."""
    found = run(
        start_daemon(live__max_subscriptions="2"),
        """
        const im = new FastIM({ url: address, userId: "ada" });
        await im.login("x");
        for (const groupId of ["1", "2", "3", "4"]) await im.joinGroup(groupId);
        let list = [];
        im.watchGroups().addEventListener("groups", ({ detail }) => { list = detail; });
        await until(() => list.length === 4);
        await sleep(200);
        const groups = [];
        for (const groupId of ["3", "4"]) {
          const group = im.join(groupId);
          await until(() => ["connected", "closed"].includes(group.state));
          groups.push(group.state);
        }
        const third = im.join("1");
        await until(() => third.state === "closed");
        groups.push(third.reason);
        im.close();
        return groups;
        """,
    )
    assert found == ["connected", "connected", "too many groups"]


def test_too_many_groups(start_daemon: StartDaemon, run: Run) -> None:
    """It is told from "already a member", and a socket that is closed for it stays so."""
    found = run(
        start_daemon(group__max_joined="1"),
        """
        const im = new FastIM({ url: address, userId: "ada" });
        await im.login("x");
        const joined = [await im.joinGroup("1"), await im.joinGroup("1")];
        joined.push(await im.leaveGroup("1"), await im.leaveGroup("1"), await im.joinGroup("1"));
        let error = null;
        await im.joinGroup("2").catch(({ code, msg }) => { error = [code, msg]; });
        const group = im.join("2");
        await until(() => group.state === "closed");
        const { reason } = group;
        im.close();
        return { joined, error, reason };
        """,
    )
    assert found == {
        "joined": [True, False, True, False, True],
        "error": [100, "加入的群组过多 (too many groups)"],
        "reason": "too many groups",
    }
