"""The live wire as JSON: a command or a reply a line, several lines in a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ..websocket.frames import TEXT, text_frame
from .escapes import without_halves
from .protocol import Command, Publication, Push, Reply
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
        yield _read(line)


def encode_publication(group: str, publication: Publication) -> bytes:
    """The push of a publication, as it stands among others in a frame."""
    return encode(Reply(push=Push(group, publication)))


def encode_published(number: int) -> bytes:
    """The answer to a publish command."""
    return b'{"id":%d,"publish":{}}' % number


def frame(replies: Iterable[bytes]) -> bytes:
    """Encoded replies in one frame."""
    return text_frame(b"\n".join(replies))


def _read(line: str) -> Command:
    try:
        return _decode(line)
    except (ValueError, RecursionError):  # not JSON, another type, too deep
        pass
    try:
        return _decode(without_halves(line))
    except (ValueError, RecursionError):
        raise BadFrame from None


PING = frame([b"{}"])
