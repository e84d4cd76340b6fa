"""HTTP connections: hypercorn on a stream that lets through one judged request at a time.

hypercorn would follow any ``Upgrade`` it finds, write without a deadline and read without one. So
it never sees the connection: the stream here gives it the head that the door has read, then that
request's body, and the next head only after judging it too. A request with a chunked body is made
the connection's last. For a WebSocket handshake, or what else is not for the app, hypercorn sees
the end of the stream, and the door gets the head: clients and proxies send it on whatever
connection they have.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from ..door.chunks import Chunks
from ..door.head import IDLE_SECONDS, Head, HeadReader, Refused, request_id_field

BODY_SECONDS = 30.0
SEND_SECONDS = 30.0
LINGER_SECONDS = 1.0
"""How long a connection that ends is still read, so that no reset costs the answer."""
CUT_SECONDS = 1.0
"""How long an app that has not had all of a body may take to answer when no more comes."""

_ANSWER_HEAD = re.compile(rb"HTTP/1\.1 [2-5].*?\r\n\r\n", re.DOTALL)

log = structlog.get_logger("fastimd.http")


class HypercornLog:
    """Takes hypercorn's log calls; the app writes the line of each request itself."""

    def __init__(self, _config: HypercornConfig) -> None: ...

    async def access(self, *_request: object) -> None: ...

    async def info(self, message: str, *_args: object) -> None:
        log.debug("http.hypercorn", message=message)

    async def warning(self, message: str, *_args: object) -> None:
        log.warning("http.hypercorn", message=message)

    async def exception(self, message: str, *_args: object) -> None:
        log.exception("http.hypercorn", message=message)


class HttpServer:
    """One app, served on connections that the door hands over.

    Args:
        is_for_others: whether a request that comes behind others is not for the app; a WebSocket
            handshake never is.
    """

    def __init__(self, app: object, is_for_others: Callable[[Head], bool]) -> None:
        self._is_for_others = is_for_others
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._config = HypercornConfig()
        self._config.logger_class = cast(Any, HypercornLog)
        self._config.include_server_header = False
        self._config.keep_alive_timeout = int(IDLE_SECONDS)
        self._context = WorkerContext(None)
        self._state: dict[str, Any] = {}
        self._asking: set[_GuardedStream] = set()
        self._all_answered = trio.Event()

    async def wait_answered(self) -> None:
        """Wait until every request that came has its answer."""
        if self._asking:
            self._all_answered = trio.Event()
            await self._all_answered.wait()

    async def run_lifespan(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the app, and end it when cancelled."""
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                await self._context.terminated.set()
                with trio.move_on_after(5, shield=True):
                    await lifespan.wait_for_shutdown()

    async def serve(self, stream: trio.SocketStream, reader: HeadReader, head: Head) -> Head | None:
        """Serve a connection whose first head was read.

        Returns:
            None at its end; else the head of a request that is not for the app, which came when all
            before it was answered, and for which the connection is still open.

        Raises:
            Refused: the first head is a handshake.
        """
        guarded = _GuardedStream(stream, reader, head, self._asking.add, self._is_for_others)

        async def app(*call: Any) -> None:
            try:
                await self._app(*call)
            finally:
                guarded.request_answered()
                self._stop_asking(guarded)

        state = ConnectionState(self._state.copy())
        server = _Server(cast(Any, app), self._config, self._context, state, cast(Any, guarded))
        try:
            await server
        finally:
            self._stop_asking(guarded)
            _untie(server)
        return guarded.next_head

    def _stop_asking(self, stream: _GuardedStream) -> None:
        self._asking.discard(stream)
        if not self._asking:
            self._all_answered.set()


async def serve_http(
    http: HttpServer, connection: socket.socket, reader: HeadReader, head: Head
) -> Head | None:
    """Serve a connection that the door hands over; returns what ``HttpServer.serve`` returns."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    return await http.serve(stream, reader, head)


def _untie(server: _Server) -> None:
    """Have a server that has ended hold nothing: what hypercorn makes of a connection is a ring.

    So it is freed at once, and needs no garbage collector (``daemon/memory.py``).
    """
    wrapper = vars(server).get("protocol")  # none, if the client went at once
    if wrapper is not None:
        vars(wrapper.protocol).clear()
    vars(server).clear()


class _Server(TCPServer):
    async def _idle_timeout(self) -> None:
        """Nothing: the stream knows how long it may stay silent."""


class _GuardedStream:
    """What hypercorn takes for the connection.

    The next head is read when the answer before it has gone out: hypercorn may miss the end of an
    answer while it looks at a request that came behind (its ``can_read`` is cleared after it was
    set), and then waits for ever.

    hypercorn may be cancelled at any point of its closing. So whatever it does first ends the
    reading, and the door closes the connection when ``serve`` returns.

    Args:
        asks: told that a request begins.
        is_for_others: whether a later request is not for the app; then it is ``next_head``.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        reader: HeadReader,
        head: Head,
        asks: Callable[[_GuardedStream], None],
        is_for_others: Callable[[Head], bool],
    ) -> None:
        self._is_for_others = is_for_others
        self._stream = stream
        self._reader = reader
        self._asks = asks
        self._body_left: int | None = 0
        self._body_deadline = 0.0
        self._chunks: Chunks | None = None
        self._answered = trio.Event()
        self._has_head = False
        self._held_head = b""
        self._is_closing = False
        self._reading = trio.CancelScope()
        self.next_head: Head | None = None
        if head.wants_websocket:
            raise Refused(400, "no WebSocket here")
        self._next: bytes | None = self._open_request(head)
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._next is not None:
            data, self._next = self._next, None
            return data
        with trio.CancelScope() as self._reading:
            if self._is_closing:
                data = b""
            elif self._body_left == 0:
                data = await self._next_head()
            else:
                data = await self._body(max_bytes)
        if not self._is_closing:
            return data
        with trio.move_on_after(LINGER_SECONDS), suppress(OSError, trio.ClosedResourceError):
            while await self._reader.receive():
                pass
        raise trio.ClosedResourceError("it is being closed")

    async def send_all(self, data: bytes) -> None:
        if not self._has_head and _ANSWER_HEAD.fullmatch(data):
            self._has_head = True
            status, rest = data.split(b"\r\n", 1)
            # It leaves with its body, so nobody gets half an answer.
            self._held_head = status + b"\r\n" + request_id_field() + rest
            return
        data, self._held_head = self._held_head + data, b""
        try:
            with trio.fail_after(SEND_SECONDS):
                await self._stream.send_all(data)
        except (trio.TooSlowError, trio.BrokenResourceError) as exc:
            self._close()
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the client does not read") from exc
        except trio.BusyResourceError as exc:
            raise trio.ClosedResourceError("it is being closed") from exc

    async def send_eof(self) -> None:
        self._close()
        if self.next_head is not None:
            return  # the connection goes on, without hypercorn
        with trio.CancelScope(shield=True):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    def request_answered(self) -> None:
        self._answered.set()

    def _close(self) -> None:
        self._is_closing = True
        self._reading.cancel()

    def _open_request(self, head: Head) -> bytes:
        self._asks(self)
        self._answered = trio.Event()
        self._has_head = False
        self._body_left = head.body_bytes
        self._body_deadline = trio.current_time() + BODY_SECONDS
        if self._body_left is None:
            self._chunks = Chunks()
            return head.raw[:-2] + b"Connection: close\r\n\r\n"
        return head.raw

    async def _next_head(self) -> bytes:
        await self._answered.wait()
        if self._chunks is not None:
            return b""
        try:
            head = await self._reader.read_next_head()
            if head is not None and (head.wants_websocket or self._is_for_others(head)):
                self.next_head = head
            elif head is not None:
                return self._open_request(head)
        except (OSError, trio.ClosedResourceError, Refused) as exc:
            log.debug("http.ended", reason=str(exc))
        return b""

    async def _body(self, max_bytes: int) -> bytes:
        data = b""
        with trio.move_on_at(self._body_deadline), suppress(OSError, trio.ClosedResourceError):
            data = await self._reader.receive(min(max_bytes, self._body_left or max_bytes))
        if not data:
            # At the end of the stream hypercorn drops an answer that the app may be giving already.
            with trio.move_on_after(CUT_SECONDS):
                await self._answered.wait()
        elif self._chunks is not None:
            data = data[: self._chunks.take(data)]
            self._body_left = 0 if self._chunks.has_ended else None
        elif self._body_left is not None:
            self._body_left -= len(data)
        return data
