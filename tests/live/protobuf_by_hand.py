"""The live wire's Protobuf as the tests write and read it, by hand.

It shares nothing with the daemon's: what proves it right is Centrifugo, which is asked with it
for the record (``beside.py``). Messages are dicts as in JSON, and ``data`` is JSON in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Command": {
        "id": (1, "number"),
        "connect": (4, "ConnectRequest"),
        "subscribe": (5, "SubscribeRequest"),
        "unsubscribe": (6, "OfChannel"),
        "publish": (7, "PublishRequest"),
        "presence": (8, "OfChannel"),
        "presence_stats": (9, "OfChannel"),
        "history": (10, "HistoryRequest"),
        "ping": (11, "Empty"),
        "send": (12, "Data"),
        "rpc": (13, "RPCRequest"),
        "refresh": (14, "OfToken"),
        "sub_refresh": (15, "SubRefreshRequest"),
        "nonsense": (99, "Data"),
    },
    "ConnectRequest": {
        "token": (1, "text"),
        "data": (2, "json"),
        "subs": (3, "map SubscribeRequest"),
        "name": (4, "text"),
        "version": (5, "text"),
        "nonsense": (99, "number"),
    },
    "SubscribeRequest": {
        "channel": (1, "text"),
        "token": (2, "text"),
        "recover": (3, "flag"),
        "epoch": (6, "text"),
        "offset": (7, "number"),
        "data": (8, "json"),
        "positioned": (9, "flag"),
        "recoverable": (10, "flag"),
        "join_leave": (11, "flag"),
        "delta": (12, "text"),
        "nonsense": (99, "number"),
        "flag": (14, "number"),
        "type": (15, "number"),
    },
    "OfChannel": {"channel": (1, "text")},
    "PublishRequest": {"channel": (1, "text"), "data": (2, "json"), "type": (3, "number")},
    "HistoryRequest": {
        "channel": (1, "text"),
        "limit": (7, "number"),
        "since": (8, "StreamPosition"),
        "reverse": (9, "flag"),
    },
    "StreamPosition": {"offset": (1, "number"), "epoch": (2, "text")},
    "Empty": {},
    "Data": {"data": (1, "json")},
    "RPCRequest": {"data": (1, "json"), "method": (2, "text")},
    "OfToken": {"token": (1, "text")},
    "SubRefreshRequest": {"channel": (1, "text"), "token": (2, "text"), "type": (3, "number")},
    "Reply": {
        "id": (1, "number"),
        "error": (2, "Error"),
        "push": (4, "Push"),
        "connect": (5, "ConnectResult"),
        "subscribe": (6, "SubscribeResult"),
        "unsubscribe": (7, "Empty"),
        "publish": (8, "Empty"),
        "presence": (9, "PresenceResult"),
        "presence_stats": (10, "PresenceStatsResult"),
        "history": (11, "HistoryResult"),
        "ping": (12, "Empty"),
        "rpc": (13, "Data"),
        "refresh": (14, "RefreshResult"),
        "sub_refresh": (15, "Expiry"),
    },
    "Error": {"code": (1, "number"), "message": (2, "text"), "temporary": (3, "flag")},
    "Push": {
        "id": (1, "number"),
        "channel": (2, "text"),
        "pub": (4, "Publication"),
        "join": (5, "OfInfo"),
        "leave": (6, "OfInfo"),
        "unsubscribe": (7, "Ending"),
        "message": (8, "Data"),
        "disconnect": (11, "Ending"),
        "refresh": (12, "Expiry"),
    },
    "ConnectResult": {
        "client": (1, "text"),
        "version": (2, "text"),
        "expires": (3, "flag"),
        "ttl": (4, "number"),
        "data": (5, "json"),
        "subs": (6, "map SubscribeResult"),
        "ping": (7, "number"),
        "pong": (8, "flag"),
        "session": (9, "text"),
        "node": (10, "text"),
        "time": (11, "number"),
        "flag": (12, "number"),
    },
    "SubscribeResult": {
        "expires": (1, "flag"),
        "ttl": (2, "number"),
        "recoverable": (3, "flag"),
        "epoch": (6, "text"),
        "publications": (7, "many Publication"),
        "recovered": (8, "flag"),
        "offset": (9, "number"),
        "positioned": (10, "flag"),
        "data": (11, "json"),
        "was_recovering": (12, "flag"),
        "delta": (13, "flag"),
        "id": (14, "number"),
        "type": (15, "number"),
    },
    "Publication": {
        "data": (4, "json"),
        "info": (5, "ClientInfo"),
        "offset": (6, "number"),
        "tags": (7, "map text"),
        "delta": (8, "flag"),
        "time": (9, "number"),
        "channel": (10, "text"),
        "key": (11, "text"),
        "epoch": (14, "text"),
        "version": (16, "number"),
    },
    "ClientInfo": {
        "user": (1, "text"),
        "client": (2, "text"),
        "conn_info": (3, "json"),
        "chan_info": (4, "json"),
    },
    "OfInfo": {"info": (1, "ClientInfo")},
    "Ending": {"code": (2, "number"), "reason": (3, "text")},
    "PresenceResult": {"presence": (1, "map ClientInfo")},
    "PresenceStatsResult": {"num_clients": (1, "number"), "num_users": (2, "number")},
    "HistoryResult": {
        "publications": (1, "many Publication"),
        "epoch": (2, "text"),
        "offset": (3, "number"),
    },
    "RefreshResult": {
        "client": (1, "text"),
        "version": (2, "text"),
        "expires": (3, "flag"),
        "ttl": (4, "number"),
    },
    "Expiry": {"expires": (1, "flag"), "ttl": (2, "number")},
}
"""What is sent and read, and of what type; ``nonsense`` is a field that the protocol has not."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """A number; a negative one takes the ten bytes of its two's complement."""
    number &= (1 << 64) - 1
    said = bytearray()
    while number > 0x7F:
        said.append(0x80 | number & 0x7F)
        number >>= 7
    said.append(number)
    return bytes(said)


def delimited(value: bytes) -> bytes:
    """Bytes behind their length: a field's, or a message's in a frame."""
    return varint(len(value)) + value


def encode(message: Message, kind: str = "Command") -> bytes:
    """A message, with the fields in the order of the dict."""
    fields = []
    for name, value in message.items():
        number, of = FIELDS[kind][name]
        if of.startswith("map "):
            fields += [_entry(number, of[4:], key, item) for key, item in value.items()]
        else:
            fields.append(_field(number, of, value))
    return b"".join(fields)


def _entry(number: int, kind: str, key: str, value: Any) -> bytes:
    return varint(number << 3 | BYTES) + delimited(_field(1, "text", key) + _field(2, kind, value))


def _field(number: int, kind: str, value: Any) -> bytes:
    if kind in ("number", "flag"):
        return varint(number << 3 | VARINT) + varint(int(value))
    if kind == "text":
        said = value.encode()
    elif kind == "json":
        said = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    else:
        said = encode(value, kind)
    return varint(number << 3 | BYTES) + delimited(said)


def split(frame: bytes) -> Iterator[bytes]:
    """The messages of a frame."""
    at = 0
    while at < len(frame):
        size, at = _read_varint(frame, at)
        assert at + size <= len(frame), f"a message of {size} bytes goes beyond its frame"
        yield frame[at : at + size]
        at += size


def decode(message: bytes, kind: str = "Reply") -> Message:
    """A message; fields that are not in the table are an error of the tests or of the server."""
    names = {number: (name, of) for name, (number, of) in FIELDS[kind].items()}
    read: Message = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        assert tag >> 3 in names, f"{kind} has a field {tag >> 3}, which is not known here"
        name, of = names[tag >> 3]
        assert tag & 7 == (VARINT if of in ("number", "flag") else BYTES), (kind, name, tag)
        number, at = _read_varint(message, at)
        if of in ("number", "flag"):
            read[name] = bool(number) if of == "flag" else number - ((number >> 63) << 64)
        else:
            value, at = message[at : at + number], at + number
            assert len(value) == number, f"{kind}.{name} goes beyond its message"
            _take_bytes(read, name, of, value)
    return read


def _take_bytes(read: Message, name: str, of: str, value: bytes) -> None:
    many, _, inner = of.rpartition(" ")
    if many == "map":
        key, item = _read_entry(value, inner)
        read.setdefault(name, {})[key] = item
    elif many == "many":
        read.setdefault(name, []).append(decode(value, inner))
    elif of == "text":
        read[name] = value.decode()
    elif of == "json":
        read[name] = _data(value)
    else:
        read[name] = decode(value, of)


def _data(value: bytes) -> Any:
    """What bytes of ``data`` say; they need not be JSON."""
    try:
        return json.loads(value)
    except ValueError:
        return {"bytes": value.hex()}
    except RecursionError:
        return f"{value[:10].decode()}… of {len(value)}"


def _read_entry(value: bytes, inner: str) -> tuple[str, Any]:
    """Key and value of a map's entry, which is a message of two fields."""
    entry: Message = {}
    at = 0
    while at < len(value):
        tag, at = _read_varint(value, at)
        size, at = _read_varint(value, at)
        field, at = value[at : at + size], at + size
        if tag >> 3 == 1 or inner == "text":
            entry["key" if tag >> 3 == 1 else "value"] = field.decode()
        else:
            entry["value"] = decode(field, inner)
    return entry.get("key", ""), entry.get("value")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
