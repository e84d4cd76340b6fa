"""Reading WebSocket frames (RFC 6455 section 5), strictly and as they come: no I/O.

Theory of operation: what has come of a frame is unmasked and checked at once, so a fault is found
with the byte that makes it certain, and the way in which the bytes were cut costs and matters
nothing. A short text frame that is all there, which is what nearly every message is, takes a short
way. The first fault ends the reading: a ``Failure`` is the last event.

The sans-I/O core of ``websockets`` could do this, but finds faults only when a frame is complete,
counts control frames against the size of the message around them, and takes five times as long
(``bench/frames.py``).
"""

from __future__ import annotations

import codecs
import struct
from typing import NamedTuple, TypeAlias

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the library's wheel
    from websockets.utils import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

MAX_CONTROL_BYTES = 125
MAX_REASON_BYTES = MAX_CONTROL_BYTES - 2
NO_CODE = 1005
"""The code of a close frame without one, RFC 6455 section 7.4.1."""

_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_MASK_BYTES = 4

_LEGAL_CODES = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Ping(NamedTuple):
    """The client asks for a pong with the same payload."""

    payload: bytes


class Close(NamedTuple):
    """The client closes; ``payload`` is what an answer echoes."""

    code: int
    reason: str
    payload: bytes


class Failure(NamedTuple):
    """The client broke the protocol: the close code and reason it is told."""

    code: int
    reason: str


Event: TypeAlias = str | bytes | Ping | Close | Failure
"""A text message, a binary one, or one of the above. Pongs are no event."""


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455 section 5.2), the same bytes for every member."""
    return frame_head(TEXT, len(payload)) + payload


def binary_frame(payload: bytes) -> bytes:
    """The same as a binary frame."""
    return frame_head(BINARY, len(payload)) + payload


def frame_head(opcode: int, size: int) -> bytes:
    """The head of such a frame, whose payload has ``size`` bytes."""
    if size < 126:
        return bytes((_FIN | opcode, size))
    if size < 65536:
        return struct.pack("!BBH", _FIN | opcode, 126, size)
    return struct.pack("!BBQ", _FIN | opcode, 127, size)


def control_frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked control frame; its payload has at most ``MAX_CONTROL_BYTES``."""
    return bytes((_FIN | opcode, len(payload))) + payload


def close_payload(code: int, reason: str) -> bytes:
    """The payload of a close frame."""
    return struct.pack("!H", code) + reason.encode()


def cut_reason(reason: str) -> str:
    """As much of a text as a close frame has room for, in whole characters."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


class _Fault(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(code, reason)


class FrameReader:
    """Reads what one client sends.

    Args:
        max_bytes: the longest message, in bytes; of a text, of its UTF-8.
        accepted: the opcode of the messages that the client may send, ``TEXT`` or ``BINARY``.
    """

    __slots__ = (
        "_accepted",
        "_control",
        "_ended",
        "_final",
        "_left",
        "_mask",
        "_max_bytes",
        "_message",
        "_opcode",
        "_rest",
        "_size",
        "_validator",
        "_whole",
    )

    def __init__(self, max_bytes: int, accepted: int = TEXT) -> None:
        self._max_bytes = max_bytes
        self._accepted = accepted
        self._whole = _FIN | accepted
        self._rest = b""  # of a header
        self._ended = False
        # The frame whose payload is being read, and how much of that is still to come.
        self._left = 0
        self._opcode: int | None = None
        self._final = False
        self._mask = b""
        self._control = b""
        # The message that is being read, over all its frames; no validator: none.
        self._validator: codecs.IncrementalDecoder | None = None
        self._message: bytes | bytearray = b""
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """Read on, and return what was completed. Nothing comes after a close or a failure."""
        events: list[Event] = []
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        try:
            while at < end and not self._ended:
                if self._opcode is not None:
                    at = self._read_payload(data, at, events)
                    continue
                stop = self._read_whole(data, at, end, events)
                if not stop:
                    stop = self._read_header(data, at)
                    if not stop:
                        self._rest = data[at:]
                        break
                    if not self._left:
                        self._end_frame(events)
                at = stop
        except _Fault as fault:
            self._ended = True
            events.append(fault.failure)
        return events

    def _read_whole(self, data: bytes, at: int, end: int, events: list[Event]) -> int:
        """Take a short message that is all there; returns where it ends, 0 if it is none."""
        payload_at = at + 2 + _MASK_BYTES
        if data[at] != self._whole or payload_at > end or self._validator is not None:
            return 0
        length = data[at + 1] - _MASKED
        stop = payload_at + length
        if not 0 <= length < 126 or stop > end or length > self._max_bytes:
            return 0
        payload = apply_mask(data[payload_at:stop], data[payload_at - _MASK_BYTES : payload_at])
        if self._accepted == BINARY:
            events.append(payload)
            return stop
        try:
            events.append(payload.decode())
        except UnicodeDecodeError:
            raise _Fault(1007, "invalid UTF-8") from None
        return stop

    def _read_header(self, data: bytes, at: int) -> int:
        """Begin a frame; returns where its payload begins, 0 while the header is not all there."""
        available = len(data) - at
        opcode = data[at] & _OPCODE
        final = bool(data[at] & _FIN)
        self._judge_start(data[at], opcode, final)
        if available < 2:
            return 0
        if not data[at + 1] & _MASKED:
            raise _Fault(1002, "unmasked frame")
        length = data[at + 1] & _LENGTH
        mask_at = at + 2
        if opcode >= CLOSE:
            if length > MAX_CONTROL_BYTES:
                raise _Fault(1002, "control frame too long")
        elif length > MAX_CONTROL_BYTES:
            size = 2 if length == 126 else 8
            mask_at += size
            if mask_at > len(data):
                return 0
            length = int.from_bytes(data[at + 2 : mask_at])
            if length < (126 if size == 2 else 65536) or length >> 63:
                raise _Fault(1002, "frame length not in its shortest form")
        if opcode < CLOSE and self._size + length > self._max_bytes:
            raise _Fault(1009, f"more than {self._max_bytes} bytes")
        if mask_at + _MASK_BYTES > len(data):
            return 0
        self._mask = data[mask_at : mask_at + _MASK_BYTES]
        self._opcode, self._final, self._left = opcode, final, length
        if opcode < CLOSE:
            self._size += length
            if self._validator is None:
                self._validator = _new_decoder()
                self._message = bytearray()
        return mask_at + _MASK_BYTES

    def _judge_start(self, first: int, opcode: int, final: bool) -> None:
        if first & _RESERVED:
            raise _Fault(1002, "reserved bit set")
        if BINARY < opcode < CLOSE or opcode > PONG:
            raise _Fault(1002, "unknown opcode")
        if opcode >= CLOSE:
            if not final:
                raise _Fault(1002, "fragmented control frame")
        elif opcode == CONTINUATION:
            if self._validator is None:
                raise _Fault(1002, "continuation of nothing")
        elif self._validator is not None:
            raise _Fault(1002, "new message inside a fragmented one")
        elif opcode != self._accepted:
            raise _Fault(1003, f"{'text' if opcode == BINARY else 'binary'} frames only")

    def _read_payload(self, data: bytes, at: int, events: list[Event]) -> int:
        """Take what is there of the frame's payload; returns where that ends."""
        part = data[at : at + self._left]
        unmasked = apply_mask(part, self._mask)
        self._left -= len(part)
        turn = len(part) % _MASK_BYTES
        self._mask = self._mask[turn:] + self._mask[:turn]
        assert self._opcode is not None
        if self._opcode >= CLOSE:
            self._control += unmasked
        else:
            self._validate(unmasked)
            self._message += unmasked
        if not self._left:
            self._end_frame(events)
        return at + len(part)

    def _end_frame(self, events: list[Event]) -> None:
        opcode, self._opcode = self._opcode, None
        assert opcode is not None
        if opcode >= CLOSE:
            payload, self._control = self._control, b""
            if opcode == PING:
                events.append(Ping(payload))
            elif opcode == CLOSE:
                events.append(_read_close(payload))
                self._ended = True
        elif self._final:
            self._validate(b"", final=True)
            is_text = self._accepted == TEXT
            events.append(self._message.decode() if is_text else bytes(self._message))
            self._validator, self._message, self._size = None, b"", 0

    def _validate(self, data: bytes, *, final: bool = False) -> None:
        assert self._validator is not None
        if self._accepted == BINARY:
            return
        try:
            self._validator.decode(data, final)
            incomplete, _ = self._validator.getstate()
        except UnicodeDecodeError:
            raise _Fault(1007, "invalid UTF-8") from None
        if incomplete[:1] == b"\xed" and incomplete[1:2] >= b"\xa0":
            raise _Fault(1007, "invalid UTF-8")  # half of a surrogate: Python waits for its end


def _read_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_CODE, "", payload)
    if len(payload) == 1:
        raise _Fault(1002, "close frame of one byte")
    code = int.from_bytes(payload[:2])
    if code not in _LEGAL_CODES:
        raise _Fault(1002, "close code that no client may send")
    try:
        return Close(code, payload[2:].decode(), payload)
    except UnicodeDecodeError:
        raise _Fault(1007, "invalid UTF-8 in the close reason") from None
