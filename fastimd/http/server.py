"""HTTP connections: hypercorn on a stream that lets through one judged request at a time.

hypercorn would follow any ``Upgrade`` it finds, write without a deadline and read without one. So
it never sees the connection: the stream here gives it the head that the door has read, then that
request's body, and the next head only after judging it too. A chunked body has no length by which
to find the next head; such a request is made the connection's last.
"""

from __future__ import annotations

from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from ..head import IDLE_SECONDS, Head, HeadReader, Refused

BODY_SECONDS = 30.0
SEND_SECONDS = 30.0

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
    """One app, served on connections that the door hands over."""

    def __init__(self, app: object) -> None:
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._config = HypercornConfig()
        self._config.logger_class = cast(Any, HypercornLog)
        self._config.include_server_header = False
        self._config.keep_alive_timeout = int(IDLE_SECONDS)
        self._context = WorkerContext(None)
        self._state: dict[str, Any] = {}
        self._in_progress = 0
        self._all_answered = trio.Event()

    async def wait_answered(self) -> None:
        """Wait until every request that is being served has its answer."""
        if self._in_progress:
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

    async def serve(self, stream: trio.SocketStream, reader: HeadReader, head: Head) -> None:
        """Serve a connection whose first head was read."""
        guarded = _GuardedStream(stream, reader, head)

        async def app(*call: Any) -> None:
            self._in_progress += 1
            try:
                await self._app(*call)
            finally:
                guarded.request_answered()
                self._in_progress -= 1
                if not self._in_progress:
                    self._all_answered.set()

        state = ConnectionState(self._state.copy())
        await TCPServer(cast(Any, app), self._config, self._context, state, cast(Any, guarded))


class _GuardedStream:
    """What hypercorn takes for the connection."""

    def __init__(self, stream: trio.SocketStream, reader: HeadReader, head: Head) -> None:
        self._stream = stream
        self._reader = reader
        self._body_left: int | None = 0
        self._body_deadline = 0.0
        self._unanswered = 0
        self._all_answered = trio.Event()
        self._next: bytes | None = self._open_request(head)
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._next is not None:
            data, self._next = self._next, None
            return data
        if self._body_left == 0:
            return await self._next_head()
        return await self._body(max_bytes)

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(SEND_SECONDS):
            await self._stream.send_all(data)
            return
        await trio.aclose_forcefully(self._stream)
        raise trio.BrokenResourceError("the client does not read")

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._all_answered.set()
        await self._stream.aclose()

    def request_answered(self) -> None:
        self._unanswered -= 1
        if not self._unanswered:
            self._all_answered.set()

    def _open_request(self, head: Head) -> bytes:
        if head.wants_websocket:
            raise Refused(400, "WebSocket must be a connection's first request")
        self._unanswered += 1
        self._all_answered = trio.Event()
        self._body_left = head.body_bytes
        self._body_deadline = trio.current_time() + BODY_SECONDS
        if self._body_left is None:
            return head.raw[:-2] + b"Connection: close\r\n\r\n"
        return head.raw

    async def _next_head(self) -> bytes:
        try:
            head = await self._reader.read_next_head()
            if head is not None:
                return self._open_request(head)
        except (OSError, trio.ClosedResourceError, Refused) as exc:
            log.debug("http.ended", reason=str(exc))
        # At the end of the stream hypercorn drops what it is doing: let the answers out first.
        with trio.move_on_after(SEND_SECONDS):
            await self._all_answered.wait()
        return b""

    async def _body(self, max_bytes: int) -> bytes:
        with trio.move_on_at(self._body_deadline):
            try:
                data = await self._reader.receive(min(max_bytes, self._body_left or max_bytes))
            except (OSError, trio.ClosedResourceError):
                return b""
            if self._body_left is not None:
                self._body_left -= len(data)
            return data
        return b""
