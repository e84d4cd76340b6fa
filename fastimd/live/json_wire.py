"""The live wire as JSON: a command or a reply a line, several lines in a frame."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..websocket.frames import text_frame
from .protocol import Command, Reply

PING = text_frame(b"{}")

_decode = msgspec.json.Decoder(Command).decode
_encode = msgspec.json.Encoder().encode


def read_commands(text: str) -> list[Command]:
    """The commands of a frame.

    Raises:
        ValueError: one is not a command; RecursionError: it is nested too deep.
    """
    return [_decode(line) for line in text.split("\n") if line]


def frame(replies: Iterable[Reply]) -> bytes:
    """Replies in one frame."""
    return text_frame(b"\n".join([_encode(reply) for reply in replies]))
