"""The life that all sockets share, whatever they speak.

One task reads, feeds the frame reader and acts on what it says; everything that is written goes
through the outbox, so that frames of the protocol and of the group keep their order. ``close`` may
be called from any task: it sends the close frame, and the session's own task ends when the client
has answered it, or after ``CLOSE_SECONDS``.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import getrandbits
from typing import Any, TypeAlias

import trio

from ..base.metrics import Metrics
from ..base.settings import Config
from ..door.receiver import Readiness
from .frames import (
    CLOSE,
    PONG,
    Close,
    Failure,
    FrameReader,
    Ping,
    close_payload,
    control_frame,
    text_frame,
)
from .keepalive import Keepalive
from .kick import Kick
from .outbox import Outbox
from .pace import Pace
from .subprotocol import LOST, Reason, Subprotocol

CLOSE_SECONDS = 5.0
"""How long a client has to answer a close frame."""
LINGER_SECONDS = 0.5
"""How long a closed connection is still read, so that the close frame is not lost in a reset."""

Payload: TypeAlias = Any
"""A message as it came: ``str``, or ``bytes`` where the subprotocol has binary frames."""


@dataclass(slots=True)
class Surroundings:
    """What every socket of the daemon works with, whatever it speaks."""

    config: Config
    metrics: Metrics
    keepalive: Keepalive
    readiness: Readiness
    sessions: Sessions


class Sessions(set["Session"]):
    """The sockets that are open.

    Args:
        kinds: of sockets; those that there are none of are counted too.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self._kinds = kinds
        self._emptied = trio.Event()

    @property
    def queued(self) -> int:
        """Bytes that wait in all their outboxes."""
        return sum(session.outbox.queued for session in self)

    def remove(self, session: Session) -> None:
        """Take out a socket that has ended."""
        super().remove(session)
        if not self:
            self._emptied.set()
            self._emptied = trio.Event()

    def by_kind(self) -> dict[str, int]:
        """How many there are of each kind."""
        kinds = Counter(session.kind for session in self)
        return {kind: kinds[kind] for kind in self._kinds}

    def of_group(self, group: str) -> list[Session]:
        """The sockets that are in a group."""
        return [session for session in self if group in session.groups]

    def kick(self, kick: Kick, age: float = 0.0) -> None:
        """Close the sockets that a kick means.

        Args:
            age: seconds since the kick; who came later may stay.
        """
        given_at = trio.current_time() - age
        for session in self.of_user(kick.user, kick.group):
            if session.opened_at <= given_at and kick.concerns(session.client):
                session.kick(kick.group, given_at, kick.close)

    def leave(self, user: str, group: str) -> None:
        """Close the sockets that a user has in a group: the user has left it."""
        for session in self.of_user(user, group):
            session.drop(group, "left the group")

    def of_user(self, user: str, group: str) -> list[Session]:
        """The sockets of a user that are in a group or on their way into it; all when it is ""."""
        return [each for each in self if each.user == user and (not group or each.is_at(group))]

    async def wait_empty(self) -> None:
        """Wait until the last socket has ended."""
        if self:
            await self._emptied.wait()


class Session:
    """One socket, from its handshake to its end.

    Args:
        opening: the answer to the handshake. It leaves together with what is sent first, for each
            write costs more than what is written.
        subprotocol: what the client speaks.
    """

    __slots__ = (
        "__weakref__",
        "_client",
        "_connection",
        "_ended",
        "_frames",
        "_heard_eof",
        "_keepalive",
        "_metrics",
        "_opening",
        "_outcome",
        "_pace",
        "_receiver",
        "_scope",
        "_settings",
        "groups",
        "heard_at",
        "is_dismissed",
        "is_open",
        "kind",
        "messages_in",
        "opened_at",
        "outbox",
        "subprotocol",
        "user",
    )

    conn_info: bytes = b""
    """What the client's token says of it, as JSON, for others to see."""
    kind: str
    user: str
    groups: Collection[str]
    """The groups it is in. As the two above, set before it runs."""
    opened_at: float
    """Set when it runs, by the clock of Trio."""
    is_dismissed: bool
    """The daemon has told the client to go: what it had said, and is not under way, is dropped. It
    will be said again on the next connection, or must not be."""

    def __init__(
        self,
        connection: socket.socket,
        scope: trio.CancelScope,
        nursery: trio.Nursery,
        around: Surroundings,
        opening: bytes,
        subprotocol: Subprotocol,
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._metrics = around.metrics
        self._settings = around.config
        self.subprotocol = subprotocol
        self._frames = FrameReader(self.max_bytes, subprotocol.opcode)
        self._pace: Pace | None = None
        self._opening = opening
        self._receiver = around.readiness.watch(connection)
        self._outcome: tuple[int, str] | None = None
        self._ended = False
        self._heard_eof = False
        self.outbox = self._make_outbox(connection, nursery)
        self.is_open = True
        self.is_dismissed = False
        self._keepalive = around.keepalive
        self.note_heard()
        self.messages_in = 0
        self._client = ""

    @property
    def client(self) -> str:
        """Its id, unique whatever daemon it is on: 32 hexadecimal digits."""
        if not self._client:
            self._client = f"{getrandbits(128):032x}"  # no secret: others are told it
        return self._client

    @property
    def max_bytes(self) -> int:
        """The longest message that the client may send."""
        return self._settings.group_message.max_bytes

    def is_at(self, group: str) -> bool:
        """It is in a group, or on its way into it."""
        return group in self.groups

    def _make_outbox(self, connection: socket.socket, nursery: trio.Nursery) -> Outbox:
        return Outbox(connection, nursery, self._settings.socket.outbox_bytes, self._end_slow)

    def description(self) -> dict[str, object]:
        """What it is, as the log tells it."""
        group = next(iter(self.groups), None)
        return {"wire": self.subprotocol.name, "kind": self.kind, "group": group, "user": self.user}

    async def receive(self, first: bytes = b"") -> list[Payload]:
        """Wait for messages and return all that came at once; none when the socket is closing.

        Args:
            first: bytes that came with the handshake.
        """
        payloads = self._feed(first) if first else []
        while not payloads and self.is_open:
            payloads = self._feed(await self._receiver.receive())
        return payloads

    def note_heard(self) -> None:
        """The client is there: it has said something, or could not be listened to until now."""
        self.heard_at = self._keepalive.next_turn

    def has_turn(self) -> bool:
        """Nothing holds the client to a pace."""
        return not self._settings.socket.max_messages_per_second

    async def wait_turn(self) -> bool:
        """Hold the client to its pace before a message; False when it is closed, as for a flood."""
        if self.has_turn():
            return True
        limits = self._settings.socket
        if self._pace is None:
            self._pace = Pace(limits.max_messages_per_second, limits.message_burst)
        self._pace.adapt(limits.max_messages_per_second, limits.message_burst)
        has_turn = await self._pace.wait_turn()
        self.note_heard()  # what it says meanwhile is not read
        if has_turn or self.is_dismissed:
            return not self.is_dismissed
        self._end_flood()
        return False

    def _end_flood(self) -> None:
        self._metrics.flood_closes += 1
        self.close(*self.subprotocol.flood)

    async def wait_closed(self) -> None:
        """Read until the client has ended its side too."""
        while not self._ended:
            self._feed(await self._receiver.receive())

    def take_opening(self) -> bytes:
        """The answer to the handshake, for whoever sends first; after that nothing."""
        opening, self._opening = self._opening, b""
        return opening

    def open(self) -> None:
        """Answer the handshake now: what comes next may be long in coming."""
        self._push(self.take_opening())

    def push_text(self, payload: bytes) -> None:
        """Send one text frame."""
        if self.is_open:
            self._push(self.take_opening() + text_frame(payload))
            self.outbox.messages += 1

    def ping(self) -> None:
        """Ask the client whether it is there."""
        self._push(self.take_opening() + self.subprotocol.ping)

    def end_silent(self) -> None:
        """End the socket: the client answers no ping."""
        code, reason = self.subprotocol.silent
        end = self.abort if code == LOST else self.close
        end(code, reason)

    def kick(self, _group: str, _given_at: float, close: Reason | None = None) -> None:
        """Close the socket: the user was kicked then from one of its groups, or from all."""
        self.close(*(close or self.subprotocol.kicked))

    def drop(self, _group: str, reason: str) -> None:
        """Close the socket: the user may not be in one of its groups any more."""
        self.close(1008, reason)

    def tell_typing(self, _group: str, _user: str) -> None:
        """Somebody else is typing in one of its groups; not every client is told."""

    def dismiss(self, reason: str) -> None:
        """Close the socket: the daemon stops."""
        self.close(*(self.subprotocol.drained or (1001, reason)))

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close the socket; the first call counts."""
        self.is_dismissed = True
        if self.is_open:
            self._send_close(close_payload(code, reason), code, reason)
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)

    def give_up(self, _group: str = "") -> None:
        """Close the socket: what it shows cannot be read now. The log has said why."""
        self.close(*self.subprotocol.unavailable)

    def abort(self, code: int, reason: str) -> None:
        """End the socket now, without asking the client."""
        self._outcome = self._outcome or (code, reason)
        self.is_open = False
        self.outbox.close()
        self._scope.cancel()

    async def finish(self) -> None:
        """Let the last bytes out and end the stream."""
        try:
            if not self._heard_eof or self.outbox.queued:
                with trio.move_on_after(LINGER_SECONDS, shield=True):
                    await self._linger()
        finally:
            self._receiver.close()
            self.outbox.close()

    async def _linger(self) -> None:
        await self.outbox.wait_empty()
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the client has already gone, or the door has cut it
        while not self._heard_eof:
            self._heard_eof = not await self._receiver.receive()

    def outcome(self) -> tuple[int, str]:
        """Close code and reason, as the log tells them."""
        return self._outcome or (LOST, "connection lost")

    def _push(self, data: bytes) -> None:
        self.outbox.push(data)
        self._metrics.bytes_sent += len(data)

    def _feed(self, data: bytes) -> list[Payload]:
        """Take what was read: returns the messages in it, and answers the rest."""
        self.note_heard()
        if not data:
            self._ended = self._heard_eof = True
            self.is_open = False
            return []
        self._metrics.bytes_received += len(data)
        payloads: list[Payload] = []
        for event in self._frames.feed(data):
            if not isinstance(event, (str, bytes)):
                self._answer(event)
            elif self.is_open:
                payloads.append(event)
        self._take_note(len(payloads))
        return payloads

    def _take_note(self, payloads: int) -> None:
        """So many payloads have come: each is a message."""
        self.count_messages(payloads)

    def count_messages(self, count: int) -> None:
        """The client has sent so many messages."""
        self.messages_in += count
        self._metrics.messages_received += count

    def _answer(self, event: Ping | Close | Failure) -> None:
        if isinstance(event, Ping):
            self._push(self.take_opening() + control_frame(PONG, event.payload))
            return
        self._ended = True
        if not self.is_open:
            return
        if isinstance(event, Close):
            self._send_close(event.payload, event.code, event.reason)
        else:
            self._send_close(close_payload(*event), *event)

    def _send_close(self, payload: bytes, code: int, reason: str) -> None:
        self._push(self.take_opening() + control_frame(CLOSE, payload))
        self.outbox.seal()  # nothing may follow a close frame, RFC 6455 section 5.5.1
        self._outcome = (code, reason)
        self.is_open = False

    def _end_slow(self) -> None:
        if self.is_open:
            self._metrics.slow_closes += 1
            self.close(*self.subprotocol.slow)
        else:
            self._scope.cancel()
