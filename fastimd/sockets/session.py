"""The life that chat sockets and group-list sockets share.

One task reads, feeds the ``websockets`` protocol object and acts on what it says; everything that
is written goes through the outbox, so that frames of the protocol and of the group keep their
order. ``close`` may be called from any task: it sends the close frame, and the session's own task
ends when the client has answered it, or after ``CLOSE_SECONDS``.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio
from websockets.frames import BINARY, CONT, TEXT, Frame
from websockets.protocol import SERVER, Protocol, State

from ..codec import text_frame
from ..config import Config
from ..errors import NotLoggedIn, StoreUnavailable
from ..hub import Hub
from ..metrics import Metrics
from ..outbox import Outbox
from ..poller import Poller
from ..store import Store
from .handshake import Route
from .keepalive import Keepalive

CLOSE_SECONDS = 5.0
"""How long a client has to answer a close frame."""
LINGER_SECONDS = 0.5
"""How long a closed connection is still read, so that the close frame is not lost in a reset."""
RECEIVE_BYTES = 65536

LOGIN_REQUIRED = b"440"

log = structlog.get_logger("fastimd.socket")

# One line when a socket closes is enough, and it is ours.
_PROTOCOL_LOG = logging.getLogger("fastimd.websockets")
_PROTOCOL_LOG.setLevel(logging.WARNING)


@dataclass(slots=True)
class Surroundings:
    """What every socket of the daemon works with."""

    config: Config
    store: Store
    hub: Hub
    poller: Poller
    metrics: Metrics
    keepalive: Keepalive
    sessions: Sessions = field(default_factory=lambda: Sessions())


class Sessions(set["Session"]):
    """The sockets that are open."""

    def __init__(self) -> None:
        super().__init__()
        self._emptied = trio.Event()

    def remove(self, session: Session) -> None:
        """Take out a socket that has ended."""
        super().remove(session)
        if not self:
            self._emptied.set()
            self._emptied = trio.Event()

    async def wait_empty(self) -> None:
        """Wait until the last socket has ended."""
        if self:
            await self._emptied.wait()


class Session:
    """One socket, from its handshake to its end."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_ended",
        "_fragments",
        "_heard_eof",
        "_metrics",
        "_protocol",
        "_scope",
        "closing",
        "heard_at",
        "messages_in",
        "outbox",
    )

    def __init__(
        self,
        connection: socket.socket,
        scope: trio.CancelScope,
        nursery: trio.Nursery,
        around: Surroundings,
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._metrics = around.metrics
        self._protocol = Protocol(
            SERVER,
            state=State.OPEN,
            max_size=around.config.group_message.max_bytes,
            logger=_PROTOCOL_LOG,
        )
        self._fragments: list[bytes] = []
        self._ended = False
        self._heard_eof = False
        self.outbox = Outbox(
            connection.send,
            partial(trio.lowlevel.wait_writable, connection),
            nursery,
            around.config.socket.outbox_bytes,
            self._end_slow,
        )
        self.closing: tuple[int, str] | None = None
        self.heard_at = trio.current_time()
        self.messages_in = 0

    @property
    def is_open(self) -> bool:
        """Neither side has begun to close."""
        return self._protocol.state is State.OPEN

    async def receive(self, first: bytes = b"") -> list[str]:
        """Wait for messages and return all that came at once; none when the socket is closing.

        Args:
            first: bytes that came with the handshake.
        """
        texts = self._feed(first) if first else []
        while not texts and self.is_open:
            texts = self._feed(await self._read())
        return texts

    async def wait_closed(self) -> None:
        """Read until the client has ended its side too."""
        while not self._ended:
            self._feed(await self._read())

    def push_text(self, payload: bytes) -> None:
        """Send one text frame."""
        if self.is_open:
            self.outbox.push(text_frame(payload))
            self.outbox.messages += 1

    def ping(self) -> None:
        """Ask the client whether it is there."""
        if self.is_open:
            self._protocol.send_ping(b"")
            self._write_protocol()

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close the socket; the first call counts."""
        if not self.is_open:
            return
        self.closing = (code, reason)
        self._protocol.send_close(code, reason)
        self._write_protocol()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)

    def abort(self, code: int, reason: str) -> None:
        """End the socket now, without asking the client."""
        self.closing = self.closing or (code, reason)
        self.outbox.close()
        self._scope.cancel()

    async def finish(self) -> None:
        """Let the last bytes out and end the stream."""
        with trio.move_on_after(LINGER_SECONDS, shield=True):
            await self.outbox.wait_empty()
            try:
                self._connection.shutdown(socket.SHUT_WR)
                while not self._heard_eof:
                    self._heard_eof = not await self._read()
            except OSError:
                return  # the client has already gone

    def outcome(self) -> tuple[int, str]:
        """Close code and reason, as the log tells them."""
        if self.closing is not None:
            return self.closing
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        if sent is not None and sent is not received:
            return int(sent.code), sent.reason
        if received is not None:
            return int(received.code), received.reason
        return 1006, "connection lost"

    async def _read(self) -> bytes:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._connection)
                return self._connection.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def _feed(self, data: bytes) -> list[str]:
        self.heard_at = trio.current_time()
        texts: list[str] = []
        if data:
            self._protocol.receive_data(data)
            for frame in self._protocol.events_received():
                assert isinstance(frame, Frame)
                self._take_frame(frame, texts)
        else:
            self._protocol.receive_eof()
            self._ended = self._heard_eof = True
        self._write_protocol()
        return texts

    def _take_frame(self, frame: Frame, texts: list[str]) -> None:
        if self.closing is not None or frame.opcode not in (TEXT, CONT, BINARY):
            return
        if frame.opcode is BINARY:
            self.close(1003, "text frames only")
            return
        if not frame.fin:
            self._fragments.append(bytes(frame.data))
            return
        payload = b"".join((*self._fragments, frame.data))
        self._fragments.clear()
        try:
            texts.append(payload.decode())
        except UnicodeDecodeError:
            self.close(1007, "invalid UTF-8")
            return
        self.messages_in += 1
        self._metrics.messages_received += 1

    def _write_protocol(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.outbox.push(data)
            else:
                self._ended = True  # the protocol has nothing more to say or to hear
        if not self.is_open:
            self.outbox.seal()  # nothing may follow a close frame, RFC 6455 section 5.5.1

    def _end_slow(self) -> None:
        self._metrics.slow_closes += 1
        self.abort(1013, "slow")


Serve = Callable[[Session, Surroundings, Route, bytes], Awaitable[None]]


async def run_session(
    serve: Serve, session: Session, around: Surroundings, route: Route, first: bytes
) -> None:
    """Run one kind of socket and keep its promises: the log lines, the counts and the end.

    Args:
        serve: the kind of socket.
        first: bytes that came with the handshake.
    """
    opened_at = trio.current_time()
    around.metrics.sockets_opened += 1
    around.sessions.add(session)
    log.info("socket.opened", kind=route.kind, group=route.group, user=route.user)
    try:
        around.keepalive.watch(session)
        try:
            await serve(session, around, route, first)
        except NotLoggedIn:
            session.push_text(LOGIN_REQUIRED)
            session.close(1008, "login required")
        except StoreUnavailable as exc:
            session.close(1013, "try again later")
            log.warning("socket.store_unavailable", error=str(exc))
        except Exception:
            session.close(1011, "internal error")
            raise  # the door logs it
        await session.wait_closed()
    finally:
        await session.finish()
        around.sessions.remove(session)
        session.outbox.close()
        code, reason = session.outcome()
        around.metrics.count_close(code)
        log.info(
            "socket.closed",
            kind=route.kind,
            group=route.group,
            user=route.user,
            code=code,
            reason=reason,
            seconds=round(trio.current_time() - opened_at, 3),
            messages_in=session.messages_in,
            messages_out=session.outbox.messages,
        )
