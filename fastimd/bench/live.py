"""The live wire: one socket in many groups, whose messages come among answers and pings.

A server may put what it has for a client into one frame, and so cut the same messages otherwise for
each member of a group. The reader makes one stream of pushes of that, which a transcript compares
as it does frames; the answers to a member, and pings, are its own and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .dialect import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Dialect,
    Found,
    Greeting,
    Visit,
    client_frame,
    find_frame,
)
from .encodings import JSON, PROTOBUF, SUBSCRIBE, Encoding, Reply
from .links import Link, closing
from .transcript import Disorder


class LiveGreeting(Greeting):
    """The answers to ``connect`` and to each ``subscribe``, which go out together."""

    def __init__(self, encoding: Encoding, visit: Visit) -> None:
        commands = [encoding.connect(visit.user, visit.token)]
        for number, group in enumerate(visit.groups, SUBSCRIBE):
            commands.append(encoding.subscribe(number, group, visit.since.get(group)))
        super().__init__(len(commands), (encoding.commands(commands),))
        self._encoding = encoding
        self._visit = visit

    def take(self, payload: bytes) -> bytes:
        answer = b""
        for reply in self._encoding.replies(payload):
            if reply.error:
                raise ConnectionError(f"refused: {reply.error}")
            if not reply.id:
                answer = self._encoding.pong
                continue
            self.awaited -= 1
            if reply.id >= SUBSCRIBE:
                self._enter(self._visit.groups[reply.id - SUBSCRIBE], reply)
        return answer

    def _enter(self, group: str, reply: Reply) -> None:
        since = self._visit.since.get(group)
        if since is not None and not reply.is_recovered:
            raise ConnectionError(f"not recovered: {group} at {since}")
        if reply.position.epoch:  # else the server keeps no history to come back to
            self._visit.positions[group] = reply.position


@dataclass(frozen=True)
class Live(Dialect):
    """The sockets of the live wire, in one of its encodings."""

    path: str = "/connection/websocket"
    encoding: Encoding = JSON

    @property
    def name(self) -> str:
        return "live" if self.opcode == TEXT else "live-protobuf"

    @property
    def opcode(self) -> int:
        return self.encoding.opcode

    @property
    def is_live(self) -> bool:
        return True

    def greeting(self, visit: Visit) -> Greeting:
        return LiveGreeting(self.encoding, visit)

    def around(self, group: str, size: int) -> tuple[bytes, bytes]:
        return self.encoding.around(group, size)

    def find(self, data: bytes, at: int) -> Found:
        return self.encoding.find(data, at)

    def position(self, payload: bytes) -> int | None:
        return self.encoding.offset(payload)


LIVE = Live()
LIVE_PROTOBUF = Live(path="/connection/websocket?format=protobuf", encoding=PROTOBUF)


class ReplyReader:
    """Between a socket and what wants the messages that come there.

    Args:
        on_open: gets the socket when it is greeted.
        on_data: gets whole pushes.
        on_answers: gets how many answers have come.
    """

    __slots__ = ("_encoding", "_link", "_on_answers", "_on_data", "_on_open", "_rest")

    def __init__(
        self,
        encoding: Encoding,
        on_open: Callable[[Link], None],
        on_data: Callable[[bytes], None],
        on_answers: Callable[[int], None],
    ) -> None:
        self._encoding = encoding
        self._on_open = on_open
        self._on_data = on_data
        self._on_answers = on_answers
        self._rest = b""
        self._link: Link

    def enter(self, link: Link) -> None:
        """The socket is open."""
        self._link = link
        self._on_open(link)

    def take(self, data: bytes) -> None:
        """Bytes have come.

        Raises:
            Disorder: they are no frames, or the server refused a message.
            ConnectionError: among them is a close frame.
        """
        data = self._rest + data
        at = 0
        payloads: list[bytes] = []
        try:
            while (frame := find_frame(data, at)) is not None:
                opcode, start, at = frame
                if opcode in (TEXT, BINARY):
                    payloads.append(data[start:at])
                elif opcode == PING:
                    self._link.pong(data[start:at])
                elif opcode == CLOSE:
                    raise closing(data[start:at])
            self._rest = data[at:]
            self._sort(payloads)
        except ValueError as exc:
            raise Disorder(str(exc)) from None

    def _sort(self, payloads: list[bytes]) -> None:
        encoding = self._encoding
        said = encoding.sort(payloads)
        if said.refusal:
            raise Disorder(f"a message was refused: {said.refusal[:200]!r}")
        for _ in range(said.pings):
            self._link.send(client_frame(encoding.opcode, encoding.pong))
        if said.answers:
            self._on_answers(said.answers)
        if said.pushes:
            self._on_data(said.pushes)
