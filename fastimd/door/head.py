"""Request heads: read within bounds, parsed strictly, and judged before anything else sees them.

The door needs of HTTP only what decides where a connection goes; hypercorn parses the head again.
A head that two parsers could read differently is refused here.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import getrandbits

import trio

from ..base import log as logs
from .receiver import Readiness, Receiver

MAX_HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 10.0
IDLE_SECONDS = 60.0
"""How long a connection may stay silent between two requests."""

_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\x20-\x7e\x80-\xff\t]*)")
_LABEL = rb"[0-9A-Za-z_-]{1,63}"
_HOST = rb"(?:\[[0-9A-Fa-f:.]+\]|%b(?:\.%b)*\.?)(?::[0-9]{0,5})?" % (_LABEL, _LABEL)
_ABSOLUTE = re.compile(rb"http://%b(?:[/?].*)?" % _HOST)
_HOST_FIELD = re.compile(rb"(?:%b)?" % _HOST)
_NAMES = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z, \t]*")
_REQUEST_ID = re.compile(rb"[0-9A-Za-z._~:+/=@-]{1,128}")
_SINGLE = frozenset((b"host", b"content-length", b"upgrade", b"origin"))


class Refused(Exception):
    """A request that gets an error answer and the end of its connection."""

    def __init__(self, status: int, reason: str, headers: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A request head. ``fields`` has lower-case names; repeated fields are joined by commas.

    A client that asks again and again has mostly one and the same.
    """

    raw: bytes
    method: bytes
    target: bytes
    fields: Mapping[bytes, bytes]

    @property
    def wants_websocket(self) -> bool:
        """The client asks to speak WebSocket from here on."""
        return self.fields.get(b"upgrade", b"").lower() == b"websocket"

    @property
    def body_bytes(self) -> int | None:
        """The length of the body; None when it comes in chunks."""
        if b"transfer-encoding" in self.fields:
            return None
        return int(self.fields.get(b"content-length", b"0"))

    @property
    def given_id(self) -> str:
        """``X-Request-Id``, if it is one that may stand in a log and in an answer; else empty."""
        given = self.fields.get(b"x-request-id", b"")
        return given.decode() if _REQUEST_ID.fullmatch(given) else ""


def new_request_id() -> str:
    """A name for a request, to be bound as ``request_id`` in the log's context of its task.

    The log lines have it, and ``request_id_field`` writes it into an answer.
    """
    return f"{getrandbits(64):016x}"


def request_id_field() -> bytes:
    """The header field of an answer that names the request which the task serves."""
    request_id: str = logs.bound()["request_id"]
    return b"X-Request-Id: %s\r\n" % request_id.encode()


def parse_head(raw: bytes) -> Head:
    """Parse a request head that ends with an empty line.

    Raises:
        Refused: it is not HTTP/1, or could be read in two ways.
    """
    line, *field_lines = raw[: -len(_END)].split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(line)
    if request is None:
        raise Refused(400, "malformed request line")
    fields: dict[bytes, bytes] = {}
    for field_line in field_lines:
        parse = _parse_field_again if len(field_line) <= _SHORT_FIELD else _parse_field
        name, value = parse(field_line)
        if name in fields:
            if name in _SINGLE:
                raise Refused(400, f"more than one {name.decode()} header field")
            fields[name] += b"," + value
        else:
            fields[name] = value
    return _judge(Head(raw, request[1], request[2], fields))


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    field = _FIELD.fullmatch(line)
    if field is None:
        raise Refused(400, "malformed header field")
    return field[1].lower(), field[2].strip(b" \t")


_SHORT_FIELD = 256  # longer ones are not kept in memory
_parse_field_again = lru_cache(maxsize=1024)(_parse_field)
"""Most clients send mostly the same fields."""


def _judge(head: Head) -> Head:
    length = head.fields.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) < 16):
        raise Refused(400, "malformed content-length")
    if length is not None and b"transfer-encoding" in head.fields:
        raise Refused(400, "content-length beside transfer-encoding")
    path_or_star = head.target.startswith(b"/") or head.target == b"*"
    if head.method == b"CONNECT" or not (path_or_star or _ABSOLUTE.fullmatch(head.target)):
        raise Refused(400, "malformed request target")
    if not _is_host(head.fields.get(b"host", b"")):
        raise Refused(400, "malformed host header field")
    if not _NAMES.fullmatch(head.fields.get(b"access-control-request-headers", b"")):
        raise Refused(400, "malformed access-control-request-headers")
    if b"upgrade" in head.fields and not head.wants_websocket:
        raise Refused(501, "the only upgrade is websocket")
    return head


@lru_cache(maxsize=64)  # nearly all clients name the same
def _is_host(field: bytes) -> bool:
    return _HOST_FIELD.fullmatch(field) is not None


_parse_again = lru_cache(maxsize=256)(parse_head)
"""For who asks again and again: most of such heads are the same."""


def too_late() -> Refused:
    """A head that has begun and did not come to its end in time."""
    return Refused(408, "the request head took too long")


class HeadReader:
    """Reads a connection's bytes, head by head.

    Args:
        connection: a non-blocking socket; whoever closes it calls ``close`` before.
        scope: around all that is done on the connection, with a deadline as long as that has one.
        peer_names_requests: it is a proxy whose ``X-Request-Id`` is taken over.
    """

    __slots__ = (
        "_connection",
        "_peer_names_requests",
        "_readiness",
        "_receiver",
        "buffer",
        "has_begun",
        "scope",
    )

    def __init__(
        self,
        connection: socket.socket,
        readiness: Readiness,
        scope: trio.CancelScope,
        *,
        peer_names_requests: bool = False,
    ) -> None:
        self._connection = connection
        self._readiness = readiness
        self._receiver: Receiver | None = None
        self.scope = scope
        self.has_begun = False
        self._peer_names_requests = peer_names_requests
        self.buffer = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What was read too far, else what comes next; empty when there is nothing to come.

        Raises:
            trio.ClosedResourceError: the connection was closed here.
        """
        if self.buffer:
            data, self.buffer = self.buffer[:max_bytes], self.buffer[max_bytes:]
            return data
        if self._connection.fileno() < 0:
            raise trio.ClosedResourceError("closed")
        if self._receiver is None:
            self._receiver = self._readiness.watch(self._connection)
        return await self._receiver.receive(max_bytes)

    def close(self) -> None:
        """Read no more."""
        if self._receiver is not None:
            self._receiver.close()

    async def read_first_head(self) -> Head | None:
        """Read a connection's first head; None when the client ends the stream.

        The scope ends after ``HEAD_SECONDS``: ``has_begun`` then tells whether a part has come.

        Raises:
            Refused: it is too long or malformed.
            OSError: the connection broke.
        """
        try:
            data = self._connection.recv(65536)  # most clients have sent it by now
        except BlockingIOError:
            pass
        else:
            if not data:
                return None
            if _END in data:
                return self._take(data)
            self.buffer = data
        self.scope.deadline = trio.current_time() + HEAD_SECONDS
        head = await self._complete(await self.receive())
        self.scope.deadline = math.inf
        return head

    @property
    def is_proxied(self) -> bool:
        """The requests of many clients may come over the connection."""
        return self._peer_names_requests

    def extend(self) -> None:
        """Let the connection live for ``IDLE_SECONDS`` more, and up to half as long again.

        Who serves it alone calls this at each request, instead of bounding each of its steps.
        """
        now = trio.current_time()
        if not now + IDLE_SECONDS <= self.scope.deadline < math.inf:
            self.scope.deadline = now + 1.5 * IDLE_SECONDS

    async def read_head_behind(self) -> Head | None:
        """Read a later head as ``read_next_head`` does, for who calls ``extend``."""
        logs.bind(request_id=new_request_id())
        data = await self.receive()
        if _END in data:
            return self._take(data, _parse_again)
        with trio.move_on_after(HEAD_SECONDS):
            return await self._complete(data)
        raise too_late()

    async def read_next_head(self) -> Head | None:
        """Read a later head, of a new request; None also when nothing comes for ``IDLE_SECONDS``.

        Raises:
            as ``read_first_head``; ``HEAD_SECONDS`` begin with the first byte.
        """
        logs.bind(request_id=new_request_id())
        data = b""
        with trio.move_on_after(IDLE_SECONDS):
            data = await self.receive()
        if not data:
            return None
        with trio.move_on_after(HEAD_SECONDS):
            return await self._complete(data)
        raise too_late()

    async def _complete(self, data: bytes) -> Head | None:
        if not data:
            return None
        self.has_begun = True
        while _END not in data and len(data) <= MAX_HEAD_BYTES:
            more = await self.receive()
            if not more:
                return None
            data += more
        return self._take(data)

    def _take(self, data: bytes, parse: Callable[[bytes], Head] = parse_head) -> Head:
        """The head that ``data`` begins with; what follows it is read next."""
        end = data.find(_END)
        if end < 0 or end > MAX_HEAD_BYTES:
            raise Refused(431, f"the request head is longer than {MAX_HEAD_BYTES} bytes")
        end += len(_END)
        self.has_begun = False
        self.buffer = data[end:] + self.buffer
        head = parse(data[:end])
        if self._peer_names_requests and head.given_id:
            logs.bind(request_id=head.given_id)
        return head
