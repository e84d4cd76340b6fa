"""What the tests of faults work with: a Redis that can be harmed, a proxy before it, and a talk.

The talk runs in a thread of its own, as does the proxy, so that a test is a plain sequence of what
is done to Redis and what must hold then.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import pytest
import trio
from clients import Answer, log_in
from conftest import Daemon, run_daemon, wait_for
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

FURTHER_SECONDS = 5.0
"""By the contract talking goes on so soon after Redis's return."""
SETTLE_SECONDS = 20.0
"""How long the members may take to see the end of a talk that nothing disturbs any more."""


# Redis


def free_port() -> int:
    """A port that stays free: none that the kernel may give to an outgoing connection."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10000, first_given // 2), first_given)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class MortalRedis:
    """A redis-server that writes everything down before it answers, and can be harmed.

    Its port and its folder stay the same over restarts. It writes without syncing: that is enough
    for a process that is killed, and the tests do not wait for a slow disk.
    """

    def __init__(
        self, executable: str, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.executable = executable
        self.folder = folder
        self.environment = {**os.environ, **(environment or {})}
        self.port = free_port()
        self.client = self.connect()
        self.process: subprocess.Popen[bytes]
        folder.mkdir()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def connect(self) -> Redis:
        """A client of its own, which does nothing twice."""
        return Redis(port=self.port, socket_timeout=20, retry=Retry(NoBackoff(), 0))

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it, again perhaps, with further options; wait until it answers."""
        self.process = subprocess.Popen(
            [
                self.executable,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "no"),
                *("--repl-diskless-sync-delay", "0", *options),
            ],
            stdout=subprocess.DEVNULL,
            env=self.environment,
        )
        if wait:
            wait_for(lambda: self.refusal() is None, seconds=20)

    def wipe(self) -> None:
        """Lose everything that a killed one had written down."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        for name in ("faketime_shm", "sem.faketime_sem"):  # libfaketime leaves them behind
            Path(f"/dev/shm/{name}_{self.process.pid}").unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP: connections are taken by the kernel, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good."""
        self.client.close()
        self.kill()

    def ask(self, *command: str | int) -> Any:
        """The reply to any command."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def refusal(self) -> str | None:
        """What it says to a ping if that is not PONG."""
        try:
            self.client.ping()
        except exceptions.RedisError as exc:
            return f"{type(exc).__name__}: {exc}"
        return None

    def refuses_scripts(self) -> bool:
        """Whether a script that writes is refused now."""
        try:
            self.client.eval("return redis.call('SET', 'probe', 'x', 'EX', 1)", 0)
        except exceptions.RedisError:
            return True
        return False

    def listeners(self) -> set[int]:
        """The numbers of the connections that listen to channels."""
        return {int(client["id"]) for client in self.client.client_list(_type="pubsub")}

    def now(self) -> int:
        """Its clock, milliseconds since the epoch."""
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


class WallClock:
    """A wall clock for the processes that are started with its ``environment``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead = 0.0
        self.move(0)
        # jemalloc, which Debian's redis-server has, asks for the time before libfaketime knows it,
        # and hangs: let the C library's own malloc come first.
        self.environment = {
            "LD_PRELOAD": f"{find_faketime()} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def move(self, seconds: float) -> None:
        """Set it so many seconds ahead of the true time."""
        self.ahead = seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self._file)


def find_faketime() -> str:
    """The path of libfaketime; without it the test is skipped, unless it must be there."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if found:
        return str(found[0])
    if os.environ.get("FASTIMD_TEST_FAKETIME") == "required":
        pytest.fail("no libfaketime on this machine, and FASTIMD_TEST_FAKETIME=required")
    pytest.skip("needs libfaketime (Debian's package faketime)")


# A proxy


class Proxy:
    """A TCP proxy before Redis that can fall silent, and lead new connections elsewhere."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._new_answers = math.inf
        self._links: list[_Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    @property
    def links(self) -> int:
        """How many connections were ever made."""
        return len(self._links)

    def allow_new(self, answers: float) -> None:
        """Let connections that are opened later fall silent after so many bytes of answers."""
        self._new_answers = answers

    def silence(self, *, answers_only: bool = False) -> None:
        """Forward nothing more on the connections there are, and close none.

        Args:
            answers_only: what the daemons send still reaches Redis.
        """
        for link in self._links:
            link.answers = 0
            if not answers_only:
                link.asks = 0

    def hold_questions(self) -> None:
        """Hold back what is asked on the connections that listen to channels."""
        for link in self._links:
            if link.listens:
                link.asks = 0

    def answered_listeners(self) -> list[int]:
        """How many bytes of answers each connection has got that listens to channels."""
        return [link.passed["answers"] for link in self._links if link.listens]

    def resume(self) -> None:
        """Forward again, and first what was held back, though its sender may be gone."""
        self._new_answers = math.inf
        for link in self._links:
            link.open()

    def hold(self, *, answers_of_listeners: bool = False, questions: bool = False) -> None:
        """Hold back what comes for those who listen to channels, or what others ask."""
        for link in self._links:
            if link.listens and answers_of_listeners:
                link.answers = 0
            if not link.listens and questions:
                link.asks = 0

    def forget_ended(self) -> None:
        """Forget the connections that have ended on both sides."""
        ended = [link for link in self._links if link.has_ended]
        self._links = [link for link in self._links if link not in ended]
        for link in ended:
            link.close()

    def close(self) -> None:
        """End everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                daemon, _ = self._listener.accept()
            except OSError:
                return
            try:
                redis = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                daemon.close()
                continue
            link = _Link(daemon, redis, self._new_answers)
            self._links.append(link)
            link.start()


class _Link:
    """One connection through the proxy.

    ``asks`` and ``answers`` are how many bytes may pass each way in all; more are held back.
    ``passed`` is how many came, ``listens`` whether there was a SUBSCRIBE among them.
    """

    def __init__(self, daemon: socket.socket, redis: socket.socket, answers: float) -> None:
        self.asks = math.inf
        self.answers = answers
        self.listens = False
        self._ends = (daemon, redis)
        self.passed = Counter[str]()
        self._pumps = [
            threading.Thread(target=self._pump, args=way, daemon=True)
            for way in ((daemon, redis, "asks"), (redis, daemon, "answers"))
        ]
        self._has_begun = threading.Event()
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for pump in self._pumps:
            pump.start()
        self._has_begun.set()

    @property
    def has_ended(self) -> bool:
        return not any(pump.is_alive() for pump in self._pumps)

    def open(self) -> None:
        """Let everything through."""
        self.asks = self.answers = math.inf

    def close(self) -> None:
        self._has_begun.wait()  # who breaks it may see it before it is started
        self.open()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for pump in self._pumps:
            pump.join()
        for end in self._ends:
            end.close()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passed[way] += len(data)
                self.listens |= b"SUBSCRIBE" in data
                self._wait_open(way)
                sink.sendall(data)
        self._wait_open(way)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _wait_open(self, way: str) -> None:
        while self.passed[way] > getattr(self, way):
            time.sleep(0.005)


# A talk


@dataclass(frozen=True)
class Message:
    """A message as a member hears it, or as it lies in the list."""

    ts: int
    user: str
    info: str

    @classmethod
    def read(cls, text: bytes) -> Message:
        fields = json.loads(text)
        return cls(fields["ts"], fields["userId"], fields["info"])


class Member:
    """One client: says unique texts, hears the group, and remembers both.

    ``said`` has each text and when it was said, ``closed`` the code and reason with which the
    daemon closed the socket.
    """

    def __init__(self, daemon: Daemon, user: str, group: str) -> None:
        self.daemon = daemon
        self.user = user
        self.group = group
        self.token = "any"
        self.said: dict[str, float] = {}
        self.heard: list[Message] = []
        self.unseen: set[str] = set()
        self.greeting: list[Message] | None = None
        self.closed: tuple[int, str] | None = None
        self.closed_at = 0.0
        self._stream: trio.SocketStream
        self._sending = trio.StrictFIFOLock()
        self._saw_own = trio.Event()
        self._leaving = False

    async def run(self, patience: float, *, task_status: trio.TaskStatus[None]) -> None:
        """Connect and hear everything until either side closes; started when greeted.

        Args:
            patience: seconds in which to connect again if the daemon says to try again later.
        """
        give_up_at = trio.current_time() + patience
        await self._connect(task_status)
        while self.greeting is None and trio.current_time() < give_up_at:
            await trio.sleep(0.2)
            self.closed = None
            await self._connect(task_status)
        if self.greeting is None:
            task_status.started()

    async def _connect(self, task_status: trio.TaskStatus[None]) -> None:
        host, port = self.daemon.address.rsplit(":", 1)
        self._stream = await trio.open_tcp_stream(host, int(port))
        async with self._stream:
            try:
                rest = await self._shake_hands()
                await self._listen(bytearray(rest), task_status)
            except trio.BrokenResourceError:
                self._end(1006, "connection broken")

    async def say(self, text: str) -> None:
        """Say a text, whatever becomes of it."""
        self.said[text] = time.monotonic()
        self.unseen.add(text)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._send(0x1, text.encode())

    async def wait_seen(self, ahead: int) -> None:
        """Wait until less than ``ahead`` of the own texts are still to be seen."""
        while len(self.unseen) >= ahead:
            await self._saw_own.wait()

    async def leave(self) -> None:
        """Begin to close the socket."""
        self._leaving = True
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._send(0x8, (1000).to_bytes(2, "big"))

    async def _shake_hands(self) -> bytes:
        await self._stream.send_all(
            f"GET /group/chat/{self.group}/{self.user}/{self.token} HTTP/1.1\r\n"
            f"Host: {self.daemon.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            "".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = await self._stream.receive_some()
            assert data, f"no handshake: {answer!r}"
            answer += data
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return rest

    async def _listen(self, buffer: bytearray, task_status: trio.TaskStatus[None]) -> None:
        while True:
            for opcode, payload in _take_frames(buffer):
                if opcode == 0x8:
                    self._end(int.from_bytes(payload[:2], "big"), payload[2:].decode())
                    if not self._leaving:
                        await self._send(0x8, payload)
                    return
                if opcode == 0x9:
                    await self._send(0xA, payload)
                elif self.greeting is None:
                    self.greeting = [
                        Message(each["ts"], each["userId"], each["info"])
                        for each in json.loads(payload)["list"]
                    ]
                    task_status.started()
                else:
                    self._hear(Message.read(payload))
            data = await self._stream.receive_some(262144)
            if not data:
                self._end(1006, "connection lost")
                return
            buffer += data

    def _hear(self, message: Message) -> None:
        self.heard.append(message)
        if message.user == self.user and message.info in self.unseen:
            self.unseen.discard(message.info)
            self._saw_own.set()
            self._saw_own = trio.Event()

    def _end(self, code: int, reason: str) -> None:
        if not self._leaving and self.closed is None:  # what follows a close frame says less
            self.closed, self.closed_at = (code, reason), time.monotonic()

    async def _send(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes((0x80 | opcode, 0x80 | length))
        elif length < 65536:
            head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
        mask = os.urandom(4)
        stretched = (mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
        async with self._sending:
            await self._stream.send_all(head + mask + masked.to_bytes(length, "big"))


def _take_frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the whole frames off the front of what a daemon sent: unmasked, never fragmented."""
    while len(buffer) >= 2:
        size, start = buffer[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start or len(buffer) < start + size:
            return
        assert buffer[0] & 0xF0 == 0x80, f"a frame begins with {buffer[0]:#x}"
        frame = buffer[0] & 0xF, bytes(buffer[start : start + size])
        del buffer[: start + size]
        yield frame


class Talk:
    """Members of one group who all talk, in a thread of their own, while the block lasts.

    Args:
        daemons: where they are connected.
        each: how many of them on each daemon.
        loop: whether they talk by themselves, in a closed loop: each has at most ``ahead`` texts
            that it has not seen come back.
        names: their user ids begin with this.
        logged_in: whether they log in first.
        patience: seconds in which each may be told to try again before it is greeted.
    """

    def __init__(
        self,
        daemons: Iterable[Daemon],
        *,
        each: int = 3,
        loop: bool = True,
        ahead: int = 3,
        group: str = "1",
        names: str = "member-",
        logged_in: bool = False,
        patience: float = 15,
    ) -> None:
        places = [daemon for daemon in daemons for _ in range(each)]
        self.group = group
        self.members = [
            Member(daemon, f"{names}{number}", group) for number, daemon in enumerate(places)
        ]
        if logged_in:
            for member in self.members:
                member.token = log_in(member.daemon, member.user)["token"]
        self._by_user = {member.user: member for member in self.members}
        self._loops = loop
        self._patience = patience
        self._ahead = ahead
        self._may_talk = trio.Event()
        self._over = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._failure: BaseException | None = None
        self._greeted = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._greeted.is_set, 20, "greeted")
        if self._loops:
            self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive() and self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the talk does not end"
        self._check_failure()

    @property
    def open_members(self) -> list[Member]:
        return [member for member in self.members if member.closed is None]

    def say(self, member: Member, *texts: str) -> None:
        """Let a member say something out of turn."""
        for text in texts:
            trio.from_thread.run(member.say, text, trio_token=self._token)

    def pause(self) -> None:
        """Let nobody begin a further text."""
        trio.from_thread.run_sync(self._close_gate, trio_token=self._token)

    def resume(self) -> None:
        """Let everybody talk."""
        trio.from_thread.run_sync(self._open_gate, trio_token=self._token)

    def wait_further(
        self, since: float | None = None, *, count: int = 1, seconds: float = FURTHER_SECONDS
    ) -> None:
        """Wait until each open member has heard ``count`` messages that were said after ``since``.

        Args:
            since: a moment of ``time.monotonic``; without it, now.
            seconds: how long after ``since`` that may take.
        """
        moment = time.monotonic() if since is None else since

        def is_new(message: Message) -> bool:
            speaker = self._by_user.get(message.user)  # None: somebody foreign
            return speaker is not None and speaker.said.get(message.info, 0.0) >= moment

        def all_heard() -> bool:
            assert self.open_members, "everybody was closed"
            return all(
                sum(map(is_new, member.heard[-count - 50 :])) >= count
                for member in self.open_members
            )

        self._wait(all_heard, moment + seconds - time.monotonic(), "further messages heard")

    def go_on(self, count: int) -> None:
        """Let the talk go on until each open member has heard so many new messages."""
        self.wait_further(count=count, seconds=30)

    def wait_seen(self) -> None:
        """Wait until everything that open members said has come back to them."""
        self._wait(
            lambda: not any(member.unseen for member in self.open_members),
            SETTLE_SECONDS,
            "own texts seen",
        )

    def wait_closed(self, *members: Member, seconds: float) -> None:
        """Wait until the daemon has closed the sockets of members."""
        self._wait(lambda: all(member.closed for member in members), seconds, "closed")

    def finish(self) -> None:
        """Say no more; wait until all have come back, and all have heard each other's last word.

        Whatever was on its way before has come when the last words have: a double would be seen.
        """
        self.pause()
        self.wait_seen()
        last_words = {f"last word of {member.user}": member for member in self.open_members}
        for text, member in last_words.items():
            self.say(member, text)
        self._wait(
            lambda: all(
                last_words.keys() <= {message.info for message in member.heard[-50:]}
                for member in self.open_members
            ),
            SETTLE_SECONDS,
            "last words heard",
        )

    def settle(self, client: Redis, *, closed: Iterable[Member] = ()) -> None:
        """Finish, and check every promise.

        Args:
            closed: the members whose sockets must have been closed with 1013; nobody else's may.
        """
        self.finish()
        listed = list_messages(client, self.group)
        self.check_open(closed)
        check_once([message.info for message in listed], "in the list")
        for member in self.members:
            told = member.closed is not None
            check_same(member, listed[: len(member.heard)] if told else listed)
            self._check_texts(member, listed)

    def check_open(self, closed: Iterable[Member] = ()) -> None:
        """Nobody's socket was closed, but for those of ``closed``, who were told why."""
        expected = set(closed)
        for member in self.members:
            if member not in expected:
                assert member.closed is None, f"{member.user} was closed: {member.closed}"
            else:
                code, reason = member.closed or (0, "")
                assert (code, bool(reason)) == (1013, True), f"{member.user}: {member.closed}"

    def _check_texts(self, member: Member, listed: list[Message]) -> None:
        """Each text is stored, in the order in which it was said, or its sender was told."""
        stored = [message.info for message in listed if message.user == member.user]
        there = set(stored)
        assert stored == [text for text in member.said if text in there], "said in another order"
        lost = [text for text in member.said if text not in there]
        seen = [text for text in lost if text not in member.unseen]
        assert not seen, f"{member.user} saw texts come back that are not stored: {shorten(seen)}"
        assert not lost or member.closed, f"{member.user} was not told of {shorten(lost)}"

    # In the thread of the talk

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            self._failure = exc

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as everything:
            async with trio.open_nursery() as members:
                async with trio.open_nursery() as greeting:
                    for member in self.members:
                        greeting.start_soon(members.start, member.run, self._patience)
                if self._loops:
                    for member in self.members:
                        everything.start_soon(self._talk, member)
                self._greeted.set()
                await self._over.wait()
                for member in self.open_members:
                    await member.leave()
                members.cancel_scope.deadline = trio.current_time() + 5
            everything.cancel_scope.cancel()

    async def _talk(self, member: Member) -> None:
        number = 0
        while member.closed is None:
            await member.wait_seen(self._ahead)
            while not self._may_talk.is_set():  # looked at last: a pause lets nobody begin
                await self._may_talk.wait()
            await member.say(f"{member.user} says {number}")
            number += 1
            await trio.sleep(random.uniform(0, 0.02))  # what they say must not fill the machine

    def _close_gate(self) -> None:
        self._may_talk = trio.Event()

    def _open_gate(self) -> None:
        self._may_talk.set()

    def _wait(self, condition: Callable[[], Any], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._check_failure()
            if time.monotonic() > deadline:
                state = [
                    f"{each.user}: heard {len(each.heard)}, said {len(each.said)}, "
                    f"unseen {len(each.unseen)}, closed {each.closed}"
                    for each in self.members
                ]
                logs = {each.daemon.log_path: each.daemon for each in self.members}
                said = [f"{path}\n{path.read_text()[-3000:]}" for path in logs]
                pytest.fail(f"not in time: {what}\n" + "\n".join(state + said))
            time.sleep(0.01)

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise AssertionError("a client failed") from self._failure


def list_messages(client: Redis, group: str = "1") -> list[Message]:
    """The messages of a group as they are stored."""
    entries = cast(list[bytes], client.lrange(f"gml:{group}", 0, -1))
    return [Message.read(entry) for entry in entries]


def check_once(texts: list[str], where: str) -> None:
    """No text is there twice."""
    doubled = [text for text, count in Counter(texts).items() if count > 1]
    assert not doubled, f"twice {where}: {shorten(doubled)}"


def check_order(messages: list[Message], where: str) -> None:
    """Each ``ts`` is greater than the one before."""
    wrong = [
        (before.ts, after.ts)
        for before, after in itertools.pairwise(messages)
        if before.ts >= after.ts
    ]
    assert not wrong, f"out of order {where}: {wrong[:5]}"


def check_same(member: Member, listed: list[Message]) -> None:
    """A member heard what is listed: each message once, in order, and nothing else."""
    where = f"at {member.user}"
    check_order(listed, "in the list")
    check_once([message.info for message in member.heard], where)
    check_order(member.heard, where)
    heard, stored = set(member.heard), set(listed)
    missing = shorten([message.info for message in listed if message not in heard])
    extra = shorten([message.info for message in member.heard if message not in stored])
    assert member.heard == listed, f"{where} missing: {missing}; not in the list: {extra}"


def shorten(texts: list[str]) -> str:
    """Texts for a failure's message."""
    return f"{len(texts)} texts, {[text[:40] for text in texts[:10]]}"


# Daemons


def ask_admin(daemon: Daemon, path: str) -> Answer:
    """What the admin address answers."""
    where = urlsplit(daemon.admin)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def ready(daemon: Daemon) -> list[str]:
    """Why a daemon says that it is not ready; empty when it is."""
    answer = ask_admin(daemon, "/health/ready")
    reasons: list[str] = answer.json["reasons"]
    assert (answer.status, answer.json["ready"]) == ((503, False) if reasons else (200, True))
    return reasons


def unavailable(daemon: Daemon, purpose: str) -> list[dict[str, Any]]:
    """The log lines that say that a connection to Redis is not there."""
    return [line for line in daemon.events("redis.unavailable") if line["purpose"] == purpose]


StartDaemons = Callable[..., list[Daemon]]

CRASHES = ("connection.crashed", "http.crashed", "daemon.crashed")


@contextmanager
def running_daemons(folder: Path) -> Iterator[StartDaemons]:
    """Starts daemons, two by default; at the end each must stop cleanly, unharmed."""
    daemons: list[Daemon] = []

    def start(redis_url: str, count: int = 2, **settings: Any) -> list[Daemon]:
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(partial(run_daemon, folder, redis_url, **settings))
                for _ in range(count)
            ]
        daemons.extend(each.result() for each in begun)
        return daemons[-count:]

    try:
        yield start
        for daemon in daemons:
            check_unharmed(daemon)
            assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
            check_unharmed(daemon, has_ended=True)
    finally:
        for daemon in daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


def check_unharmed(daemon: Daemon, *, has_ended: bool = False) -> None:
    """A daemon runs, and its log has no crash and no traceback."""
    said = daemon.log_path.read_text()
    assert has_ended or daemon.process.poll() is None, f"the daemon has ended\n{said[-4000:]}"
    crashed = [line for line in daemon.lines if line["event"] in CRASHES or "exception" in line]
    assert not crashed, f"something crashed: {json.dumps(crashed, indent=1)[-4000:]}"
    assert "Traceback (most recent call last)" not in said, said[-4000:]
