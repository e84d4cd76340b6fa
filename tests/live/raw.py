"""A raw client of the live wire: sends the frames it is given, and tells all that comes.

It knows nothing of sessions: no recovery, no reconnecting, no pong unless it is told so. What it
hears it gives as dicts, whatever the encoding, with the code and reason of the close.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import protobuf_by_hand as protobuf
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

Message = dict[str, Any]
Wire = Literal[
    "json",
    "protobuf",
    "json by name",
    "protobuf by name",
    "json before protobuf",
    "protobuf before json",
    "json beside another",
]
"""An encoding, and how the handshake asks for it."""

PATH = "/connection/websocket"
QUERIES = {"protobuf": "?format=protobuf"}
SUBPROTOCOLS = {
    "json by name": ["centrifuge-json"],
    "protobuf by name": ["centrifuge-protobuf"],
    "json before protobuf": ["centrifuge-json", "centrifuge-protobuf"],
    "protobuf before json": ["centrifuge-protobuf", "centrifuge-json"],
    "json beside another": ["chat", "centrifuge-json"],
}
BIGGEST = 1 << 24


def encode(wire: Wire, commands: Sequence[Message]) -> str | bytes:
    """Commands as one frame."""
    if wire.startswith("json"):
        return "\n".join(json.dumps(command, separators=(",", ":")) for command in commands)
    return b"".join(protobuf.delimited(protobuf.encode(command)) for command in commands)


def decode(wire: Wire, frame: str | bytes) -> list[Message]:
    """The replies of a frame, which must be of the kind that the wire has."""
    if wire.startswith("json"):
        assert isinstance(frame, str), frame
        # What is nested deeper than json reads is told by its length.
        plain = re.sub(
            r"\[{999,}\]{999,}", lambda deep: f'"{deep[0][:10]}… of {len(deep[0])}"', frame
        )
        return [json.loads(line) for line in plain.split("\n") if line]
    assert isinstance(frame, bytes), frame
    return [protobuf.decode(message) for message in protobuf.split(frame)]


class RawLive:
    """A connection, which speaks one ``wire``.

    ``close`` is the code and reason once it has closed; ``pings`` counts what has been pinged.
    """

    def __init__(self, connection: WebSocketConnection, wire: Wire, answers_pings: bool) -> None:
        self._connection = connection
        self.wire = wire
        self._answers_pings = answers_pings
        self.subprotocol = connection.subprotocol
        self.pings = 0
        self.close: tuple[int, str | None] | None = None

    async def send(self, frame: str | bytes) -> None:
        """Send a frame as it is; what comes instead of it is heard later."""
        try:
            await self._connection.send_message(frame)
        except ConnectionClosed as closed:
            self._note(closed)

    async def say(self, *commands: Message) -> None:
        """Send commands in one frame."""
        await self.send(encode(self.wire, commands))

    async def hear(self, seconds: float) -> list[Message] | None:
        """The replies of the next frame, none for a ping; None if nothing comes in time."""
        if self.close is not None:
            return None
        with trio.move_on_after(seconds):
            try:
                return await self._take(await self._connection.get_message())
            except ConnectionClosed as closed:
                self._note(closed)
        return None

    async def _take(self, frame: str | bytes) -> list[Message]:
        replies = decode(self.wire, frame)
        heard = [reply for reply in replies if reply]
        self.pings += len(replies) - len(heard)
        if self._answers_pings and len(heard) < len(replies):
            await self.say({})
        return heard

    def _note(self, closed: ConnectionClosed) -> None:
        # Without a reason the stream ended, and nobody said a word.
        self.close = (closed.reason.code, closed.reason.reason) if closed.reason else (1006, None)


@asynccontextmanager
async def connected(
    address: str, wire: Wire, *, answers_pings: bool = True
) -> AsyncIterator[RawLive]:
    """A connection to HOST:PORT that has shaken hands and said nothing."""
    url = f"ws://{address}{PATH}{QUERIES.get(wire, '')}"
    async with open_websocket_url(
        url,
        subprotocols=SUBPROTOCOLS.get(wire, ()),
        max_message_size=BIGGEST,
        disconnect_timeout=10,
    ) as connection:
        try:
            yield RawLive(connection, wire, answers_pings)
        finally:
            if connection.closed is not None:
                # The client leaves its stream open when the server was the first to close.
                await connection._close_stream()


__all__ = ["HandshakeError", "Message", "RawLive", "Wire", "connected", "decode", "encode"]
