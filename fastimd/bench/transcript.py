"""What a group says, as one process hears it, and whether every member there hears just that."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from .dialect import CLOSE, PING, TEXT, Dialect, Found, Texts
from .links import closing

_KEPT = 4096
"""Messages kept before those that every member has heard are forgotten."""


class Disorder(Exception):
    """A member got something else than what was said: lost, doubled, out of order, or foreign."""


class Listener:
    """How far one member has heard.

    ``heard`` counts messages, ``at`` the bytes of their frames.
    """

    __slots__ = ("at", "heard", "rest")

    def __init__(self) -> None:
        self.at = 0
        self.heard = 0
        self.rest = b""


class Transcript:
    """The messages of one group.

    Args:
        texts: those that are said in it.
        dialect: how messages come; whether to check that their positions increase.
    """

    def __init__(self, texts: Texts, dialect: Dialect) -> None:
        self.texts = texts
        self._dialect = dialect
        self._listeners: list[Listener] = []
        self._frames = bytearray()
        self._ends: list[int] = []
        self._senders: list[int] = []
        self._moments: list[int] = []
        self._next_number: dict[int, int] = {}
        self._newest = 0
        # What was forgotten: bytes and messages.
        self._base = 0
        self._first = 0

    @property
    def messages(self) -> int:
        """How many were said, as far as anybody here has heard."""
        return self._first + len(self._ends)

    @property
    def delivered(self) -> int:
        """How many were heard by every member here."""
        return min((listener.heard for listener in self._listeners), default=0)

    def listen(self) -> Listener:
        """A member comes; before anything is said."""
        listener = Listener()
        self._listeners.append(listener)
        return listener

    def moment(self, index: int) -> int:
        """When a message was sent, ns."""
        return self._moments[index - self._first]

    def sender(self, index: int) -> int:
        """Who sent a message."""
        return self._senders[index - self._first]

    def take(self, listener: Listener, data: bytes, pong: Callable[[bytes], None]) -> int:
        """Compare what a member got with what the group says.

        Args:
            pong: answers a ping with its payload.

        Returns:
            How many messages it had heard before; ``listener.heard`` is how many it has now.

        Raises:
            Disorder: it is not what the group says, or not what was sent.
            ConnectionError: the server closes the socket.
        """
        if listener.rest:
            data = listener.rest + data
            listener.rest = b""
        start = listener.at - self._base
        if self._frames[start : start + len(data)] == data:
            listener.at += len(data)
        else:
            self._take_by_frame(listener, data, pong)
        before = listener.heard
        first = self._first
        listener.heard = first + bisect_right(self._ends, listener.at, before - first)
        return before

    def _take_by_frame(
        self, listener: Listener, data: bytes, pong: Callable[[bytes], None]
    ) -> None:
        at = 0
        end = self._base + len(self._frames)
        while at < len(data):
            if listener.at < end:
                index = bisect_right(self._ends, listener.at)
                said = self._frames[listener.at - self._base : self._ends[index] - self._base]
                got = data[at : at + len(said)]
                if said.startswith(got):
                    listener.at += len(got)
                    at += len(got)
                    continue
            frame = self._find_frame(data, at)
            if frame is None:
                break
            opcode, start, stop = frame
            if opcode == TEXT:
                if listener.at < end:
                    raise Disorder("two members of a group got different messages")
                self._append(data[at:stop], data[start:stop])
                end = listener.at = self._base + len(self._frames)
            elif opcode == PING:
                pong(data[start:stop])
            elif opcode == CLOSE:
                raise closing(data[start:stop])
            at = stop
        listener.rest = data[at:]

    def _find_frame(self, data: bytes, at: int) -> Found:
        try:
            return self._dialect.find(data, at)
        except ValueError as exc:
            raise Disorder(str(exc)) from None

    def _append(self, frame: bytes, payload: bytes) -> None:
        found = self.texts.read(payload)
        if found is None:
            raise Disorder(f"a message that nobody sent in this run: {payload[:200]!r}")
        sender, number, moment = found
        expected = self._next_number.get(sender, 0)
        if number != expected:
            fault = "lost" if number > expected else "doubled"
            raise Disorder(f"{fault}: number {number} of sender {sender} came for {expected}")
        self._next_number[sender] = number + 1
        if self._dialect.has_ts:
            self._check_position(payload)
        if len(self._ends) >= _KEPT:
            self._forget()
        self._frames += frame
        self._ends.append(self._base + len(self._frames))
        self._senders.append(sender)
        self._moments.append(moment)

    def _check_position(self, payload: bytes) -> None:
        position = self._dialect.position(payload)
        if position is None or position <= self._newest:
            raise Disorder(f"position {position} after {self._newest}: {payload[-200:]!r}")
        self._newest = position

    def _forget(self) -> None:
        count = self.delivered - self._first
        # The last of them is kept: the mode that is told of it may still ask.
        if count > _KEPT // 2:
            gone = self._ends[count - 1]
            del self._frames[: gone - self._base]
            del self._ends[:count], self._senders[:count], self._moments[:count]
            self._base, self._first = gone, self._first + count
