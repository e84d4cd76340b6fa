"""Messages of Protobuf, as far as the live wire has them: numbers, and bytes with their length.

There is no schema here: a message is a dictionary by the numbers of its fields, and of a field that
comes more than once the last counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Value: TypeAlias = int | bytes

_VARINT, _LENGTH = 0, 2


def varint(number: int) -> bytes:
    """A number, seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends.

    Raises:
        ValueError: it is cut.
    """
    number = shift = 0
    for end, byte in enumerate(data[at : at + 10], at + 1):
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, end
        shift += 7
    raise ValueError(f"no number begins with {data[at : at + 10].hex()}")


def write_message(fields: Mapping[int, Value]) -> bytes:
    """A message with these fields, but for those that are zero or empty."""
    written = b""
    for field, value in fields.items():
        if value and isinstance(value, int):
            written += varint(field << 3 | _VARINT) + varint(value)
        elif value and isinstance(value, bytes):
            written += varint(field << 3 | _LENGTH) + varint(len(value)) + value
    return written


def read_message(data: bytes) -> dict[int, Value]:
    """The fields of a message.

    Raises:
        ValueError: it is none, or has a field that is neither a number nor bytes.
    """
    fields: dict[int, Value] = {}
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value, at = read_varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            fields[field] = value
        elif kind == _LENGTH and at + value <= len(data):
            fields[field] = data[at : at + value]
            at += value
        else:
            raise ValueError(f"field {field} of kind {kind} has no end, or is not known")
    return fields


def number_in(value: Value | None) -> int:
    """A field that is a number; one that is not there is 0."""
    return value if isinstance(value, int) else 0


def bytes_in(value: Value | None) -> bytes:
    """A field that is bytes; one that is not there is empty."""
    return value if isinstance(value, bytes) else b""
