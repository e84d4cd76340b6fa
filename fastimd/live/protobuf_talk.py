"""What talk consists of, as Protobuf by hand: a publish, the answer to it, the push of a message.

The classes of ``protobuf`` take two to five times as long for these (``bench/encodings.py``), and
a busy daemon does little else. The numbers of the fields are those of ``protocol.proto``; a test
holds both ways together.
"""

from __future__ import annotations

from msgspec import Raw

from .protocol import ABSENT, ClientInfo, Command, Publication, Publish

_NUMBER, _BYTES = 0, 2  # the types of fields that there are here


def _tag(number: int, kind: int) -> bytes:
    return bytes((number << 3 | kind,))


_COMMAND_ID = _tag(1, _NUMBER)[0]
_COMMAND_PUBLISH = _tag(7, _BYTES)[0]
_PUBLISH_CHANNEL = _tag(1, _BYTES)[0]
_PUBLISH_DATA = _tag(2, _BYTES)[0]
_REPLY_ID = _tag(1, _NUMBER)
_REPLY_PUBLISH = _tag(8, _BYTES) + b"\0"
_REPLY_PUSH = _tag(4, _BYTES)
_PUSH_CHANNEL = _tag(2, _BYTES)
_PUSH_PUB = _tag(4, _BYTES)
_PUB_DATA = _tag(4, _BYTES)
_PUB_INFO = _tag(5, _BYTES)
_PUB_OFFSET = _tag(6, _NUMBER)
_PUB_TAGS = _tag(7, _BYTES)
_PUB_TIME = _tag(9, _NUMBER)
_INFO_USER = _tag(1, _BYTES)
_INFO_CLIENT = _tag(2, _BYTES)
_INFO_CONN_INFO = _tag(3, _BYTES)
_ENTRY_KEY = _tag(1, _BYTES)
_ENTRY_VALUE = _tag(2, _BYTES)


def varint(number: int) -> bytes:
    """A number from 0 on."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


_SHORT = [bytes((number,)) for number in range(0x80)]


def sized(data: bytes) -> bytes:
    """Bytes behind their length."""
    size = len(data)
    return (_SHORT[size] if size < 0x80 else varint(size)) + data


def read_publish(data: bytes, at: int, end: int) -> Command | None:
    """The command that stands there, when it is a short publish in the form that SDKs give it.

    Each length in a command below 128 bytes is one byte, or leads beyond its end.
    """
    try:
        if data[at] != _COMMAND_ID or end - at >= 0x80:
            return None
        number = shift = 0
        while data[at := at + 1] >= 0x80:
            number |= (data[at] & 0x7F) << shift
            shift += 7
        number |= data[at] << shift
        group_at = at + 5
        text_at = group_at + data[at + 4] + 2
        if (
            number >= 2**32
            or data[at + 1] != _COMMAND_PUBLISH
            or data[at + 2] != end - at - 3
            or data[at + 3] != _PUBLISH_CHANNEL
            or data[text_at - 2] != _PUBLISH_DATA
            or data[text_at - 1] != end - text_at
        ):
            return None
        group = data[group_at : text_at - 2].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    return Command(number, publish=Publish(group, Raw(data[text_at:end])))


def encode_published(number: int) -> bytes:
    """The answer to a publish command, behind its length."""
    return sized(b"".join((_REPLY_ID, varint(number), _REPLY_PUBLISH)))


def encode_publication(group: str, publication: Publication) -> bytes:
    """The push of a publication, behind its length."""
    pub = _publication(publication)
    push = b"".join((_PUSH_CHANNEL, sized(group.encode()), _PUSH_PUB, varint(len(pub)), pub))
    size = varint(len(push))
    return b"".join((varint(1 + len(size) + len(push)), _REPLY_PUSH, size, push))


def _publication(publication: Publication) -> bytes:
    data = bytes(publication.data)
    parts = [_PUB_DATA, varint(len(data)), data] if data else []
    info, offset, time = publication.info, publication.offset, publication.time
    if info is not None:
        parts += (_PUB_INFO, sized(_info(info)))
    if offset:
        parts += (_PUB_OFFSET, said := varint(offset))
        if time == offset:
            parts += (_PUB_TIME, said)
    if time and time != offset:
        parts += (_PUB_TIME, varint(time & 2**64 - 1))
    for tag, value in publication.tags.items():
        entry = _ENTRY_KEY + sized(tag.encode()) + _ENTRY_VALUE + sized(value.encode())
        parts += (_PUB_TAGS, sized(entry))
    return b"".join(parts)


def _info(info: ClientInfo) -> bytes:
    said = _INFO_USER + sized(info.user.encode()) if info.user else b""
    if info.client:
        said += _INFO_CLIENT + sized(info.client.encode())
    if info.conn_info is not ABSENT:
        said += _INFO_CONN_INFO + sized(bytes(info.conn_info))
    return said
