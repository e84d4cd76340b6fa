"""What is published is heard as the same value; the seed's wire has it as a text.

Messages are stored and read back here as the daemon does it, without Redis: what becomes of them on
both wires is what the functions between make of them.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from clients import wrapped
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimd.base import codec
from fastimd.groups.events import Event
from fastimd.groups.store.stand import Stands
from fastimd.groups.subscription import NOTICE
from fastimd.live import json_wire, protobuf_wire
from fastimd.live.dialect import FRAME_BYTES, Live
from fastimd.live.publications import data_of, info_of, notice, publication, publications

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
PUBLISHED = TEXTS | st.lists(VALUES, max_size=4) | st.dictionaries(TEXTS, VALUES, max_size=4)
"""Every value that may be published."""


class Corrupt(list[tuple[str, str]]):
    """Takes the place of a store: keeps what was told to be corrupt."""

    def note_corrupt(self, group: str, failure: codec.CorruptEntry) -> None:
        self.append((group, str(failure)))


def told(stands: Corrupt, *messages: bytes, ts: int = 7) -> list[Any]:
    """Messages of a group as the live wire tells them."""
    batch = [(ts, message) for message in messages]
    return publications(cast(Stands, stands), "g", batch)


def stored(info: str, ts: int = 7) -> bytes:
    return codec.message_prefix("g", "mara", info) + b"%d}" % ts


def looks_like_json(text: str) -> bool:
    """A text that is the JSON of an object or an array."""
    try:
        return isinstance(json.loads(text, parse_constant=_refuse), (dict, list))
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


# --- both ways


def is_ambiguous(value: Any) -> bool:
    """A string that reads as an object or an array: it comes back as that."""
    return isinstance(value, str) and data_of(value) != msgspec.Raw(msgspec.json.encode(value))


@pytest.mark.parametrize("indent", [None, 2])
@given(value=PUBLISHED)
@settings(max_examples=200, deadline=None)
def test_what_is_published_is_heard(indent: int | None, value: Any) -> None:
    """However its JSON was written, as the same value, on one line."""
    said = json.dumps(value, ensure_ascii=bool(indent), indent=indent)
    info = info_of(msgspec.Raw(f" {said}\n".encode()))
    heard = bytes(publication(7, stored(info)).data)
    assert not set(b"\r\n") & set(heard)
    if is_ambiguous(value):
        assert json.loads(heard) == json.loads(value)
    else:
        assert json.loads(heard) == value


@given(PUBLISHED)
@settings(max_examples=200, deadline=None)
def test_the_seeds_wire_has_what_is_published_as_text(value: Any) -> None:
    """A string as it is, everything else as compact JSON of the same value."""
    info = info_of(msgspec.Raw(json.dumps(value).encode()))
    if isinstance(value, str):
        assert info == value
    else:
        assert json.loads(info) == value
        assert info == msgspec.json.format(info, indent=-1)
    plainly = json.dumps(value, ensure_ascii=False)
    assert info_of(msgspec.Raw(plainly.encode())) == info


@given(TEXTS | VALUES.map(json.dumps))
@settings(max_examples=300, deadline=None)
def test_what_the_seeds_clients_say_is_heard(text: str) -> None:
    """As a string, or, if it is the JSON of an object or an array, as that."""
    heard = bytes(data_of(text))
    assert not set(b"\r\n") & set(heard)
    if text[:1] in ("{", "[") and looks_like_json(text):
        assert json.loads(heard) == json.loads(text)
    else:
        assert json.loads(heard) == text
    again = data_of(info_of(msgspec.Raw(heard)))
    assert json.loads(bytes(again)) == json.loads(heard)


NO_JSON = [
    *("[1,]", '{"a":1', "[1]x", "[1] [2]", "[01]", "[.5]", "[1.]", "[+1]", "[NaN]", "[Infinity]"),
    *("{1:2}", "{'a':1}", '["\\q"]', '["\\u12"]', '["a\nb"]', '["\0"]', "[tru]", "[", "{", "[]]"),
    "[" * 50_000 + "]" * 50_000,
]
"""Texts that only begin like an object or an array."""


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: text[:12])
def test_a_text_that_begins_like_json_is_a_string(text: str) -> None:
    """And the line of JSON is not broken, whatever stands in it."""
    heard = bytes(data_of(text))
    assert json.loads(heard) == text
    assert b"\n" not in heard
    with pytest.raises(ValueError, match="data:"):
        info_of(msgspec.Raw(text.encode()))


REFUSED = [
    *("7", "-1.5", "true", "false", "null", "", " ", "\n", "nonsense", "'x'", '"a', '"a" "b"'),
    *('"a\nb"', '"\0"', '"\\x"'),
]


@pytest.mark.parametrize("data", REFUSED)
def test_other_values_are_not_published(data: str) -> None:
    """Numbers, truths, null, and what is no JSON: the error tells that."""
    with pytest.raises(ValueError, match="data:"):
        info_of(msgspec.Raw(data.encode()))


@pytest.mark.parametrize("data", [b'"\xff"', b'["\xff"]', b'{"\xed\xa0\x80":1}', b'"\xc0\x80"'])
def test_bytes_that_are_no_utf8_are_not_published(data: bytes) -> None:
    """Protobuf may bring them; a text of Redis they are not."""
    with pytest.raises(ValueError, match="data:"):
        info_of(msgspec.Raw(data))


def test_numbers_stay_as_they_are_written() -> None:
    """No number is made another one by reading and writing it."""
    said = b'[12345678901234567890123,1e400,-0,1.10,1E+2,{"a":1,"a":2}]'
    info = info_of(msgspec.Raw(said))
    assert info.encode() == bytes(data_of(info)) == said


# --- what others write


@given(TEXTS | VALUES.map(json.dumps))
@settings(max_examples=100, deadline=None)
def test_the_wrapped_form_is_heard_as_the_plain_one(info: str) -> None:
    """The Java server stores a JSON string of the message's JSON."""
    plain = stored(info)
    as_java = wrapped(plain.decode()).encode()
    assert publication(7, plain) == publication(7, as_java)
    assert codec.read_entry(as_java) == (7, plain)


def test_a_foreign_message_has_no_offset() -> None:
    """Its ts is no measure: it is told as the time alone. Ids that are numbers become texts."""
    message = b'{"groupId":1,"userId":42,"info":"x","ts":9007199254740991}'
    heard = publication(0, message)
    assert heard.info is not None
    assert (heard.offset, heard.time, heard.info.user) == (0, 2**53 - 1, "42")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [('{"a":"b"}', {"a": "b"}), ('{"a":1}', {}), ("7", {}), ("null", {}), ('["a"]', {})],
)
def test_tags_are_those_of_the_message(tags: str, expected: dict[str, str]) -> None:
    """What others call its tags may be anything, and is then none."""
    message = f'{{"groupId":"g","userId":"u","info":"x","tags":{tags},"ts":7}}'
    assert publication(7, message.encode()).tags == expected


LOOKS_LIKE_ONE = [
    b'{"groupId":"g","userId":"u","info":7,"ts":7}',
    b'{"groupId":"g","userId":null,"info":"x","ts":7}',
    b'{"groupId":"g" nonsense "ts":7}',
    b'{"groupId":"g","userId":"u","info":"\\ud800","ts":7}',
    b'{"groupId":"g","userId":"u","info":"a\nb","ts":7}',
    b'{"groupId":"' + b"[" * 50_000 + b',"ts":7}',
]


@pytest.mark.parametrize("message", LOOKS_LIKE_ONE, ids=lambda message: message[11:40])
@pytest.mark.parametrize("wire", [json_wire, protobuf_wire])
def test_what_only_looks_like_a_message_is_left_out(wire: Any, message: bytes) -> None:
    """The relay hands it on, for it reads only the ends; others of its batch are told."""
    assert codec.read_entry(message) == (7, message)
    corrupt = Corrupt()
    assert [each.data for each in told(corrupt, stored("a"), message, stored("b"))] == [
        msgspec.Raw(b'"a"'),
        msgspec.Raw(b'"b"'),
    ]
    assert [group for group, _ in corrupt] == ["g"]
    live = Live(cast(Stands, corrupt), wire)
    assert live.encode("g", [(7, message)]) == []
    assert len(live.encode("g", [(7, message), (8, stored("a", 8))])) == 1


# --- notices and frames


@pytest.mark.parametrize(
    ("event", "tag", "gone"),
    [
        (Event("g", "mara", 7), "recall", {"ts": 7, "user": "mara"}),
        (Event("g", "", 0, until=9), "purge", {"ts": 9}),
    ],
)
def test_a_deletion_is_told_as_what_is_gone(event: Event, tag: str, gone: Any) -> None:
    """In a publication that is not stored: it has no offset, and nobody said it."""
    heard = notice(msgspec.json.encode(event))
    assert (heard.tags, heard.offset, heard.info) == ({"event": tag}, 0, None)
    assert json.loads(bytes(heard.data)) == gone
    [same] = publications(
        cast(Stands, SimpleNamespace()), "g", [(NOTICE, msgspec.json.encode(event))]
    )
    assert same == heard


@pytest.mark.parametrize("wire", [json_wire, protobuf_wire])
def test_a_batch_is_cut_into_frames(wire: Any) -> None:
    """Each about as long as it may be; a longer message has its own."""
    batch = [(ts, stored("x" * 1000, ts)) for ts in range(1, 101)]
    batch.insert(50, (200, stored("y" * 3 * FRAME_BYTES, 200)))
    frames = Live(cast(Stands, Corrupt()), wire).encode("g", batch)
    lengths = sorted(map(len, frames))
    assert lengths[-1] > 3 * FRAME_BYTES
    assert all(FRAME_BYTES / 2 < length < FRAME_BYTES + 100 for length in lengths[1:-1])
    assert 4 < len(frames) < 8


@pytest.mark.parametrize(
    ("said", "info"),
    [
        (rb'"a\ud83d"', "a\ufffd"),
        (rb'"\ude00b"', "\ufffdb"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\\ud83d"', "\\ud83d"),
        (rb'{"a":"\ud83d"}', '{"a":"\ufffd"}'),
        (rb'{"a":"\\\ud83d"}', '{"a":"\\\\\ufffd"}'),
    ],
)
def test_half_an_emoji_is_replaced(said: bytes, info: str) -> None:
    """As of one that a client has cut; a pair and what only looks like one stay."""
    assert info_of(msgspec.Raw(said)) == info
    frame = b'{"id":1,"publish":{"channel":"g","data":' + said + b"}}"
    [command] = json_wire.read_commands(frame.decode())
    assert command.publish is not None
    assert info_of(command.publish.data) == info
