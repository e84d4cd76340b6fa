"""Sockets of the load generator: opened many at once, then read and written from one epoll loop."""

from __future__ import annotations

import errno
import resource
import select
import socket
import struct
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TypeAlias

from ..base.address import Address
from .dialect import BINARY, CLOSE, PING, PONG, TEXT, Dialect, Visit, client_frame, find_frame
from .histogram import Histogram

RECEIVE_BYTES = 65_536
SPARE_FILES = 64

_KEY = b64encode(b"fastimd bench 16")
_ACCEPT = b64encode(
    sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)
_NO_LINGER = struct.pack("ii", 1, 0)
_REQUEST = (
    "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)


class Unusable(Exception):
    """The run cannot be: an address or a limit is wrong."""


Place: TypeAlias = tuple[Address, tuple[socket.AddressFamily, tuple[str, int]]]
"""A server, and where that is."""


class Link:
    """One socket; open and greeted when ``is_ready``.

    Raises:
        OSError: it cannot be opened.
    """

    __slots__ = (
        "_greeting",
        "_is_accepted",
        "_on_data",
        "_on_open",
        "_opcode",
        "_opening",
        "_poll",
        "_unsent",
        "began",
        "is_ready",
        "socket",
    )

    def __init__(self, poll: select.epoll, place: Place, plan: Plan) -> None:
        address, (family, name) = place
        self._on_data = plan.on_data
        self._on_open = plan.on_open
        self.is_ready = False
        self._poll = poll
        self._opcode = plan.dialect.opcode
        self._greeting = plan.dialect.greeting(plan.visit)
        self._is_accepted = False
        self._opening = b""
        request = _REQUEST.format(
            target=address.prefix + plan.dialect.target(plan.visit),
            host=address.authority,
            key=_KEY.decode(),
        )
        self._unsent = request.encode()
        self.began = time.monotonic_ns()
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failure = self.socket.connect_ex(name)
        if failure not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise OSError(failure, "cannot connect")
        poll.register(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def send(self, data: bytes) -> None:
        """Write, now or as soon as the kernel takes it."""
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent = data[sent:]
            self._poll.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def pong(self, payload: bytes) -> None:
        """Answer a ping."""
        self.send(client_frame(PONG, payload))

    def handle_writable(self) -> None:
        """Write what waits.

        Raises:
            OSError: the server is not there, or has gone.
        """
        self._unsent = self._unsent[self.socket.send(self._unsent) :]
        if not self._unsent:
            self._poll.modify(self.socket, select.EPOLLIN)

    def handle_readable(self) -> None:
        """Read what came.

        Raises:
            OSError: the server has gone, or refuses the socket.
        """
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server ended the connection")
        if self.is_ready:
            self._on_data(data)
        else:
            self._take_opening(data)

    def close(self) -> None:
        """End it without a word, and at once: thousands that lingered would use up the ports."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.socket.close()

    def _take_opening(self, data: bytes) -> None:
        self._opening += data
        if not self._is_accepted:
            head, end, rest = self._opening.partition(b"\r\n\r\n")
            if not end:
                return
            _check_answer(head)
            self._is_accepted, self._opening = True, rest
            for payload in self._greeting.hello:
                self.send(client_frame(self._opcode, payload))
        try:
            self._take_greetings()
        except ValueError as exc:
            raise ConnectionError(f"no greeting: {exc}") from exc
        if self._greeting.awaited <= 0:
            self.is_ready = True
            self._on_open(self)
            rest, self._opening = self._opening, b""
            if rest:
                self._on_data(rest)

    def _take_greetings(self) -> None:
        at = 0
        greeting = self._greeting
        while greeting.awaited > 0 and (frame := find_frame(self._opening, at)) is not None:
            opcode, start, at = frame
            if opcode in (TEXT, BINARY):
                if answer := greeting.take(self._opening[start:at]):
                    self.send(client_frame(self._opcode, answer))
            elif opcode == PING:
                self.pong(self._opening[start:at])
            elif opcode == CLOSE:
                raise closing(self._opening[start:at])
        self._opening = self._opening[at:]


def _check_answer(head: bytes) -> None:
    status = head.partition(b"\r\n")[0].decode("latin-1")
    if not status.startswith("HTTP/1.1 101 "):
        raise ConnectionError(f"refused: {status}")
    if _ACCEPT not in head:
        raise ConnectionError("the answer is to another handshake")


@dataclass(frozen=True)
class Plan:
    """One socket that is to be opened.

    Args:
        on_open: gets the socket when it is greeted.
        on_data: gets what comes after the greetings.
    """

    dialect: Dialect
    visit: Visit
    on_open: Callable[[Link], None]
    on_data: Callable[[bytes], None]


class QuietSocket:
    """A socket that answers pings; what it gets is for those who want it.

    Args:
        on_text: gets the payload of each text frame.
    """

    def __init__(self, on_text: Callable[[bytes], None] = lambda _payload: None) -> None:
        self._on_text = on_text
        self._rest = b""
        self.link: Link

    def enter(self, link: Link) -> None:
        """The socket is open."""
        self.link = link

    def take(self, data: bytes) -> None:
        """Bytes have come.

        Raises:
            ConnectionError: among them is a close frame.
        """
        data = self._rest + data
        at = 0
        while (frame := find_frame(data, at)) is not None:
            opcode, start, at = frame
            if opcode == TEXT:
                self._on_text(data[start:at])
            elif opcode == PING:
                self.link.pong(data[start:at])
            elif opcode == CLOSE:
                raise closing(data[start:at])
        self._rest = data[at:]


def closing(payload: bytes) -> ConnectionError:
    """What a close frame says."""
    code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")
    return ConnectionError(f"closed by the server: {code} {reason}".rstrip())


@dataclass
class Openings:
    """How the opening of sockets went: from connecting to the greeting, ns."""

    took: Histogram = field(default_factory=Histogram)
    refused: int = 0
    reason: str = ""


class Crowd:
    """The sockets of one process.

    Args:
        addresses: of the servers, which are used in turn.

    Raises:
        Unusable: an address is that of nobody.
    """

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._places = resolve(addresses)
        self._poll = select.epoll()
        self._links: dict[int, Link] = {}
        self._begun = 0

    def open(self, plans: Iterable[Plan], at_once: int) -> Openings:
        """Open sockets, so many at the same time; return when each is open or refused."""
        openings = Openings()
        opening: set[Link] = set()
        waiting = iter(plans)
        is_more = True
        while is_more or opening:
            while is_more and len(opening) < at_once:
                plan = next(waiting, None)
                if plan is None:
                    is_more = False
                else:
                    self._begin(plan, opening, openings)
            for link, failure in self._turn(1.0):
                if failure is not None:
                    if link not in opening:
                        raise failure
                    opening.discard(link)
                    openings.refused += 1
                    openings.reason = openings.reason or str(failure)
                elif link.is_ready and link in opening:
                    opening.discard(link)
                    openings.took.add(time.monotonic_ns() - link.began)
        return openings

    def turn(self, timeout: float) -> None:
        """Wait for events, at most ``timeout`` seconds, and handle them.

        Raises:
            OSError: a socket was lost.
        """
        for _, failure in self._turn(timeout):
            if failure is not None:
                raise failure

    def drop(self, link: Link) -> None:
        """End one socket."""
        del self._links[link.socket.fileno()]
        link.close()

    def close(self) -> None:
        """End all sockets."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _begin(self, plan: Plan, opening: set[Link], openings: Openings) -> None:
        place = self._places[self._begun % len(self._places)]
        self._begun += 1
        try:
            link = Link(self._poll, place, plan)
        except OSError as exc:
            openings.refused += 1
            openings.reason = openings.reason or str(exc)
            return
        self._links[link.socket.fileno()] = link
        opening.add(link)

    def _turn(self, timeout: float) -> Iterable[tuple[Link, OSError | None]]:
        for descriptor, events in self._poll.poll(timeout, 512):
            link = self._links[descriptor]
            failure: OSError | None = None
            try:
                if events & select.EPOLLOUT:
                    link.handle_writable()
                if events & ~select.EPOLLOUT:
                    link.handle_readable()
            except OSError as exc:
                failure = exc
                del self._links[descriptor]
                link.close()
            yield link, failure


def allow_files(sockets: int) -> None:
    """Let this process have so many sockets.

    Raises:
        Unusable: the limit of open files does not.
    """
    needed = sockets + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed <= hard or (soft < needed and hard == resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    elif soft < needed:
        raise Unusable(f"{sockets} sockets a process need {needed} open files; the limit is {hard}")


def resolve(addresses: Iterable[Address]) -> list[Place]:
    """Where each server is.

    Raises:
        Unusable: an address is that of nobody.
    """
    return [(address, _find(address)) for address in addresses]


def _find(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The family and the address to connect to."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise Unusable(f"{address.host}: {exc.strerror}") from exc
    family, _, _, _, name = found[0]
    return family, (str(name[0]), int(name[1]))
