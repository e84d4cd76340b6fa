"""How the live wire speaks to the members of a group: pushes, after where the group stands."""

from __future__ import annotations

import msgspec

from ..base import codec
from ..groups.audience import Batch, Greeting
from ..groups.store.history import History
from .json_wire import frame
from .protocol import ClientInfo, Publication, Push, Reply

EPOCH = "0"


class Live:
    """The ``Dialect`` of all connections that speak JSON."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def greet(self, group: str) -> Greeting:
        """Where the group stands: nobody is told what he did not ask for."""
        tail = await self._history.tail(group)
        return Greeting(b"", tail.position, tail.foreign)

    def encode(self, group: str, batch: Batch) -> list[bytes]:
        """All pushes of a batch in one frame."""
        return [
            frame(Reply(push=Push(group, publication(ts, message))) for ts, message in batch)
        ]


def publication(ts: int, message: bytes) -> Publication:
    """A message as it is told; one with a foreign ``ts`` has no offset."""
    read = codec.decode_message(message)
    return Publication(data_of(read.info), ClientInfo(read.userId), ts, ts)


def data_of(info: str) -> msgspec.Raw:
    """The text of a message as JSON: itself if it is the JSON of an object or an array."""
    if info[:1] in "{[" and info:
        try:
            msgspec.json.decode(info, type=msgspec.Raw)
            return msgspec.Raw(info.encode())
        except (ValueError, RecursionError):
            pass
    return msgspec.Raw(msgspec.json.encode(info))


def info_of(data: msgspec.Raw) -> str:
    """The text that is stored of what was published.

    Raises:
        ValueError: it is neither a string nor an object nor an array.
    """
    value = bytes(data)
    if value[:1] == b'"':
        return msgspec.json.decode(value, type=str)
    if value[:1] in (b"{", b"["):
        return msgspec.json.format(value, indent=-1).decode()
    raise ValueError("data must be a string, an object or an array")
