"""The two encodings of the live wire, as the load generator needs them: JSON and Protobuf.

Commands are made once for each socket, and the replies of a greeting are read whole. Of all that
comes later only as much is looked at as tells pushes from answers and pings: a client that parsed
each push would be slower than the servers.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from .dialect import BINARY, TEXT, Found, Position
from .protobuf import bytes_in, number_in, read_message, read_varint, varint, write_message

CONNECT, PUBLISH, SUBSCRIBE = 1, 2, 3
"""The ids of commands; that of each further subscription is one more."""


@dataclass(frozen=True)
class Reply:
    """The answer to a command of the greeting; ``error`` is empty if there is none."""

    id: int
    error: str
    position: Position
    is_recovered: bool


class Sorted(NamedTuple):
    """What came after the greeting: pushes as they came, and how many of the others.

    ``refusal`` is the first answer that refuses.
    """

    pushes: bytes
    answers: int = 0
    pings: int = 0
    refusal: bytes = b""


class Encoding(ABC):
    """How commands and replies are written."""

    opcode: int
    pong: bytes
    """The payload that answers a ping."""

    @abstractmethod
    def commands(self, commands: Iterable[bytes]) -> bytes:
        """The payload of a frame with these commands."""

    @abstractmethod
    def connect(self, user: str, token: str) -> bytes:
        """The first command."""

    @abstractmethod
    def subscribe(self, number: int, group: str, since: Position | None) -> bytes:
        """The command that enters a group, as one who was there ``since`` if that is given."""

    @abstractmethod
    def around(self, group: str, size: int) -> tuple[bytes, bytes]:
        """What stands before and behind a text of ``size`` bytes that is published."""

    @abstractmethod
    def replies(self, payload: bytes) -> Iterator[Reply]:
        """The answers in a frame of the greeting."""

    @abstractmethod
    def sort(self, payloads: list[bytes]) -> Sorted:
        """Tell pushes from answers and pings, in what frames held."""

    @abstractmethod
    def find(self, data: bytes, at: int) -> Found:
        """Opcode, start and end of the push at ``at``; None if it is cut."""

    @abstractmethod
    def offset(self, push: bytes) -> int | None:
        """The offset of a push; None if it has none."""


# JSON


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Subscribed(msgspec.Struct):
    epoch: str = ""
    offset: int = 0
    recovered: bool = False


class _Reply(msgspec.Struct):
    id: int = 0
    error: _Error | None = None
    subscribe: _Subscribed | None = None


_decode = msgspec.json.Decoder(_Reply).decode
_OFFSET = re.compile(rb'"offset":(\d+)')


def _json(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


class Json(Encoding):
    """A line each."""

    opcode = TEXT
    pong = b"{}"
    _ANSWER = b'\n{"id":'
    _DONE = b'\n{"id":%d,"publish":{}}' % PUBLISH
    _PING = b"\n{}\n"

    def commands(self, commands: Iterable[bytes]) -> bytes:
        return b"\n".join(commands)

    def connect(self, user: str, token: str) -> bytes:
        fields = {"token": token} if token else {}
        return _json(id=CONNECT, connect={**fields, "data": {"userId": user}})

    def subscribe(self, number: int, group: str, since: Position | None) -> bytes:
        fields: dict[str, object] = {"channel": group}
        if since is not None:
            fields |= {"recover": True, "epoch": since.epoch, "offset": since.offset}
        return _json(id=number, subscribe=fields)

    def around(self, group: str, size: int) -> tuple[bytes, bytes]:
        whole = _json(id=PUBLISH, publish={"channel": group, "data": ""})
        cut = len(whole) - len(b'"}}')
        return whole[:cut], whole[cut:]

    def replies(self, payload: bytes) -> Iterator[Reply]:
        for line in payload.split(b"\n"):
            reply = _decode(line)
            place = reply.subscribe or _Subscribed()
            error = "" if reply.error is None else f"{reply.error.code} {reply.error.message}"
            yield Reply(reply.id, error, Position(place.epoch, place.offset), place.recovered)

    def sort(self, payloads: list[bytes]) -> Sorted:
        lines = b"\n".join([b"", *payloads, b""])
        answers = lines.count(self._DONE)
        if answers:
            lines = lines.replace(self._DONE, b"")
        if self._ANSWER not in lines and self._PING not in lines:
            return Sorted(lines[1:], answers)
        kept, pings, refusal = [], 0, b""
        for line in lines[1:-1].split(b"\n"):
            if line == b"{}":
                pings += 1
            elif not line.startswith(self._ANSWER[1:]):
                kept.append(line)
            else:
                answers += 1
                if b'"error":' in line:
                    refusal = refusal or line
        kept.append(b"")
        return Sorted(b"\n".join(kept), answers, pings, refusal)

    def find(self, data: bytes, at: int) -> Found:
        end = data.find(b"\n", at) + 1
        return (TEXT, at, end) if end else None

    def offset(self, push: bytes) -> int | None:
        found = _OFFSET.search(push, push.rfind(b'"offset":'))
        return None if found is None else int(found[1])


# Protobuf

_ID, _ERROR, _PUSH = 1, 2, 4
_CONNECT, _SUBSCRIBE_COMMAND, _PUBLISH_COMMAND = 4, 5, 7
_SUBSCRIBED, _PUBLISHED = 6, 8
_PUB = 4


class Protobuf(Encoding):
    """Each with its length before it."""

    opcode = BINARY
    pong = b"\x00"
    _ANSWER = bytes((_ID << 3, PUBLISH))
    _DONE = bytes((4, _ID << 3, PUBLISH, _PUBLISHED << 3 | 2, 0))

    def commands(self, commands: Iterable[bytes]) -> bytes:
        return b"".join(varint(len(command)) + command for command in commands)

    def connect(self, user: str, token: str) -> bytes:
        fields = {1: token.encode(), 2: _json(userId=user)}
        return write_message({_ID: CONNECT, _CONNECT: write_message(fields)})

    def subscribe(self, number: int, group: str, since: Position | None) -> bytes:
        fields: dict[int, int | bytes] = {1: group.encode()}
        if since is not None:
            fields |= {3: 1, 6: since.epoch.encode(), 7: since.offset}
        return write_message({_ID: number, _SUBSCRIBE_COMMAND: write_message(fields)})

    def around(self, group: str, size: int) -> tuple[bytes, bytes]:
        text = b'"' + bytes(size) + b'"'
        publish = write_message({1: group.encode(), 2: text})
        whole = self.commands([write_message({_ID: PUBLISH, _PUBLISH_COMMAND: publish})])
        return whole[: -size - 1], whole[-1:]

    def replies(self, payload: bytes) -> Iterator[Reply]:
        for _, start, end in self._each(payload):
            reply = read_message(payload[start:end])
            place = read_message(bytes_in(reply.get(_SUBSCRIBED)))
            error = read_message(bytes_in(reply.get(_ERROR)))
            yield Reply(
                number_in(reply.get(_ID)),
                f"{number_in(error.get(1))} {bytes_in(error.get(2)).decode()}" if error else "",
                Position(bytes_in(place.get(6)).decode(), number_in(place.get(9))),
                bool(place.get(8)),
            )

    def sort(self, payloads: list[bytes]) -> Sorted:
        data = b"".join(payloads)
        # A ping is a zero byte, and such an answer has one: pushes have none.
        answers = data.count(self._DONE)
        if answers:
            data = data.replace(self._DONE, b"")
        if self._ANSWER not in data and b"\x00" not in data:
            return Sorted(data, answers)
        kept, pings, refusal = [], 0, b""
        for at, start, end in self._each(data):
            if start == end:
                pings += 1
            elif data[start] != _ID << 3:
                kept.append(data[at:end])
            else:
                answers += 1
                if _ERROR in read_message(data[start:end]):
                    refusal = refusal or data[start:end]
        return Sorted(b"".join(kept), answers, pings, refusal)

    def find(self, data: bytes, at: int) -> Found:
        size, start = read_varint(data, at)
        return (TEXT, start, start + size)

    def offset(self, push: bytes) -> int | None:
        publication = read_message(bytes_in(read_message(push).get(_PUSH)))
        offset = read_message(bytes_in(publication.get(_PUB))).get(6)
        return None if offset is None else number_in(offset)

    def _each(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Where each reply, its message and its end are."""
        at = 0
        while at < len(data):
            size, start = read_varint(data, at)
            yield at, start, start + size
            at = start + size


JSON = Json()
PROTOBUF = Protobuf()
