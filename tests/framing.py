"""WebSocket frames as a client sends them, byte by byte, and tables of what RFC 6455 forbids."""

from __future__ import annotations

from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"
MAX_BYTES = 65536
"""``group_message.max_bytes`` as it is built in."""


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """A payload under a mask."""
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
        len(payload), "big"
    )


def header(
    opcode: int,
    size: int,
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
) -> bytes:
    """A frame up to its payload.

    Args:
        reserved: the reserved bits, RSV1 being 4.
        mask: None leaves the frame unmasked.
        width: bits of the length (7, 16, 64), by default the shortest that do.
    """
    width = width or (7 if size < 126 else 16 if size < 65536 else 64)
    first = fin << 7 | reserved << 4 | opcode
    second = (mask is not None) << 7 | {7: size, 16: 126, 64: 127}[width]
    extended = b"" if width == 7 else size.to_bytes(width // 8, "big")
    return bytes((first, second)) + extended + (mask or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
) -> bytes:
    """A whole frame; see ``header``."""
    head = header(opcode, len(payload), fin=fin, reserved=reserved, mask=mask, width=width)
    return head + (payload if mask is None else masked(payload, mask))


def bytewise(data: bytes) -> list[bytes]:
    """Pieces of a byte each."""
    return [data[at : at + 1] for at in range(len(data))]


def text(said: str) -> bytes:
    """A text message in one frame."""
    return frame(TEXT, said.encode())


def fragments(*payloads: bytes) -> bytes:
    """A text message in as many frames."""
    last = len(payloads) - 1
    return b"".join(
        frame(CONTINUATION if number else TEXT, payload, fin=number == last)
        for number, payload in enumerate(payloads)
    )


def close_body(code: int, reason: bytes = b"") -> bytes:
    """The payload of a close frame."""
    return code.to_bytes(2, "big") + reason


# --- text

AWKWARD = "aé你😀\x00\ufffe\uffff\U0010ffff\u0080\u07ff\u0800\ud7ff\ue000\U00010000z"
"""Valid, though it has noncharacters, NUL, and the first and last of each length."""


@dataclass(frozen=True)
class Invalid:
    """Bytes that are no UTF-8: valid so far up to ``offending``, and never again from there."""

    so_far: bytes
    offending: bytes
    rest: bytes = b""

    @property
    def whole(self) -> bytes:
        return self.so_far + self.offending + self.rest


INVALID = {
    "lone continuation 80": Invalid(b"", b"\x80"),
    "lone continuation BF": Invalid(b"", b"\xbf"),
    "one continuation too many": Invalid(b"\xc3\xa9", b"\xa9"),
    "overlong C0 80": Invalid(b"", b"\xc0", b"\x80"),
    "overlong C1 BF": Invalid(b"", b"\xc1", b"\xbf"),
    "overlong E0 80": Invalid(b"\xe0", b"\x80", b"\x80"),
    "overlong E0 9F": Invalid(b"\xe0", b"\x9f", b"\xbf"),
    "overlong F0 80": Invalid(b"\xf0", b"\x80", b"\x80\x80"),
    "overlong F0 8F": Invalid(b"\xf0", b"\x8f", b"\xbf\xbf"),
    "surrogate ED A0": Invalid(b"\xed", b"\xa0", b"\x80"),
    "surrogate ED BF": Invalid(b"\xed", b"\xbf", b"\xbf"),
    "over U+10FFFF F4 90": Invalid(b"\xf4", b"\x90", b"\x80\x80"),
    "over U+10FFFF F5": Invalid(b"", b"\xf5", b"\x80\x80\x80"),
    "five bytes F8": Invalid(b"", b"\xf8", b"\x88\x80\x80\x80"),
    "six bytes FC": Invalid(b"", b"\xfc", b"\x84\x80\x80\x80\x80"),
    "FE": Invalid(b"", b"\xfe"),
    "FF": Invalid(b"", b"\xff"),
    "ASCII after one of two": Invalid(b"\xc3", b"a"),
    "ASCII after one of three": Invalid(b"\xe4", b"a"),
    "ASCII after two of three": Invalid(b"\xe4\xbd", b"a"),
    "ASCII after three of four": Invalid(b"\xf0\x9f\x98", b"a"),
    "a start after two of four": Invalid(b"\xf0\x9f", b"\xc3", b"\xa9"),
}

TRUNCATED = {
    "one of two": b"\xc3",
    "one of three": b"\xe4",
    "two of three": b"\xe4\xbd",
    "one of four": b"\xf0",
    "two of four": b"\xf0\x9f",
    "three of four": b"\xf0\x9f\x98",
}
"""Starts of characters, where a text ends."""


# --- close frames

FORBIDDEN_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
LEGAL_CODES = (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999)
REASONS = {
    "no reason": "",
    "a reason": "bye",
    "a long reason": "x" * 123,
    "a non-ASCII reason": "再见 😀",
    "a long non-ASCII reason": "é" * 61 + "x",
    "an awkward reason": "\x00\uffff",
}


# --- violations: bytes that end a connection, and the code it is told


def _reserved_bits() -> dict[str, bytes]:
    frames = {"text": TEXT, "ping": PING, "close": CLOSE}
    return {
        f"reserved bits {bits:03b} of a {name}": frame(opcode, b"", reserved=bits)
        for bits in (1, 2, 4, 7)
        for name, opcode in frames.items()
    } | {
        "reserved bit of a continuation": frame(TEXT, b"a", fin=False)
        + frame(CONTINUATION, b"b", reserved=4)
    }


def _opcodes() -> dict[str, bytes]:
    unknown = (*range(3, 8), *range(11, 16))
    return (
        {f"opcode {opcode}": frame(opcode, b"") for opcode in unknown}
        | {f"opcode {opcode} with a payload": frame(opcode, b"hello") for opcode in unknown}
        | {
            f"opcode {opcode} amid a message": frame(TEXT, b"a", fin=False) + frame(opcode, b"")
            for opcode in (3, 11)
        }
    )


def _unmasked() -> dict[str, bytes]:
    return {
        "unmasked text": frame(TEXT, b"hello", mask=None),
        "unmasked empty text": frame(TEXT, b"", mask=None),
        "unmasked continuation": frame(TEXT, b"a", fin=False)
        + frame(CONTINUATION, b"b", mask=None),
        "unmasked ping": frame(PING, b"hello", mask=None),
        "unmasked pong": frame(PONG, b"", mask=None),
        "unmasked close": frame(CLOSE, close_body(1000), mask=None),
        "unmasked empty close": frame(CLOSE, b"", mask=None),
        "unmasked long text, its header": header(TEXT, MAX_BYTES, mask=None),
    }


def _control_frames() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, opcode, body in (
        ("ping", PING, b""),
        ("pong", PONG, b""),
        ("close", CLOSE, close_body(1000)),
    ):
        found[f"{name} of 126 bytes"] = frame(opcode, body.ljust(126, b"x"))
        found[f"{name} of 126 bytes, its header"] = header(opcode, 126)
        found[f"{name} of 65536 bytes, its header"] = header(opcode, 65536)
        found[f"{name} of 2^63 - 1 bytes, its header"] = header(opcode, 2**63 - 1)
        found[f"fragmented {name}"] = frame(opcode, body, fin=False)
        found[f"fragmented {name} and its end"] = frame(opcode, body, fin=False) + frame(
            CONTINUATION, b""
        )
        found[f"fragmented {name} amid a message"] = frame(TEXT, b"a", fin=False) + frame(
            opcode, body, fin=False
        )
    return found


def _order() -> dict[str, bytes]:
    begun = frame(TEXT, b"a", fin=False)
    return {
        "continuation of nothing": frame(CONTINUATION, b"b"),
        "continuation of nothing, not the last": frame(CONTINUATION, b"b", fin=False),
        "empty continuation of nothing": frame(CONTINUATION, b""),
        "continuation after a pong": frame(PONG, b"") + frame(CONTINUATION, b"c"),
        "text amid a message": begun + frame(TEXT, b"b"),
        "empty text amid a message": begun + frame(TEXT, b""),
        "first fragment amid a message": begun + frame(TEXT, b"b", fin=False),
        "text amid an empty message": frame(TEXT, b"", fin=False) + frame(TEXT, b"b"),
        "text after two fragments": begun + frame(CONTINUATION, b"b", fin=False) + text("c"),
        "text after a fragment and a pong": begun + frame(PONG, b"") + text("c"),
        "binary amid a message": begun + frame(BINARY, b"b"),
        "first fragment of binary amid a message": begun + frame(BINARY, b"b", fin=False),
    }


def _lengths() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for width, sizes in ((16, (0, 1, 125)), (64, (0, 125, 126, 65535))):
        for size in sizes:
            found[f"{size} bytes of text, told in {width} bits"] = frame(
                TEXT, b"x" * size, width=width
            )
            found[f"{size} bytes of text, told in {width} bits, its header"] = header(
                TEXT, size, width=width
            )
        found[f"ping told in {width} bits"] = frame(PING, b"x", width=width)
        found[f"close told in {width} bits"] = frame(CLOSE, close_body(1000), width=width)
        found[f"continuation told in {width} bits"] = frame(TEXT, b"a", fin=False) + frame(
            CONTINUATION, b"b", width=width
        )
    for size in (2**63, 2**63 + 5, 2**64 - 1):
        found[f"top bit of a length, {size:x}"] = header(TEXT, size)
        found[f"top bit of a continuation's length, {size:x}"] = frame(
            TEXT, b"a", fin=False
        ) + header(CONTINUATION, size)
    return found


def _close_bodies() -> dict[str, bytes]:
    return {f"close code {code}": frame(CLOSE, close_body(code)) for code in FORBIDDEN_CODES} | {
        "close code 1005 with a reason": frame(CLOSE, close_body(1005, b"bye")),
        "close body of one byte": frame(CLOSE, b"\x03"),
        "close body of one byte amid a message": frame(TEXT, b"a", fin=False)
        + frame(CLOSE, b"\x03"),
    }


def _invalid_text() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, bad in INVALID.items():
        before, after = b"ok " + bad.so_far, bad.offending + bad.rest + b" end"
        found |= {
            f"{name}, alone": frame(TEXT, bad.whole),
            f"{name}, in a text": frame(TEXT, before + after),
            f"{name}, in a long text": frame(TEXT, b"x" * 300 + before + after + b"x" * 300),
            f"{name}, over two fragments": fragments(before, after),
            f"{name}, over fragments of a byte": fragments(*bytewise(before + after)),
            f"{name}, in a first fragment": frame(TEXT, before + after, fin=False),
            f"{name}, in an unfinished frame": header(TEXT, 100) + masked(before + bad.offending),
            f"{name}, in an unfinished continuation": frame(TEXT, before, fin=False)
            + header(CONTINUATION, 100, fin=False)
            + masked(bad.offending),
            f"{name}, with a pong amid": frame(TEXT, before, fin=False)
            + frame(PONG, b"\xff")
            + frame(CONTINUATION, after),
            f"{name}, in a close reason": frame(CLOSE, close_body(1000, before + after)),
        }
    return found


def _truncated_text() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, start in TRUNCATED.items():
        found |= {
            f"{name}, at the end of a text": frame(TEXT, b"ok " + start),
            f"{name}, at the end of the last fragment": fragments(b"ok ", b"so" + start),
            f"{name}, before an empty last fragment": fragments(b"ok " + start, b""),
            f"{name}, at the end of a close reason": frame(CLOSE, close_body(1000, start)),
        }
    return found


def _binary() -> dict[str, bytes]:
    return {
        "binary": frame(BINARY, b"\xff\x00"),
        "empty binary": frame(BINARY, b""),
        "binary that is UTF-8": frame(BINARY, b"hello"),
        "first fragment of binary": frame(BINARY, b"\xff\x00", fin=False),
        "empty first fragment of binary": frame(BINARY, b"", fin=False),
    }


def _too_large() -> dict[str, bytes]:
    full = b"x" * MAX_BYTES
    begun = frame(TEXT, full[:-10], fin=False)
    return {
        "a byte too many": frame(TEXT, full + b"x"),
        "a byte too many, its header": header(TEXT, MAX_BYTES + 1),
        "2^63 - 1 bytes, their header": header(TEXT, 2**63 - 1),
        "a byte too many in a first fragment": header(TEXT, MAX_BYTES + 1, fin=False),
        "a byte too many in the last fragment": begun + frame(CONTINUATION, b"x" * 11),
        "a byte too many in a middle fragment": begun + frame(CONTINUATION, b"x" * 11, fin=False),
        "a byte too many, a continuation's header": begun + header(CONTINUATION, 11, fin=False),
        "2^63 - 1 bytes after a fragment": begun + header(CONTINUATION, 2**63 - 1),
        "a byte after a full message": frame(TEXT, full, fin=False) + frame(CONTINUATION, b"x"),
        "a byte after a full message and a pong": frame(TEXT, full, fin=False)
        + frame(PONG, b"x" * 125)
        + frame(CONTINUATION, b"x"),
    }


TOO_LARGE = _too_large()

VIOLATIONS: dict[str, tuple[int, bytes]] = {
    name: (code, data)
    for code, table in (
        (
            1002,
            _reserved_bits()
            | _opcodes()
            | _unmasked()
            | _control_frames()
            | _order()
            | _lengths()
            | _close_bodies(),
        ),
        (1007, _invalid_text() | _truncated_text()),
        (1003, _binary()),
        (1009, TOO_LARGE),
    )
    for name, data in table.items()
}
"""What it is, the close code that answers it, and the bytes, the violation being in the last frame.

None needs more than these bytes to be seen, though many stop amid a frame or message, and none has
a message before it.
"""
