"""The two encodings of the live wire say the same, and make nothing but ``BadFrame`` of nonsense.

What is Protobuf here is written and read by hand (``protobuf_by_hand.py``), with the numbers of
fields that Centrifugo has.
"""

from __future__ import annotations

import json
import random
import time
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import protobuf_by_hand as by_hand
import pytest
import raw
from clients import take_frames
from google.protobuf import descriptor_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from protobuf_by_hand import delimited, varint

from fastimd.live import json_wire, protobuf_talk, protobuf_wire, protocol
from fastimd.live.compile import COMPILED, compile_protocol
from fastimd.live.protobuf_talk import read_publish
from fastimd.live.protocol import ABSENT, REQUESTS, ClientInfo, Command, Publication, Push, Reply
from fastimd.live.publications import info_of
from fastimd.live.wire import BadFrame, Wire

WIRES: list[Any] = [json_wire, protobuf_wire]
FUZZ_SECONDS = 2.0
"""Of the processor, which a frame that is nonsense may take at most, however slow the machine is.
A frame has up to 130 KB."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
"""What JSON says, but for fractions, of which each library has its own spelling."""

NUMBERS = {
    "offset": st.integers(0, 2**63 - 1),
    "time": st.integers(0, 2**53 - 1),
    "limit": st.integers(-(2**31), 2**31 - 1),
    "type": st.integers(-(2**31), 2**31 - 1),
}
"""What may be said; other numbers have 32 bits."""


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def values_of(name: str, hint: Any) -> st.SearchStrategy[Any]:
    """What a field may have: structs as they are, and JSON as ``Raw``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return values_of(name, next(each for each in arguments if each is not types.NoneType))
    if origin is dict:
        return st.dictionaries(TEXTS, values_of(name, arguments[1]), max_size=3)
    if origin is list:
        return st.lists(values_of(name, arguments[0]), max_size=3)
    if hint is msgspec.Raw:
        return st.builds(lambda value: msgspec.Raw(as_json(value)), VALUES)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return TEXTS
    if hint is int:
        return NUMBERS.get(name, st.integers(0, 2**32 - 1))
    return structs(hint)


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Structs of a kind, each with some of its fields."""
    hints = typing.get_type_hints(kind)
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        values = values_of(field.name, hints[field.name])
        (required if field.required else optional)[field.name] = values
    fields = st.fixed_dictionaries(required, optional=optional)
    return fields.map(lambda given: kind(**given))


def as_said(value: Any) -> Any:
    """A struct as a client would write it: without what has not been said."""
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    if isinstance(value, dict):
        return {key: as_said(each) for key, each in value.items()}
    if not isinstance(value, msgspec.Struct):
        return value
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    return {
        name: as_said(each) for name, each in fields.items() if each is not None and each != ABSENT
    }


def without_defaults(message: Any) -> Any:
    """A reply without the fields that say nothing, which only one encoding may leave out."""
    if isinstance(message, list):
        return [without_defaults(each) for each in message]
    if not isinstance(message, dict):
        return message
    opaque = ("data", "conn_info")
    plain = {
        name: value if name in opaque else without_defaults(value)
        for name, value in message.items()
    }
    return {name: value for name, value in plain.items() if name in opaque or value}


def read(wire: Wire, payload: str | bytes) -> list[Command]:
    return list(wire.read_commands(payload))


def frames_of(wire: raw.Wire, data: bytes) -> list[raw.Message]:
    """The replies of frames, as a client reads them."""
    told = []
    for opcode, payload in take_frames(bytearray(data)):
        assert opcode == (1 if wire == "json" else 2)
        told += raw.decode(wire, payload.decode() if wire == "json" else payload)
    return told


# --- both say the same


@pytest.mark.parametrize("name", REQUESTS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_command_is_the_same_in_both(name: str, data: st.DataObject) -> None:
    """Each of them, with any of its fields."""
    hint = typing.get_type_hints(Command)[name]
    number = data.draw(st.integers(0, 2**32 - 1))
    command = Command(id=number, **{name: data.draw(values_of(name, hint))})
    assert command.name == name
    said = as_said(command)
    assert read(json_wire, as_json(said).decode()) == [command]
    assert read(protobuf_wire, delimited(by_hand.encode(said))) == [command]


@given(st.lists(structs(Command), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_frame_of_commands_is_the_same_in_both(commands: Sequence[Command]) -> None:
    """All of it, in its order; of a command with several requests the first counts."""
    for wire in WIRES:
        said = [as_said(command) for command in commands]
        payload = b"\n".join(map(as_json, said)).decode()
        got = read(wire, payload if wire is json_wire else raw.encode("protobuf", said))
        assert [(each.id, each.name) for each in got] == [(each.id, each.name) for each in commands]
        for one, other in zip(got, commands, strict=True):
            if one.name:
                assert getattr(one, one.name) == getattr(other, one.name)


@pytest.mark.parametrize("name", [name for name in Reply.__struct_fields__ if name != "id"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_reply_is_the_same_in_both(name: str, data: st.DataObject) -> None:
    """Each of them, with any of its fields; and JSON keeps to its line."""
    hint = typing.get_type_hints(Reply)[name]
    drawn = data.draw(values_of(name, hint))
    reply = Reply(id=data.draw(st.integers(1, 2**32 - 1)), **{name: drawn})
    line = json_wire.encode(reply)
    assert not set(b"\r\n") & set(line)
    (in_json,) = frames_of("json", json_wire.frame([line]))
    (in_protobuf,) = frames_of("protobuf", protobuf_wire.frame([protobuf_wire.encode(reply)]))
    assert in_json.keys() == in_protobuf.keys() == {"id", name}
    assert without_defaults(in_json) == without_defaults(in_protobuf)


@pytest.mark.parametrize("wire", WIRES)
@given(group=TEXTS, publication=structs(Publication))
@settings(max_examples=100, deadline=None)
def test_a_publication_has_a_shorter_way(wire: Any, group: str, publication: Publication) -> None:
    """To the same reply."""
    reply = Reply(push=Push(group, publication))
    name: raw.Wire = "json" if wire is json_wire else "protobuf"
    one, other = (
        frames_of(name, wire.frame([encoded]))
        for encoded in (wire.encode_publication(group, publication), wire.encode(reply))
    )
    assert list(map(without_defaults, one)) == list(map(without_defaults, other))


@pytest.mark.parametrize("wire", WIRES)
@given(number=st.integers(1, 2**32 - 1))
def test_so_has_the_answer_to_a_publish(wire: Any, number: int) -> None:
    """To the same bytes."""
    reply = Reply(id=number, publish=protocol.Nothing())
    assert wire.encode_published(number) == wire.encode(reply)


def test_so_has_a_publish_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read by hand comes out as the classes read it, and what is left to them too."""
    frames: list[bytes] = []
    for number, group, text in [
        (1, "g", "t"),
        (127, "über", "t" * 90),
        (2**14, "g" * 50, [1, {"a": None}]),
        (2**32 - 1, "g", "t" * 106),
    ]:
        command = by_hand.encode({"id": number, "publish": {"channel": group, "data": text}})
        assert read_publish(command, 0, len(command)) is not None
        frame = delimited(command)
        frames += [frame, *mutants(frame, 4000), *mutants(frame * 2, 1000)]
    first = list(map(outcome, frames))
    monkeypatch.setattr(protobuf_talk, "read_publish", lambda *_: None)
    assert list(map(outcome, frames)) == first


def outcome(frame: bytes) -> list[object]:
    """The commands of a frame up to its fault."""
    commands: list[object] = []
    try:
        commands.extend(protobuf_wire.read_commands(frame))
    except BadFrame:
        commands.append("bad")
    return commands


@given(st.lists(structs(Reply), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_frame_of_replies_is_as_many_in_both(replies: Sequence[Reply]) -> None:
    """None runs into the next."""
    in_json = frames_of("json", json_wire.frame(list(map(json_wire.encode, replies))))
    encoded = list(map(protobuf_wire.encode, replies))
    in_protobuf = frames_of("protobuf", protobuf_wire.frame(encoded))
    assert len(in_json) == len(in_protobuf) == len(replies)
    assert [without_defaults(each) for each in in_json] == [
        without_defaults(each) for each in in_protobuf
    ]


@pytest.mark.parametrize("wire", WIRES)
def test_a_ping_is_an_empty_reply(wire: Wire) -> None:
    """A whole frame; the answer to it is an empty command."""
    name: raw.Wire = "json" if wire is json_wire else "protobuf"
    assert frames_of(name, wire.PING) == [{}]
    assert read(wire, raw.encode(name, [{}])) == [protocol.PONG]


def test_what_is_empty_is_left_out_of_json() -> None:
    """A reply with an info that is none is JSON all the same."""
    somebody = ClientInfo("mara", "c")
    reply = Reply(
        id=1,
        push=protocol.Push("g", join=protocol.Joined(somebody)),
        presence=protocol.Present({"c": somebody}),
    )
    info = {"user": "mara", "client": "c"}
    expected = {"id": 1, "push": {"channel": "g", "join": {"info": info}}}
    assert json.loads(json_wire.encode(reply)) == {
        **expected,
        "presence": {"presence": {"c": info}},
    }


# --- the description


def fields_in(kind: str) -> dict[str, int]:
    message: Any = protobuf_wire.MESSAGES[kind]
    return {field.name: field.number for field in message.DESCRIPTOR.fields}


def test_the_description_is_compiled(tmp_path: Path) -> None:
    """``protocol.binpb`` is what comes of ``protocol.proto``."""
    compile_protocol(tmp_path / "compiled")
    fresh, kept = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        for path in (tmp_path / "compiled", COMPILED)
    )
    assert fresh == kept


def test_the_description_has_the_messages_of_the_protocol() -> None:
    """By the same names, with the same fields."""
    kinds = {
        name: kind
        for name, kind in vars(protocol).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and name != "Struct"
    }
    assert {name: fields_in(name).keys() for name in protobuf_wire.MESSAGES} == {
        name: set(kind.__struct_fields__) for name, kind in kinds.items()
    }


PAIRS = {
    "Command": "Command",
    "Connect": "ConnectRequest",
    "Subscribe": "SubscribeRequest",
    "Channel": "OfChannel",
    "Publish": "PublishRequest",
    "StreamPosition": "StreamPosition",
    "History": "HistoryRequest",
    "Rpc": "RPCRequest",
    "Refresh": "OfToken",
    "SubRefresh": "SubRefreshRequest",
    "Nothing": "Empty",
    "Reply": "Reply",
    "Error": "Error",
    "ClientInfo": "ClientInfo",
    "Publication": "Publication",
    "Joined": "OfInfo",
    "Unsubscribed": "Ending",
    "Push": "Push",
    "Subscribed": "SubscribeResult",
    "Connected": "ConnectResult",
    "Present": "PresenceResult",
    "PresentStats": "PresenceStatsResult",
    "Page": "HistoryResult",
    "RpcResult": "Data",
    "Refreshed": "RefreshResult",
    "SubRefreshed": "Expiry",
}
"""The messages of the description, and what they are in the tests' own table."""


def test_the_fields_have_the_numbers_of_centrifugo() -> None:
    """As the tests' own table has them, with which Centrifugo was asked."""
    assert PAIRS.keys() == protobuf_wire.MESSAGES.keys()
    for kind, name in PAIRS.items():
        table = {field: number for field, (number, _) in by_hand.FIELDS[name].items()}
        assert fields_in(kind).items() <= table.items(), kind


# --- nonsense

SOUND = [
    {"id": 1, "connect": {"token": "t", "data": {"userId": "mara"}, "subs": {"g": {"offset": 7}}}},
    {"id": 2, "subscribe": {"channel": "群", "recover": True, "epoch": "e", "offset": 2**60}},
    {"id": 3, "publish": {"channel": "群", "data": {"text": "你好", "list": [1, None, "x"]}}},
    {"id": 4, "history": {"channel": "群", "limit": -1, "since": {"offset": 1, "epoch": "e"}}},
    {"id": 5, "rpc": {"method": "send", "data": {"channel": "群", "data": "x"}}},
    {"id": 6, "sub_refresh": {"channel": "群", "token": "t", "type": 1}},
    {},
]


def check_judged(wire: Wire, payload: str | bytes) -> None:
    """A frame is read, or refused, and soon."""
    began = time.process_time()
    try:
        for command in wire.read_commands(payload):
            assert isinstance(command, Command)
            _check_data(command)
    except BadFrame:
        pass
    assert time.process_time() - began < FUZZ_SECONDS


def _check_data(command: Command) -> None:
    """What is said with it is stored, or refused."""
    if command.publish is not None:
        try:
            assert info_of(command.publish.data).encode()
        except ValueError:
            return


def mutants(sound: bytes, times: int) -> list[bytes]:
    """A frame with some of its bytes lost, changed, doubled or brought from elsewhere."""
    chance = random.Random(1)
    found = []
    for _ in range(times):
        data = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.choice((1, 1, 2, 5, 20)))
            part = data[at:end]
            data[at:end] = chance.choice(
                (b"", bytes([chance.randrange(256)]) * len(part), part * 2, part[::-1])
            )
        found.append(bytes(data))
    return found


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_text_is_read_or_refused(text: str) -> None:
    check_judged(json_wire, text.encode(errors="ignore").decode())


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    check_judged(protobuf_wire, data)


def test_changed_frames_are_read_or_refused() -> None:
    """Of all kinds of commands, with bytes lost, changed and moved."""
    for command in [*SOUND, None]:
        commands = SOUND if command is None else [command]
        in_json, in_protobuf = raw.encode("json", commands), raw.encode("protobuf", commands)
        assert isinstance(in_json, str)
        assert isinstance(in_protobuf, bytes)
        for changed in mutants(in_json.encode(), 1500):
            check_judged(json_wire, changed.decode(errors="replace"))
        for changed in mutants(in_protobuf, 1500):
            check_judged(protobuf_wire, changed)


def deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


BROKEN: dict[str, str | bytes] = {
    **{f"a length of 2^{bits}": varint(2**bits) + b"\x08\x01" for bits in (31, 32, 35, 62, 63)},
    **{
        f"a field of 2^{bits} bytes": delimited(b"\x2a" + varint(2**bits) + b"x")
        for bits in (31, 32, 62, 63)
    },
    "a length that never ends": b"\xff" * 100_000,
    "a channel that is no UTF-8": delimited(b"\x2a\x04\x0a\x02\xff\xfe"),
    "a channel that is half a character": delimited(b"\x2a\x05\x0a\x03\xed\xa0\x80"),
    "groups, deep": delimited(varint(99 << 3 | 3) * 30_000 + varint(99 << 3 | 4) * 30_000),
    "nothing, in Protobuf": b"",
    "nothing": "",
    "data that is no JSON": '{"id":1,"publish":{"channel":"g","data":}}',
    "data with a control character": '{"id":1,"publish":{"channel":"g","data":"\x00"}}',
    "arrays, deep": '{"id":1,"publish":{"channel":"g","data":' + deep(60_000) + "}}",
    "objects, deep": '{"id":1,"none":' + deep(20_000, '{"a":', "}").replace(":}", ":1}", 1) + "}",
    "arrays that are not closed": "[" * 130_000,
    "an id of 33 bits": '{"id":4294967296,"ping":{}}',
    "an id below 0": '{"id":-1,"ping":{}}',
    "an id of many digits": '{"id":' + "9" * 100_000 + ',"ping":{}}',
    "an offset of 65 bits": '{"id":1,"subscribe":{"channel":"g","offset":18446744073709551616}}',
    "a since of 65 bits": '{"id":1,"history":{"since":{"offset":18446744073709551616}}}',
    "a type of 33 bits": '{"id":1,"subscribe":{"channel":"g","type":4294967296}}',
    "a limit of 33 bits": '{"id":1,"history":{"channel":"g","limit":4294967296}}',
    "a fraction": '{"id":1.5,"ping":{}}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused(case: str) -> None:
    """It is no frame, whatever the encoding has for limits; and that is found at once."""
    payload = BROKEN[case]
    wire: Any = json_wire if isinstance(payload, str) else protobuf_wire
    began = time.process_time()
    with pytest.raises(BadFrame):
        read(wire, payload)
    assert time.process_time() - began < FUZZ_SECONDS


@pytest.mark.parametrize("wire", ["json", "protobuf"])
def test_what_comes_before_the_fault_counts(wire: raw.Wire) -> None:
    """Commands are taken one by one: the first is done before the second proves to be none."""
    encoding: Any = json_wire if wire == "json" else protobuf_wire
    sound: Any = raw.encode(wire, [{"id": 1, "ping": {}}])
    commands = encoding.read_commands(sound + ("\nnonsense" if wire == "json" else b"\xff"))
    assert next(commands) == Command(id=1, ping=protocol.Nothing())
    with pytest.raises(BadFrame):
        next(commands)


@pytest.mark.parametrize("wire", ["json", "protobuf"])
@pytest.mark.parametrize("channel", ["\0", "a\0b", "\n", "a\nb", "\u2028", "\ufeff", "🙂"])
def test_a_channel_is_what_was_said(wire: raw.Wire, channel: str) -> None:
    """Whether it is an id is judged later, by one rule for both."""
    encoding: Any = json_wire if wire == "json" else protobuf_wire
    sound: Any = raw.encode(wire, [{"id": 1, "subscribe": {"channel": channel}}])
    assert read(encoding, sound) == [Command(id=1, subscribe=protocol.Subscribe(channel))]


@pytest.mark.parametrize("escape", ["\\ud800", "\\", "\\u", '\\"', "\\ud83d\\ude42"])
def test_many_escapes_are_read_soon(escape: str) -> None:
    """As many as a frame has room for, in a command and in what is none."""
    for text in (escape * 20_000, '{"id":1,"publish":{"data":"' + escape * 20_000):
        check_judged(json_wire, text)
        check_judged(json_wire, text + '"}}')


@pytest.mark.parametrize("tail", ["\n", ""])
def test_a_line_end_behind_the_last_command_is_none(tail: str) -> None:
    """As some clients write them; another one is an empty command, which is refused."""
    assert len(read(json_wire, '{"id":1,"ping":{}}\n{"id":2,"ping":{}}' + tail)) == 2
    with pytest.raises(BadFrame):
        read(json_wire, '{"id":1,"ping":{}}\n' + tail + "\n")
