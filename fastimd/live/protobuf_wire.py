"""The live wire as Protobuf: commands and replies behind their lengths, several in a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import compress
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from msgspec.structs import astuple

from ..websocket.frames import BINARY, binary_frame
from . import protobuf_talk, protocol
from .protocol import REQUESTS, Command, Reply
from .wire import BadFrame

NAME = "live-protobuf"
OPCODE = BINARY
PACKAGE = "fastimd.live"


def _load() -> dict[str, type[Message]]:
    """The classes of all messages, by their names."""
    compiled = (files(__package__) / "protocol.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    [file] = descriptor_pb2.FileDescriptorSet.FromString(compiled).file
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{PACKAGE}.{message.name}")
        )
        for message in file.message_type
    }


MESSAGES = _load()
_Command: Any = MESSAGES["Command"]
_Reply: Any = MESSAGES["Reply"]
encode_publication = protobuf_talk.encode_publication
encode_published = protobuf_talk.encode_published


def read_commands(payload: bytes) -> Iterator[Command]:
    """The commands of a frame, one after the other.

    Raises:
        BadFrame: what comes next is no command.
    """
    if not payload:
        raise BadFrame
    at = 0
    while at < len(payload):
        size, at = _read_varint(payload, at)
        end = at + size
        if end > len(payload):
            raise BadFrame
        yield protobuf_talk.read_publish(payload, at, end) or read_command(payload[at:end])
        at = end


def frame(replies: Iterable[bytes]) -> bytes:
    """Encoded replies in one frame."""
    return binary_frame(b"".join(replies))


def encode(reply: Reply) -> bytes:
    """A reply behind its length."""
    message: bytes = _Reply(**_to_fields(reply)).SerializeToString()
    return protobuf_talk.sized(message)


def read_command(message: bytes) -> Command:
    """A command, without its length, by the classes.

    Raises:
        BadFrame: it is none.
    """
    try:
        read = _Command.FromString(message)
    except DecodeError:
        raise BadFrame from None
    command = Command(id=read.id)
    for name in REQUESTS:
        if read.HasField(name):
            setattr(command, name, _READ[name](getattr(read, name)))
            break
    return command


def _read_subscribe(read: Any) -> protocol.Subscribe:
    return protocol.Subscribe(
        read.channel,
        read.token,
        read.recover,
        read.epoch,
        read.offset,
        read.join_leave,
        read.type,
    )


def _read_connect(read: Any) -> protocol.Connect:
    subs = {channel: _read_subscribe(sub) for channel, sub in read.subs.items()}
    return protocol.Connect(read.token, msgspec.Raw(read.data), subs, read.name, read.version)


def _read_history(read: Any) -> protocol.History:
    since = None
    if read.HasField("since"):
        since = protocol.StreamPosition(read.since.offset, read.since.epoch)
    return protocol.History(read.channel, read.limit, since, read.reverse)


def _read_channel(read: Any) -> protocol.Channel:
    return protocol.Channel(read.channel)


def _read_nothing(_read: Any) -> protocol.Nothing:
    return protocol.Nothing()


_READ: dict[str, Callable[[Any], msgspec.Struct]] = {
    "connect": _read_connect,
    "subscribe": _read_subscribe,
    "unsubscribe": _read_channel,
    "publish": lambda read: protocol.Publish(read.channel, msgspec.Raw(read.data), read.type),
    "presence": _read_channel,
    "presence_stats": _read_channel,
    "history": _read_history,
    "ping": _read_nothing,
    "send": _read_nothing,
    "rpc": lambda read: protocol.Rpc(msgspec.Raw(read.data), read.method),
    "refresh": lambda read: protocol.Refresh(read.token),
    "sub_refresh": lambda read: protocol.SubRefresh(read.channel, read.token, read.type),
}


def _to_fields(struct: Any) -> dict[str, Any]:
    """What the message of the same name is made of; its class takes all of it at once."""
    values = astuple(struct)
    named = zip(struct.__struct_fields__, values, strict=True)
    fields: dict[str, Any] = dict(compress(named, values))
    for name, value in fields.items():
        convert = _CONVERT.get(type(value))
        if convert is not None:
            fields[name] = convert(value)
    return fields


def _to_map(values: dict[str, Any]) -> dict[str, Any]:
    """A map, whose class takes nothing but messages for messages."""
    return {
        key: MESSAGES[type(each).__name__](**_to_fields(each)) if type(each) in _CONVERT else each
        for key, each in values.items()
    }


_CONVERT: dict[type, Callable[[Any], Any]] = {
    msgspec.Raw: bytes,  # none when it is ABSENT, which is as good as left out
    list: lambda values: [_to_fields(each) for each in values],
    dict: _to_map,
    **{getattr(protocol, name): _to_fields for name in MESSAGES if hasattr(protocol, name)},
}
"""How values become what the classes of messages take, by their types; others are that already.

A look into it takes less than asking whether a value is a struct."""


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of at most 35 bits, and where it ends."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise BadFrame
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise BadFrame


PING = frame([b"\0"])
