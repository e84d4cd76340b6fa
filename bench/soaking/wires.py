"""The two encodings of the live wire, as the people of a soak speak them.

Unlike the load generator's (``fastimd/bench/encodings.py``) these read every reply whole, and know
nothing of the daemon's own code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from fastimd.bench.dialect import BINARY, TEXT, Position
from fastimd.bench.protobuf import (
    Value,
    bytes_in,
    number_in,
    read_varint,
    varint,
    write_message,
)


class Publication(msgspec.Struct):
    """A message as it is heard; the offset is its ts."""

    data: Any = ""
    offset: int = 0


class Refusal(msgspec.Struct):
    """Why a command is refused."""

    code: int = 0
    message: str = ""
    temporary: bool = False


class Subscribed(msgspec.Struct):
    """The answer to ``subscribe``."""

    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    publications: list[Publication] = msgspec.field(default_factory=list)


class Unsubscribed(msgspec.Struct):
    """The daemon has ended a subscription."""

    code: int = 0


class Push(msgspec.Struct):
    """What comes unasked."""

    channel: str = ""
    pub: Publication | None = None
    unsubscribe: Unsubscribed | None = None


class Reply(msgspec.Struct):
    """Whatever the daemon says; nothing at all is a ping."""

    id: int = 0
    error: Refusal | None = None
    push: Push | None = None
    subscribe: Subscribed | None = None


class Encoding(ABC):
    """How commands are written and replies are read."""

    path = "/connection/websocket"
    opcode: int
    pong: bytes

    @abstractmethod
    def connect(self, number: int, user: str) -> bytes:
        """The first command."""

    @abstractmethod
    def subscribe(self, number: int, group: str, since: Position) -> bytes:
        """Enter a group, as one who was there if the position has an epoch."""

    @abstractmethod
    def publish(self, number: int, group: str, text: str) -> bytes:
        """Say something."""

    @abstractmethod
    def send(self, number: int, group: str, text: str, nonce: str) -> bytes:
        """Say something that may be said again."""

    @abstractmethod
    def replies(self, payload: bytes) -> Iterator[Reply]:
        """What is in a frame."""


class Json(Encoding):
    """A line each."""

    opcode = TEXT
    pong = b"{}"
    _read = msgspec.json.Decoder(Reply).decode

    def connect(self, number: int, user: str) -> bytes:
        return _json(id=number, connect={"data": {"userId": user}})

    def subscribe(self, number: int, group: str, since: Position) -> bytes:
        known = {"recover": True, "epoch": since.epoch, "offset": since.offset}
        return _json(id=number, subscribe={"channel": group, **(known if since.epoch else {})})

    def publish(self, number: int, group: str, text: str) -> bytes:
        return _json(id=number, publish={"channel": group, "data": text})

    def send(self, number: int, group: str, text: str, nonce: str) -> bytes:
        data = {"channel": group, "data": text, "nonce": nonce}
        return _json(id=number, rpc={"method": "send", "data": data})

    def replies(self, payload: bytes) -> Iterator[Reply]:
        for line in payload.split(b"\n"):
            yield self._read(line)


class Protobuf(Encoding):
    """Each with its length before it."""

    path = "/connection/websocket?format=protobuf"
    opcode = BINARY
    pong = b"\x00"

    def connect(self, number: int, user: str) -> bytes:
        return _command(number, 4, {2: _json(userId=user)})

    def subscribe(self, number: int, group: str, since: Position) -> bytes:
        fields: dict[int, Value] = {1: group.encode()}
        if since.epoch:
            fields |= {3: 1, 6: since.epoch.encode(), 7: since.offset}
        return _command(number, 5, fields)

    def publish(self, number: int, group: str, text: str) -> bytes:
        return _command(number, 7, {1: group.encode(), 2: msgspec.json.encode(text)})

    def send(self, number: int, group: str, text: str, nonce: str) -> bytes:
        data = _json(channel=group, data=text, nonce=nonce)
        return _command(number, 13, {1: data, 2: b"send"})

    def replies(self, payload: bytes) -> Iterator[Reply]:
        at = 0
        while at < len(payload):
            size, start = read_varint(payload, at)
            at = start + size
            yield _reply(_Fields(payload[start:at]))


class _Fields:
    """The fields of a message, of which any may come more than once."""

    def __init__(self, data: bytes) -> None:
        self._values: dict[int, list[Value]] = defaultdict(list)
        at = 0
        while at < len(data):
            key, at = read_varint(data, at)
            value, at = read_varint(data, at)
            if key & 7 == 0:
                self._values[key >> 3].append(value)
            elif key & 7 == 2 and at + value <= len(data):
                self._values[key >> 3].append(data[at : at + value])
                at += value
            else:
                raise ValueError(f"no field begins with {key}")

    def __contains__(self, field: int) -> bool:
        return field in self._values

    def number(self, field: int) -> int:
        return number_in(self._last(field))

    def text(self, field: int) -> str:
        return bytes_in(self._last(field)).decode()

    def inner(self, field: int) -> _Fields:
        return _Fields(bytes_in(self._last(field)))

    def each(self, field: int) -> Iterator[_Fields]:
        for value in self._values.get(field, ()):
            yield _Fields(bytes_in(value))

    def _last(self, field: int) -> Value | None:
        values = self._values.get(field)
        return values[-1] if values else None


def _reply(said: _Fields) -> Reply:
    reply = Reply(said.number(1))
    if 2 in said:
        error = said.inner(2)
        reply.error = Refusal(error.number(1), error.text(2), bool(error.number(3)))
    if 4 in said:
        push = said.inner(4)
        reply.push = Push(push.text(2))
        if 4 in push:
            reply.push.pub = _publication(push.inner(4))
        if 7 in push:
            reply.push.unsubscribe = Unsubscribed(push.inner(7).number(2))
    if 6 in said:
        place = said.inner(6)
        publications = [_publication(each) for each in place.each(7)]
        reply.subscribe = Subscribed(
            place.text(6), place.number(9), bool(place.number(8)), publications
        )
    return reply


def _publication(said: _Fields) -> Publication:
    return Publication(msgspec.json.decode(said.text(4)), said.number(6))


def _command(number: int, field: int, body: dict[int, Value]) -> bytes:
    command = write_message({1: number, field: write_message(body)})
    return varint(len(command)) + command


def _json(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


JSON = Json()
PROTOBUF = Protobuf()
