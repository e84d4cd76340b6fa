"""What systemd passes on and is told: sockets that outlive the daemon, its state, its pulse."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from clients import CLOSE, Frame, RawClient, dial, opening
from conftest import StartDaemon, run_daemon, wait_for
from redis import Redis

LAUNCHER = """
import os, sys, fcntl
names, descriptors = sys.argv[1], sys.argv[2].split(",")
kept = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in descriptors]
for number, descriptor in enumerate(kept, 3):
    os.dup2(descriptor, number)
    os.close(descriptor)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(kept))}
os.environ |= {"LISTEN_FDNAMES": names} if names else {}
os.execv(sys.argv[3], sys.argv[3:])
"""


def passing(*sockets: socket.socket, names: str = "") -> list[str]:
    """A launcher that passes sockets on as systemd does."""
    for each in sockets:
        os.set_inheritable(each.fileno(), True)
    numbers = ",".join(str(each.fileno()) for each in sockets)
    return [sys.executable, "-c", LAUNCHER, names, numbers]


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Three that listen, and nobody accepts."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


# Sockets that are passed on


def test_named_sockets_are_served(
    start_daemon: StartDaemon, listeners: list[socket.socket]
) -> None:
    """Each by its kind, several of one kind too, whatever the settings say."""
    launcher = passing(*listeners, names="http:admin:http")
    daemon = start_daemon(launcher=launcher, admin__bind="")
    assert (daemon.address, daemon.admin) == (
        address(listeners[0]),
        f"http://{address(listeners[1])}",
    )
    for listener in (listeners[0], listeners[2]):
        with RawClient(address(listener), "/group/chat/1/1/t") as client:
            assert '"list"' in client.next_text()
    with urllib.request.urlopen(f"{daemon.admin}/health/live", timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("names", ["", "fastimd.socket"])
def test_a_single_socket_is_the_public_one(
    start_daemon: StartDaemon, listeners: list[socket.socket], names: str
) -> None:
    """A unit that names none gives it the unit's name."""
    daemon = start_daemon(launcher=passing(listeners[0], names=names))
    assert daemon.address == address(listeners[0])


def test_a_unix_socket_is_served(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """For a proxy on the same machine."""
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen()
        daemon = start_daemon(launcher=passing(listener))
        assert daemon.events("daemon.serving")[0]["page"] == f"unix:{path}/test/websocket"
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(opening("/group/chat/1/1/t"))
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("names", "mistake"),
    [
        ("http:metrics", "a socket named 'metrics'; FileDescriptorName= is http or admin"),
        ("http:admin", "descriptor 4 (admin) of systemd: not a listening socket"),
    ],
)
def test_sockets_that_mean_nothing(
    tmp_path: Path, redis_url: str, listeners: list[socket.socket], names: str, mistake: str
) -> None:
    """The daemon does not start, and says which and why."""
    with socket.socket() as deaf:
        passed = listeners[:2] if "metrics" in names else [listeners[0], deaf]
        launcher = passing(*passed, names=names)
        daemon = run_daemon(tmp_path, redis_url, wait_serving=False, launcher=launcher)
        assert daemon.process.wait(20) == 78
    assert mistake in daemon.log_path.read_text()


def test_sockets_for_another_process_are_left_alone(
    start_daemon: StartDaemon, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper's variables are not ours."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert start_daemon().address != address(listeners[0])


# What systemd is told


def next_told(notify_socket: socket.socket, word: bytes) -> bytes:
    while word not in (told := notify_socket.recv(1000)):
        pass
    return told


def test_a_status_for_people(
    start_daemon: StartDaemon, notify_socket: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets, groups and messages a second; or what is missing."""
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    daemon = start_daemon()
    with RawClient(daemon.address, "/group/chat/1/1/t") as client:
        client.next_text()
        for text in map(str, itertools.count()):
            client.say(text)
            client.next_text()
            told = next_told(notify_socket, b"STATUS=") if text.endswith("00") else b""
            if b"1 sockets in 1 groups, " in told and b", 0 messages/s" not in told:
                break
    assert b"messages/s\nWATCHDOG=1" in told


def test_the_status_is_told_when_the_daemon_serves(
    start_daemon: StartDaemon, notify_socket: socket.socket
) -> None:
    """Who asks systemd right after the start is not told that it is starting."""
    start_daemon()
    assert notify_socket.recv(1000).startswith(b"STATUS=")
    next_told(notify_socket, b"READY=1")
    assert notify_socket.recv(1000) == b"STATUS=0 sockets in 0 groups, 0 messages/s"


def test_a_loop_that_stands_still_gives_no_sign_of_life(
    start_daemon: StartDaemon,
    notify_socket: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pulse comes from the loop itself, three times in the watchdog's time."""
    (tmp_path / "blocking_hook.py").write_text(
        "import time\n\n\nasync def log_in(user, password):\n    time.sleep(3)\n    return user\n"
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    daemon = start_daemon(login__hook="blocking_hook:log_in")
    next_told(notify_socket, b"WATCHDOG=1")
    with closing(dial(daemon.address)) as client:
        client.sendall(
            b"POST /user/login HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nuserId=1&password=1"
        )
        time.sleep(0.5)
        notify_socket.setblocking(False)
        while True:
            try:
                notify_socket.recv(1000)
            except BlockingIOError:
                break
        notify_socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            notify_socket.recv(1000)
        notify_socket.settimeout(15)
        next_told(notify_socket, b"WATCHDOG=1")


def test_a_deaf_systemd_ends_nothing(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notify socket to which nobody listens is logged, and the daemon serves."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    daemon = start_daemon()
    wait_for(lambda: daemon.events("systemd.not_told"), daemon)
    with RawClient(daemon.address, "/group/chat/1/1/t") as client:
        assert '"list"' in client.next_text()


# Rolling restarts

RESTARTS = 20


class Faithful(threading.Thread):
    """A member that comes back at once, and fetches what it missed from the greeting.

    ``heard`` are the messages it knows of, by ``ts``. It says what it has to say until it hears it.
    """

    def __init__(self, address: str, user: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._user = user
        self._leaves = threading.Event()
        self.heard: dict[int, str] = {}
        self.said: list[str] = []
        self.connects = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._leaves.is_set():
                self._visit()
        except BaseException as exc:
            self.failure = exc

    def leave(self) -> None:
        """Have it end, and say why it could not go on."""
        self._leaves.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure

    def _visit(self) -> None:
        with RawClient(self._address, f"/group/chat/1/{self._user}/t") as client:
            self.connects += 1
            saying = self._hear(client)
            while saying is not None and not self._leaves.is_set():
                if self.said and self.said[-1] not in self.heard.values():
                    text = self.said[-1]
                else:
                    text = f"{self._user}-{len(self.said)}"
                    self.said.append(text)
                try:
                    client.say(text)
                except OSError:
                    return
                while saying is not None and text not in self.heard.values():
                    saying = self._hear(client)
                time.sleep(0.005)

    def _hear(self, client: RawClient) -> Frame | None:
        """Note what a frame brings; None when the visit is over."""
        try:
            frame = client.next_frame()
        except ConnectionResetError:
            return None  # what a daemon has not closed within its drain it cuts
        if frame is None or frame.opcode == CLOSE:
            assert frame is None or frame.payload[:2] == b"\x03\xe9", frame.payload
            return None
        message = json.loads(frame.payload)
        for each in message.get("list", [message]):
            self.heard[each["ts"]] = each["info"]
        return frame


@pytest.mark.timeout(240)
def test_a_rolling_restart_refuses_and_loses_nothing(
    tmp_path: Path, redis_url: str, redis: Redis, listeners: list[socket.socket]
) -> None:
    """The socket outlives twenty daemons: who comes back at once is let in, and misses nothing."""
    listener = listeners[0]
    members = [Faithful(address(listener), f"m{n}") for n in range(4)]
    settings = {"server__drain_seconds": "0.3", "group_message__list_num": "1000"}
    for turn in range(RESTARTS + 1):
        daemon = run_daemon(
            tmp_path, redis_url, wait_serving=True, launcher=passing(listener), **settings
        )
        if not turn:
            for member in members:
                member.start()
        known = sum(len(member.said) for member in members)
        wait_for(lambda known=known: sum(len(m.said) for m in members) > known + 20, daemon)  # type: ignore[misc]
        if turn < RESTARTS:
            assert daemon.stop() == 0
    for member in members:
        member.leave()
    assert daemon.stop() == 0
    listed = [json.loads(entry) for entry in redis.lrange("gml:1", 0, -1)]
    stored = {entry["ts"]: entry["info"] for entry in listed}
    for member in members:
        assert member.connects >= RESTARTS
        first = min(member.heard)
        # What came after it went for the last time it cannot know.
        expected = {ts: stored[ts] for ts in stored if first <= ts <= max(member.heard)}
        assert member.heard == expected
        assert set(member.said[:-1]) <= set(stored.values())
