"""Who talks and listens in a soak: members on both wires, who come back whatever ends them.

A ``Person`` is one client with one connection at a time, to one daemon or the other. What it says
it says once, but for ``send`` with a nonce, which it repeats until it is acknowledged; what it
hears goes into the books.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import msgspec
import trio

from fastimd.bench.dialect import CLOSE, PING, PONG, TEXT, client_frame, find_frame

from .books import Books
from .counts import Stretch, message_id, write_text

AT_ONCE = 8
"""How many messages of a client may be on their way."""
HANDSHAKE_SECONDS = 30.0
FILLERS = ("", "." * 40, "." * 200, "." * 1000)
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

Place = tuple[str, int]
"""Host and port of a daemon."""


class Gone(Exception):
    """The connection is of no more use."""


def now_ms() -> int:
    """The wall clock, which is that of Redis, too."""
    return time.time_ns() // 1_000_000


def opening(target: str) -> bytes:
    """A handshake."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    ).encode()


class Person(ABC):
    """A client.

    Args:
        number: of the talker, in the ids of its messages.
        daemons: where it connects, in turn.
        pause: seconds between two of its messages, on average.
    """

    opcode = TEXT

    def __init__(
        self,
        number: int,
        groups: Sequence[str],
        daemons: Sequence[Place],
        books: Books,
        seed: str,
        pause: float,
    ) -> None:
        self.name = f"person-{number}"
        self.is_silent = False
        self.groups = groups
        self._number = number
        self._daemons = daemons
        self._at = number % len(daemons)
        self._books = books
        self._random = random.Random(f"{seed} {number}")
        self._pause = pause
        self._numbers = itertools.count(1)
        self._stream: trio.SocketStream | None = None
        self._sending = trio.StrictFIFOLock()
        self._may_connect = trio.Event()
        self._may_connect.set()

    @property
    @abstractmethod
    def target(self) -> str:
        """Of the handshake."""

    @property
    @abstractmethod
    def is_in(self) -> bool:
        """It hears all its groups."""

    @property
    @abstractmethod
    def is_waiting(self) -> bool:
        """Something that it said is not answered yet."""

    @abstractmethod
    def stretch(self, group: str) -> Stretch | None:
        """Where it hears a group now."""

    async def run(self) -> None:
        """Be connected until cancelled."""
        while True:
            await self._may_connect.wait()
            host, port = self._daemons[self._at]
            with contextlib.suppress(*BROKEN, Gone):
                stream = await trio.open_tcp_stream(host, port)
                async with stream:
                    self._stream = stream
                    await self._be_there(stream)
            self._stream = None
            self._at = (self._at + 1) % len(self._daemons)
            await trio.sleep(self._random.uniform(0.02, 0.5))

    async def cut_off(self) -> None:
        """End the connection as a broken network does, and stay away."""
        self._may_connect = trio.Event()
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    def come_back(self) -> None:
        """Connect again."""
        self._may_connect.set()

    async def _be_there(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            try:
                with contextlib.suppress(*BROKEN, Gone):
                    await self._hear(stream, nursery)
            except (ValueError, msgspec.MsgspecError) as exc:
                self._books.surprises[f"unreadable: {exc}"] += 1
            finally:
                self._forget()
                nursery.cancel_scope.cancel()

    async def _hear(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                data = await self._shake_hands(stream)
        except trio.TooSlowError:
            self._books.closes["handshake too slow"] += 1
            raise Gone from None
        await self._begin()
        nursery.start_soon(self._talk)
        while True:
            at = 0
            while (frame := find_frame(data, at)) is not None:
                opcode, start, at = frame
                await self._take_frame(opcode, data[start:at])
            data = data[at:] + await _receive(stream)

    async def _shake_hands(self, stream: trio.SocketStream) -> bytes:
        await stream.send_all(opening(self.target))
        data = b""
        while b"\r\n\r\n" not in data:
            data += await _receive(stream)
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            status = head[9:12].decode(errors="replace")
            self._books.closes[f"handshake {status}"] += 1
            if status != "503":
                self._books.surprises[f"handshake {status}"] += 1
            raise Gone
        return rest

    async def _take_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            self._books.note_close(code, payload[2:].decode(errors="replace"))
            await self._send(payload[:2], CLOSE)
            raise Gone
        if opcode == PING:
            await self._send(payload, PONG)
        else:
            await self._take(payload)

    async def _send(self, payload: bytes, opcode: int = 0) -> None:
        stream = self._stream
        if stream is None:
            raise Gone
        async with self._sending:
            await stream.send_all(client_frame(opcode or self.opcode, payload))

    async def _talk(self) -> None:
        with contextlib.suppress(*BROKEN, Gone):
            while True:
                await trio.sleep(self._random.expovariate(1 / self._pause))
                await self._say(is_silent=self.is_silent)

    def _next_message(self) -> tuple[int, str]:
        message = message_id(self._number, next(self._numbers))
        return message, write_text(message, self._random.choice(FILLERS))

    @abstractmethod
    async def _begin(self) -> None:
        """The handshake is done."""

    @abstractmethod
    async def _take(self, payload: bytes) -> None:
        """A message has come."""

    @abstractmethod
    async def _say(self, *, is_silent: bool) -> None:
        """Say something if there is room; one who is silent only repeats what it must."""

    @abstractmethod
    def settle(self) -> None:
        """All is over: decide about what was not answered."""

    @abstractmethod
    def _forget(self) -> None:
        """The connection has ended."""


async def _receive(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some(65536))
    if not data:
        raise Gone
    return data


class _Said(msgspec.Struct):
    """A message in a greeting."""

    ts: int


class _Frame(msgspec.Struct):
    """A greeting, a message or a refusal."""

    ts: int = 0
    info: str = ""
    greeting: list[_Said] | None = msgspec.field(default=None, name="list")
    code: int = 0
    msg: str = ""


class SeedPerson(Person):
    """A member of one group on the wire of Fast-IM."""

    _read = msgspec.json.Decoder(_Frame).decode
    _stretch: Stretch | None = None
    _awaited: deque[int]

    @property
    def target(self) -> str:
        return f"/group/chat/{self.groups[0]}/{self.name}/soak"

    @property
    def is_in(self) -> bool:
        return self._stretch is not None

    @property
    def is_waiting(self) -> bool:
        return self._stretch is not None and bool(self._awaited)

    def stretch(self, group: str) -> Stretch | None:
        return self._stretch

    async def _begin(self) -> None:
        self._awaited = deque()

    async def _take(self, payload: bytes) -> None:
        frame = self._read(payload)
        group = self.groups[0]
        if frame.greeting is not None:
            self._stretch = Stretch(self.name, frame.greeting[-1].ts if frame.greeting else 0)
            self._books.stretches[group].append(self._stretch)
        elif frame.code:
            self._books.surprises[f"frame {frame.code} {frame.msg}"] += 1
        elif self._stretch is not None:
            message = self._books.hear(self._stretch, frame.ts, frame.info)
            if message >> 32 == self._number:
                self._hear_own(message)

    def _hear_own(self, message: int) -> None:
        spoken = self._books.spoken[self.groups[0]]
        spoken.acknowledged.setdefault(message, now_ms())
        if message not in self._awaited:  # said on an earlier connection
            return
        while (first := self._awaited.popleft()) != message:
            spoken.swallowed.append(first)

    async def _say(self, *, is_silent: bool) -> None:
        if is_silent or self._stretch is None or len(self._awaited) >= AT_ONCE:
            return
        message, text = self._next_message()
        self._awaited.append(message)
        await self._send(text.encode())

    def settle(self) -> None:
        """All is over: what was said on this connection and did not come back will not."""
        if self._stretch is not None:
            self._books.spoken[self.groups[0]].swallowed += self._awaited
            self._awaited.clear()

    def _forget(self) -> None:
        if self._stretch is not None:
            self._books.spoken[self.groups[0]].unknown += self._awaited
        self._stretch = None
