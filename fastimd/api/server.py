"""The API over HTTP, beside hypercorn: a call costs a fraction of what it would cost behind it.

The door has read and judged the first head. Here the body is read within bounds, the key is looked
at, and the answer written with one call of the system. A request that is no call goes back to the
door. What usually takes no time has no deadline of its own, for each would cost as much as the rest
of a step: the connection has one.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import structlog
import trio
from msgspec.json import encode

from ..base import log as logs
from ..base.metrics import Metrics
from ..base.settings import Config
from ..base.settings.api import digest_of
from ..door.chunks import Chunks
from ..door.head import Head, HeadReader, request_id_field
from . import PATH
from .calls import Answer, Calls
from .errors import BAD_REQUEST, METHOD_NOT_FOUND, Error, status_of
from .keys import OPERATOR, Caller, Strangers, find_caller

_PATH = PATH.encode()
MAX_BODY_BYTES = 8 * 1024 * 1024
"""What a broadcast to the most groups with the longest ids needs."""
BODY_SECONDS = 10.0
SEND_SECONDS = 10.0
LINGER_SECONDS = 2.0
"""How long a client that still writes may take to see that it was answered."""
UNAUTHORIZED = 101
"""The code in the body of a 401."""

log = structlog.get_logger("fastimd.api")


@lru_cache(maxsize=256)
def is_api(head: Head) -> bool:
    """Whether a request is a call."""
    return head.target.startswith(_PATH) and not head.wants_websocket


class ApiServer:
    """Answers calls on one address.

    Args:
        document: the OpenAPI description, as JSON.
        trusts: whether a request without a key is an operator's.
        serves: whether a request is served here.
    """

    def __init__(
        self,
        calls: Calls,
        config: Config,
        metrics: Metrics,
        document: Callable[[], bytes],
        trusts: Callable[[Head], bool],
        serves: Callable[[Head], bool],
    ) -> None:
        self._calls = calls
        self._config = config
        self._metrics = metrics
        self._trusts = trusts
        self._serves = serves
        self._document = document
        self._strangers = Strangers()
        self._asking = 0
        self._all_answered = trio.Event()
        self.is_ending = False
        """Each answer is the last of its connection."""

    async def wait_answered(self) -> None:
        """Wait until every request that came has its answer."""
        if self._asking:
            self._all_answered = trio.Event()
            await self._all_answered.wait()

    async def serve(self, connection: socket.socket, reader: HeadReader, head: Head) -> Head | None:
        """Answer calls; returns the head of the first other request, None at the end."""
        found: Head | None = head
        while found is not None and self._serves(found):
            reader.extend()
            self._asking += 1
            try:
                is_last = await self._serve(connection, reader, found)
            finally:
                self._asking -= 1
                if not self._asking:
                    self._all_answered.set()
            if is_last:
                await _linger(connection, reader)
                return None
            found = await reader.read_head_behind()
            if reader.is_proxied:
                break  # the door looks whose it is
        reader.scope.deadline = math.inf
        return found

    async def _serve(self, connection: socket.socket, reader: HeadReader, head: Head) -> bool:
        """Answer; returns whether the connection ends."""
        asked = _read_head(head)
        status, body, fields, was_read = HTTPStatus.OK, b"", b"", False
        try:
            caller = self._find_caller(head, asked)
            if asked.is_post:
                data = await self._read_body(connection, reader, head, asked.length)
                was_read = True
                answer = await self._calls.call(caller, asked.name, data)
                status, body = _shown(head, asked.name, answer)
            elif head.method in (b"GET", b"HEAD") and asked.name == "openapi.json":
                body = self._document()
            else:
                raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "use POST", b"Allow: POST\r\n")
        except _Refused as exc:
            status, fields = exc.status, exc.fields
            body = Answer(b"", Error(exc.code, str(exc))).body
        is_last = self.is_ending or not asked.is_kept or (asked.length != 0 and not was_read)
        await _send(connection, _answer(asked, status, body, fields, is_last=is_last))
        return is_last

    def _find_caller(self, head: Head, asked: _Asked) -> Caller:
        if asked.digest is None:
            if self._trusts(head):
                return OPERATOR
            raise _Refused(HTTPStatus.UNAUTHORIZED, "unauthorized: no key", code=UNAUTHORIZED)
        caller = find_caller(self._config.api.keys, asked.digest)
        if caller is not None:
            return caller
        self._metrics.api_keys_refused += 1
        if not self._strangers.note(str(logs.bound().get("client", ""))):
            raise _Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong keys",
                b"Retry-After: 60\r\n",
                UNAUTHORIZED,
            )
        log.warning("api.key_refused")
        raise _Refused(HTTPStatus.UNAUTHORIZED, "unauthorized: wrong key", code=UNAUTHORIZED)

    async def _read_body(
        self, connection: socket.socket, reader: HeadReader, head: Head, length: int | None
    ) -> bytes:
        if length is not None and length <= len(reader.buffer) and length <= MAX_BODY_BYTES:
            return await reader.receive(length) if length else b""
        if length is None and head.fields[b"transfer-encoding"].lower() != b"chunked":
            raise _Refused(
                HTTPStatus.NOT_IMPLEMENTED, "bad request: a body comes whole or in chunks"
            )
        if length is not None and length > MAX_BODY_BYTES:
            raise _too_long()
        if head.fields.get(b"expect", b"").lower() == b"100-continue":
            await _send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
        with trio.move_on_after(BODY_SECONDS):
            return await (_read_chunks(reader) if length is None else _read(reader, length))
        raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "the body took too long")


class _Refused(Exception):
    """A request that is no call; its error has a status of HTTP."""

    def __init__(
        self, status: HTTPStatus, reason: str, fields: bytes = b"", code: int = BAD_REQUEST
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.fields = fields
        self.code = code


def _too_long() -> _Refused:
    return _Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"bad request: more than {MAX_BODY_BYTES} bytes"
    )


class _Asked(NamedTuple):
    """What a head says of a call: the method, who calls, and how to answer.

    ``digest`` is that of the key, None when there is none; ``length`` is that of the body, None
    when it comes in chunks. A client ``is_old`` that speaks HTTP/1.0.
    """

    name: str
    digest: str | None
    length: int | None
    is_post: bool
    wants_body: bool
    is_kept: bool
    is_old: bool


@lru_cache(maxsize=256)
def _read_head(head: Head) -> _Asked:
    secret = _secret_of(head)
    # A client of HTTP/1.0 has to be told that its connection is kept.
    is_old = head.raw.split(b"\r\n", 1)[0].endswith(b"1.0")
    wanted = head.fields.get(b"connection", b"").lower()
    return _Asked(
        head.target.partition(b"?")[0].removeprefix(_PATH).decode("latin-1"),
        None if secret is None else digest_of(secret),
        head.body_bytes,
        head.method == b"POST",
        head.method != b"HEAD",
        b"keep-alive" in wanted if is_old else b"close" not in wanted,
        is_old,
    )


def _secret_of(head: Head) -> bytes | None:
    """The key that a request shows, if it shows one."""
    key = head.fields.get(b"x-api-key")
    if key is not None:
        return key
    scheme, _, key = head.fields.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"apikey" else None


async def _read(reader: HeadReader, length: int) -> bytes:
    parts = []
    while length:
        part = await reader.receive(length)
        if not part:
            raise OSError("the client went before its request was whole")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


async def _read_chunks(reader: HeadReader) -> bytes:
    content = bytearray()
    chunks, size = Chunks(content), 0
    while not chunks.has_ended:
        data = await reader.receive()
        if not data:
            raise OSError("the client went before its request was whole")
        taken = chunks.take(data)
        reader.buffer = data[taken:] + reader.buffer
        size += taken
        if chunks.is_malformed:
            raise _Refused(HTTPStatus.BAD_REQUEST, "bad request: malformed chunks")
        if size > 2 * MAX_BODY_BYTES or len(content) > MAX_BODY_BYTES:
            raise _too_long()
    return bytes(content)


def _shown(head: Head, name: str, answer: Answer) -> tuple[HTTPStatus, bytes]:
    if answer.error is None and name == "batch":
        return HTTPStatus.OK, b'{"replies":%b}' % answer.result
    if answer.error is None:
        return HTTPStatus.OK, answer.body
    if head.fields.get(b"x-centrifugo-error-mode") == b"transport":
        return status_of(answer.error.code), encode(answer.error)
    if answer.is_malformed:
        return HTTPStatus.BAD_REQUEST, answer.body
    if answer.error.code == METHOD_NOT_FOUND:
        return HTTPStatus.NOT_FOUND, answer.body
    return HTTPStatus.OK, answer.body


def _answer(
    asked: _Asked, status: HTTPStatus, body: bytes, fields: bytes, *, is_last: bool
) -> bytes:
    kept = b"Connection: keep-alive\r\n" if asked.is_old else b""
    return _ANSWER % (
        _line_of(status),
        _date(),
        request_id_field(),
        fields,
        len(body),
        b"Connection: close\r\n" if is_last else kept,
        body if asked.wants_body else b"",
    )


_ANSWER = (
    b"HTTP/1.1 %b\r\nDate: %b\r\n%b%bContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n%b\r\n%b"
)


@lru_cache
def _line_of(status: HTTPStatus) -> bytes:
    return b"%d %b" % (status, status.phrase.encode())


_last_date = (0, b"")


def _date() -> bytes:
    global _last_date
    now = int(time.time())
    if now != _last_date[0]:
        _last_date = now, formatdate(now, usegmt=True).encode()
    return _last_date[1]


async def _linger(connection: socket.socket, reader: HeadReader) -> None:
    """End a connection so that its client has the answer.

    Closed while bytes of it wait to be read, it would be reset, and the answer might be lost.
    """
    connection.shutdown(socket.SHUT_WR)
    with trio.move_on_after(LINGER_SECONDS):
        while await reader.receive():
            pass


async def _send(connection: socket.socket, data: bytes) -> None:
    """Write all, or break the connection of a client that does not read."""
    try:
        sent = connection.send(data)
    except BlockingIOError:
        sent = 0
    if sent == len(data):
        return
    rest = memoryview(data)[sent:]
    with trio.move_on_after(SEND_SECONDS):
        while rest:
            await trio.lowlevel.wait_writable(connection)
            try:
                rest = rest[connection.send(rest) :]
            except BlockingIOError:
                continue
        return
    raise OSError("the client does not read")
