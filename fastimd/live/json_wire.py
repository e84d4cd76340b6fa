"""The live wire as JSON: a command or a reply a line, several lines in a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ..websocket.frames import TEXT, text_frame
from .protocol import Command
from .wire import BadFrame

NAME = "live-json"
OPCODE = TEXT

_decode = msgspec.json.Decoder(Command).decode
encode = msgspec.json.Encoder().encode


def read_commands(payload: str) -> Iterator[Command]:
    """The commands of a frame, one after the other.

    Raises:
        BadFrame: what comes next is no command.
    """
    for line in payload.removesuffix("\n").split("\n"):
        try:
            command = _decode(line)
        except (ValueError, RecursionError):  # not UTF-8, not JSON, another type, too deep
            raise BadFrame from None
        yield command


def frame(replies: Iterable[bytes]) -> bytes:
    """Encoded replies in one frame."""
    return text_frame(b"\n".join(replies))


PING = frame([b"{}"])
