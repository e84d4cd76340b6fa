"""The clients of docs/CLIENTS.md: two talk while their daemon is restarted and killed under them.

Each runs as it stands in examples/clients: Python as a process, JavaScript in Chromium and, where
there is one that knows WebSocket, in Node, C# under Mono with what it uses of Unity in
``unity.cs``. There is no package of Godot 4 that could run its own. What is not on the machine is
skipped, unless ``FASTIMD_TEST_BROWSER=required`` or ``FASTIMD_TEST_MONO=required`` says that it
must be there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import NoReturn, Protocol
from urllib.parse import urlencode

import pytest
from browser import BROWSERS, running_browser
from clients import message
from conftest import Daemon, StartDaemon, wait_for
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fastimd.groups.events import EVENTS_CHANNEL

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "clients"
DOCUMENT = ROOT / "docs" / "CLIENTS.md"
MISSED = 230
"""Messages that come while a client is away: more than a greeting and two pages of history."""
SECONDS = 90.0
NODE_PROGRAM = """
import { createInterface } from "node:readline";

const [module, url, group, user, password] = process.argv.slice(1);
const { Chat } = await import(module);
const show = (m) => console.log(`${m.userId}: ${m.info}`);
const notSent = (text, why) => console.log(`not sent: ${text} (${why})`);
const chat = new Chat(url, group, user, password, show, notSent);
chat.run().catch((reason) => {
  console.error(reason.message);
  process.exit(1);
});
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => chat.say(line)).on("close", () => process.exit());
"""

HOOK = """
from dataclasses import replace

from fastimd.hooks import Refused


async def on_message(message):
    if message.info == "buy gold":
        raise Refused("no advertisements")
    if message.info == "fail":
        raise RuntimeError("a fault of the tests")
    return replace(message, info=message.info.replace("darn", "****"))
"""

JOINING_HOOK = """
attempts = []


async def authorize(user_id, token, action, group_id):
    if action == "join":
        attempts.append(user_id)
        if len(attempts) == 1:
            raise RuntimeError("a fault of the tests")
    return True
"""

pytestmark = pytest.mark.timeout(480)


class Client(Protocol):
    """A running client: what it has printed, a line a message."""

    def say(self, text: str) -> None: ...

    def lines(self) -> list[str]: ...

    def errors(self) -> str: ...


Open = Callable[[str, str, str], Client]
"""Opens a client, given the daemon's URL, the group and the user."""


class Process:
    """A client that reads lines and prints lines."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=folder
            )

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def lines(self) -> list[str]:
        whole, _, _being_written = self._out.read_text().rpartition("\n")
        return whole.splitlines()

    def errors(self) -> str:
        return self._err.read_text()

    def close(self) -> None:
        """End its input, which ends it."""
        try:
            self.process.communicate(timeout=20)
        finally:
            self.process.kill()


@contextmanager
def processes(command: list[str], folder: Path) -> Iterator[Open]:
    """Clients of one command, which gets URL, group, user and password."""
    opened: list[Process] = []

    def open_client(url: str, group: str, user: str) -> Client:
        place = folder / f"client-{len(opened)}"
        place.mkdir()
        opened.append(Process([*command, url, group, user, "secret"], place))
        return opened[-1]

    try:
        yield open_client
    except BaseException:
        for client in opened:
            client.process.kill()
        raise
    for client in opened:
        client.close()


class Page:
    """A client in a window of a browser."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self._browser = browser
        browser.switch_to.new_window("window")
        self._handle = browser.current_window_handle
        browser.get(address)

    def say(self, text: str) -> None:
        self._browser.switch_to.window(self._handle)
        self._browser.find_element(By.ID, "text").send_keys(text, Keys.ENTER)

    def lines(self) -> list[str]:
        self._browser.switch_to.window(self._handle)
        text = self._browser.find_element(By.ID, "messages").get_property("textContent")
        return str(text).splitlines()

    def errors(self) -> str:
        return str(self._browser.execute("getLog", {"type": "browser"})["value"])


class _Files(SimpleHTTPRequestHandler):
    extensions_map = {".html": "text/html", ".mjs": "text/javascript"}  # noqa: RUF012 - as there

    def log_message(self, *_: object) -> None: ...


@contextmanager
def pages(folder: Path) -> Iterator[Open]:
    """Clients in windows of a Chromium, on a page of another origin than the daemon's."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        missing("Chromium with chromedriver", "FASTIMD_TEST_BROWSER")
    with ExitStack() as stack:
        handler = partial(_Files, directory=str(EXAMPLES))
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        chromium = stack.enter_context(running_browser((browser, driver), folder, "en-US"))

        def open_page(url: str, group: str, user: str) -> Client:
            given = urlencode({"url": url, "group": group, "user": user, "password": "secret"})
            return Page(chromium, f"http://127.0.0.1:{server.server_port}/chat.html?{given}")

        yield open_page


def compiled(folder: Path) -> Path:
    """FastIM.cs, with what it uses of Unity, as a program."""
    if not shutil.which("mcs") or not shutil.which("mono"):
        missing("Mono", "FASTIMD_TEST_MONO")
    program = folder / "chat.exe"
    sources = [EXAMPLES / "FastIM.cs", ROOT / "tests" / "unity.cs"]
    libraries = ["System.Net.Http.dll", "System.Runtime.Serialization.dll", "System.Xml.dll"]
    subprocess.run(
        # Its warnings are of fields that only JsonUtility sets.
        ["mcs", "-langversion:7", "-nowarn:649", "-warnaserror", f"-out:{program}"]
        + [f"-r:{library}" for library in libraries]
        + [str(source) for source in sources],
        check=True,
        timeout=60,
    )
    return program


def node_command() -> list[str]:
    """How Node runs the client; 22 knows WebSocket, 20 if it is told to."""
    node = shutil.which("node") or "false"
    shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    version = tuple(map(int, re.findall(r"\d+", shown.stdout)))
    if version < (20, 10):
        pytest.skip("no Node with WebSocket on this machine")
    flags = ["--experimental-websocket"] if version < (22, 0) else []
    module = str(EXAMPLES / "chat.mjs")
    return [node, *flags, "--input-type=module", "-e", NODE_PROGRAM, module]


def missing(what: str, variable: str) -> NoReturn:
    if os.environ.get(variable) == "required":
        pytest.fail(f"no {what} on this machine, and {variable}=required")
    pytest.skip(f"no {what} on this machine")


@pytest.fixture(params=["python", "javascript", "node", "csharp"])
def open_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens clients of one kind."""
    folder = tmp_path / "clients"
    folder.mkdir()
    if request.param == "javascript":
        clients = pages(folder)
    elif request.param == "python":
        clients = processes([sys.executable, "-u", str(EXAMPLES / "chat.py")], folder)
    elif request.param == "node":
        clients = processes(node_command(), folder)
    else:
        clients = processes(["mono", str(compiled(folder))], folder)
    with clients as opened:
        yield opened


# Two of them


def stored(redis: Redis, group: str) -> list[str]:
    """What the group's list has, as the clients print it."""
    messages = [json.loads(entry) for entry in redis.lrange(f"gml:{group}", 0, -1)]
    return [f"{each['userId']}: {each['info']}" for each in messages]


def wait_shown(clients: list[Client], redis: Redis, group: str, texts: list[str]) -> None:
    """Wait until every text is stored, and every client shows the list: no more and no less."""

    def shown() -> bool:
        listed = stored(redis, group)
        said = [line.partition(": ")[2] for line in listed]
        return set(texts) <= set(said) and all(len(each.lines()) >= len(listed) for each in clients)

    try:
        wait_for(shown, seconds=SECONDS)
    finally:
        said = [line.partition(": ")[2] for line in stored(redis, group)]
        assert len(said) == len(set(said)), "a text was stored twice"
        for each in clients:
            assert each.lines() == stored(redis, group), each.errors()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_clients_talk_whatever_happens_to_their_daemon(
    open_client: Open, start_daemon: StartDaemon, redis: Redis
) -> None:
    """Both show each message once and in order, and each of their texts is stored once."""
    group, users = "房间 1/2", ("ann", "ben & co")
    settings = {
        "server__bind": f"127.0.0.1:{free_port()}",
        "server__drain_seconds": "1",
        "group__login_auth": "true",
        "group__auto_join": "false",
        "group_message__list_num": "7",
    }
    redis.rpush(f"gml:{group}", *(message(ts, group=group, info=f"old {ts}") for ts in (1, 2, 3)))
    daemon = start_daemon(**settings)
    clients = [open_client(daemon.http, group, user) for user in users]
    wait_shown(clients, redis, group, ["old 3"])
    texts: list[str] = []

    def say(text: str) -> None:
        for number, client in enumerate(clients):
            texts.append(f"{text} 你好 {number}")
            client.say(texts[-1])

    say("hello")
    wait_shown(clients, redis, group, texts)
    for number in (signal.SIGTERM, signal.SIGKILL):
        say(f"just before {number}")
        daemon.expected_status = -number if number == signal.SIGKILL else 0
        daemon.stop(number)
        for each in range(3):
            say(f"{each} after {number}")
        last = json.loads(redis.lrange(f"gml:{group}", -1, -1)[0])["ts"]
        redis.rpush(
            f"gml:{group}",
            *(message(last + n, group=group, info=f"{number} {n}") for n in range(1, MISSED + 1)),
        )
        daemon = start_daemon(**settings)
        say(f"back after {number}")
        wait_shown(clients, redis, group, texts)


def test_a_client_whose_token_was_replaced_logs_in_again(
    open_client: Open, start_daemon: StartDaemon, redis: Redis
) -> None:
    """It is told 440, gets a new token, and says what it had to say."""
    daemon = start_daemon(group__login_auth="true")
    client = open_client(daemon.http, "1", "ann")
    client.say("first")
    wait_shown([client], redis, "1", ["first"])
    redis.set("login:ann", "another")
    client.say("second")
    wait_shown([client], redis, "1", ["first", "second"])


def test_a_user_id_may_be_of_any_script(
    open_client: Open, daemon: Daemon, redis: Redis, request: pytest.FixtureRequest
) -> None:
    """In a path, a form and a header; but for HttpClient, and then the client says so."""
    client = open_client(daemon.http, "1", "小明")
    if "csharp" in request.node.name:
        wait_for(lambda: "ASCII" in client.errors(), seconds=SECONDS)
        return
    client.say("你好")
    wait_shown([client], redis, "1", ["你好"])


def test_a_client_stops_when_there_is_no_use(open_client: Open, daemon: Daemon) -> None:
    """It tells why: here that its group's id is none."""
    client = open_client(daemon.http, "\u202egroup", "ann")
    wait_for(lambda: "groupId" in client.errors() + "".join(client.lines()), seconds=SECONDS)
    assert len(daemon.events("http.request")) <= 4


def test_a_client_lives_with_a_hook(
    open_client: Open,
    start_daemon: StartDaemon,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is refused is told with its reason; that and what is changed is not said again."""
    (tmp_path / "clients_hook.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = {
        "server__bind": f"127.0.0.1:{free_port()}",
        "server__drain_seconds": "1",
        "hooks__handler": "clients_hook",
    }
    daemon = start_daemon(**settings)
    client = open_client(daemon.http, "1", "ann")
    said = ["darn it", "buy gold", "darn it", "plain", "fail", "last"]
    for text in said:
        client.say(text)
    expected = [
        *("ann: **** it", "ann: **** it", "ann: last", "ann: plain"),
        *("not sent: buy gold (no advertisements)", "not sent: fail (暂时无法服务 (try again))"),
    ]
    wait_for(lambda: sorted(client.lines()) == expected, seconds=SECONDS)
    daemon.stop()
    daemon = start_daemon(**settings)
    client.say("back")
    wait_for(lambda: "ann: back" in client.lines(), seconds=SECONDS)
    client.say("buy gold")
    wait_for(lambda: len(client.lines()) == len(expected) + 2, seconds=SECONDS)
    assert client.lines()[-1].startswith("not sent: buy gold")
    assert stored(redis, "1") == [
        f"ann: {each}" for each in ("**** it", "**** it", "plain", "last", "back")
    ]


def test_a_client_joins_though_its_first_attempt_fails(
    open_client: Open,
    start_daemon: StartDaemon,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a token by then, and tries the rest of its login again."""
    (tmp_path / "joining_hook.py").write_text(JOINING_HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    daemon = start_daemon(hooks__handler="joining_hook", group__auto_join="false")
    client = open_client(daemon.http, "1", "ann")
    client.say("hello")
    wait_shown([client], redis, "1", ["hello"])


def test_a_client_says_again_what_was_not_stored(
    open_client: Open, start_daemon: StartDaemon, redis: Redis
) -> None:
    """Redis takes nothing for a while: close 1013, and in the end each text is stored once."""
    daemon = start_daemon(redis__hold_seconds="1")
    client = open_client(daemon.http, "1", "ann")
    client.say("first")
    wait_shown([client], redis, "1", ["first"])
    redis.config_set("maxmemory", 1)
    try:
        client.say("second")
        wait_for(lambda: 1013 in closes(daemon), seconds=SECONDS)
        client.say("third")
    finally:
        redis.config_set("maxmemory", 0)
    wait_shown([client], redis, "1", ["first", "second", "third"])


def test_a_client_that_is_kicked_stays_away(
    open_client: Open, daemon: Daemon, redis: Redis
) -> None:
    """It tells why, and does not connect again."""
    client = open_client(daemon.http, "1", "ann")
    client.say("first")
    wait_shown([client], redis, "1", ["first"])
    redis.publish(EVENTS_CHANNEL, '{"group":"","user":"ann","kick":true}')
    wait_for(lambda: "kicked" in client.errors() + "".join(client.lines()), seconds=SECONDS)
    with suppress(BrokenPipeError):  # it has ended already
        client.say("second")
    wait_for(lambda: closes(daemon) == [1008], daemon)
    assert len(daemon.events("socket.opened")) == 1
    assert stored(redis, "1") == ["ann: first"]


def closes(daemon: Daemon) -> list[int]:
    """The codes with which sockets were closed."""
    return [event["code"] for event in daemon.events("socket.closed")]


class _Relay(BaseRequestHandler):
    """A connection to a daemon; the first handshake of a chat goes no further."""

    _is_silent = False

    def handle(self) -> None:
        with socket.create_connection(self._relays.daemon_address) as daemon:
            answers = threading.Thread(target=self._pass_on, args=(daemon, self.request))
            answers.start()
            self._pass_on(self.request, daemon)
            answers.join()

    @property
    def _relays(self) -> _Relays:
        assert isinstance(self.server, _Relays)
        return self.server

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if data.startswith(b"GET /group/chat/"):
                    self._is_silent = self._relays.swallows()
                if not self._is_silent:
                    sink.sendall(data)
            if not self._is_silent:  # else the client would hear that the daemon lost patience
                sink.shutdown(socket.SHUT_WR)


class _Relays(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, daemon: Daemon) -> None:
        host, _, port = daemon.address.rpartition(":")
        self.daemon_address = host, int(port)
        self._first = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Relay)

    def swallows(self) -> bool:
        return self._first.acquire(blocking=False)


def test_a_client_leaves_a_connection_that_stays_silent(
    open_client: Open, daemon: Daemon, redis: Redis
) -> None:
    """It waits some seconds for a greeting, as on a network that takes bytes nowhere."""
    with _Relays(daemon) as relays:
        threading.Thread(target=relays.serve_forever).start()
        try:
            port = relays.server_address[1]
            client = open_client(f"http://127.0.0.1:{port}", "1", "ann")
            client.say("hello")
            wait_shown([client], redis, "1", ["hello"])
        finally:
            relays.shutdown()


# The document


def test_the_document_shows_the_files() -> None:
    """Each file stands in docs/CLIENTS.md once, as it is, under its name."""
    blocks = re.findall(
        r"^\[`(\S+)`\]\(\.\./examples/clients/\1\).*?\n```\w+\n(.*?)^```$",
        DOCUMENT.read_text(),
        re.M | re.S,
    )
    assert sorted(blocks) == sorted((path.name, path.read_text()) for path in EXAMPLES.iterdir())
