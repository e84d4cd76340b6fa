"""The end of a body that comes in chunks, and what is in them (RFC 9112 section 7.1)."""

from __future__ import annotations

import re

from .head import MAX_HEAD_BYTES

_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\x20-\x7e\t]*)?\r\n")


class Chunks:
    """Finds the end of a chunked body; a malformed one has none.

    Args:
        content: gets what is in the chunks, unless it is None.
    """

    def __init__(self, content: bytearray | None = None) -> None:
        self.content = content
        self.has_ended = False
        self.is_malformed = False
        self._left = 0  # bytes of the chunk that are still to come
        self._at_end = False  # the CRLF of the chunk comes next
        self._line = b""
        self._in_trailer = False

    def take(self, data: bytes) -> int:
        """How many of the bytes belong to the body."""
        at = 0
        while at < len(data) and not self.has_ended and not self.is_malformed:
            if self._left:
                at += self._take_content(data, at)
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if end:
                self._take_line(self._line)
                self._line = b""
            elif len(self._line) > MAX_HEAD_BYTES:
                self.is_malformed = True
        return len(data) if self.is_malformed else at

    def _take_content(self, data: bytes, at: int) -> int:
        step = min(self._left, len(data) - at)
        if self.content is not None:
            self.content += data[at : at + step]
        self._left -= step
        return step

    def _take_line(self, line: bytes) -> None:
        if self._in_trailer:
            self.has_ended = line == b"\r\n"
            return
        if self._at_end:
            self._at_end = False
            self.is_malformed = line != b"\r\n"  # hypercorn refuses it
            return
        size = _LINE.fullmatch(line)
        if size is None:
            self.is_malformed = True
        elif int(size[1], 16):
            self._left, self._at_end = int(size[1], 16), True
        else:
            self._in_trailer = True
