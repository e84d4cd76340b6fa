"""The live wire as JSON: a command or a reply a line, several lines in a frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from ..websocket.frames import TEXT, text_frame
from .protocol import Command
from .wire import BadFrame

NAME = "live-json"
OPCODE = TEXT

_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\."
)
_decode = msgspec.json.Decoder(Command).decode
encode = msgspec.json.Encoder().encode


def read_commands(payload: str) -> Iterator[Command]:
    """The commands of a frame, one after the other.

    Raises:
        BadFrame: what comes next is no command.
    """
    for line in payload.removesuffix("\n").split("\n"):
        yield _read(line)


def frame(replies: Iterable[bytes]) -> bytes:
    """Encoded replies in one frame."""
    return text_frame(b"\n".join(replies))


def _read(line: str) -> Command:
    try:
        return _decode(line)
    except (ValueError, RecursionError):  # not JSON, another type, too deep
        pass
    try:
        return _decode(_ESCAPE.sub(_whole, line))
    except (ValueError, RecursionError):
        raise BadFrame from None


def _whole(found: re.Match[str]) -> str:
    """An escape; in the place of half a pair, as of an emoji that was cut, U+FFFD."""
    escape = found[0]
    is_half = len(escape) == 6 and escape[2] in "dD" and escape[3] in "89abcdefABCDEF"
    return "\\ufffd" if is_half else escape


PING = frame([b"{}"])
