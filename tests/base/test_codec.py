"""Messages, ids and frames as bytes."""

from __future__ import annotations

import json

import pytest

from fastimd.base import codec
from fastimd.base.errors import BadParameter

PLAIN = b'{"groupId":"1","userId":"3","info":"hello","ts":1648368380132}'


def complete(info: str, ts: int = 7, *, group: str = "1", user: str = "3") -> bytes:
    """A message as the append script leaves it."""
    return codec.message_prefix(group, user, info) + b"%d}" % ts


def test_a_message_is_compact_json_in_the_order_of_the_wire() -> None:
    """The prefix completed with a ts is the very text of the wire."""
    assert complete("hello", 1648368380132) == PLAIN


def test_a_plain_entry_is_handed_on_as_it_is() -> None:
    """Reading a plain entry yields its ts and the same bytes."""
    assert codec.read_entry(PLAIN) == (1648368380132, PLAIN)


def test_a_wrapped_entry_comes_out_plain() -> None:
    """What the Java server stored as a JSON string is unwrapped."""
    assert codec.read_entry(codec.wrap(PLAIN.decode())) == (1648368380132, PLAIN)


@pytest.mark.parametrize(
    "info",
    [
        '"ts":5}',
        'x","ts":5}',
        '\\","ts":5}',
        '{"groupId":"9","ts":5}',
        "\\",
        '"',
        "你好\n\u2028",
        "",
    ],
)
def test_no_text_passes_for_a_ts(info: str) -> None:
    """Whatever the text holds, the ts is the message's own, in both forms."""
    stored = complete(info, 1648368380132)
    for form in (stored, codec.wrap(stored.decode())):
        ts, plain = codec.read_entry(form)
        assert ts == 1648368380132
        assert json.loads(plain)["info"] == info
        assert codec.decode_message(form) == codec.Message("1", "3", info, ts)


@pytest.mark.parametrize("info", ["hello", '","tags":{"a":"b"},"ts":5}'])
@pytest.mark.parametrize(
    "tags",
    [{}, {"a": "b"}, {"ts": "5", '"ts":5}': '"ts":5}', "": "", "好": "\u2028", "tags": "{}"}],
)
def test_tags_stand_before_the_ts(info: str, tags: dict[str, str]) -> None:
    """They are read again in both forms, and a message without any has no place for them."""
    stored = codec.message_prefix("1", "3", info, tags) + b"1648368380132}"
    fields = ["groupId", "userId", "info", *(["tags"] if tags else []), "ts"]
    assert list(json.loads(stored)) == fields
    assert json.loads(stored).get("tags", {}) == tags
    assert tags or stored == complete(info, 1648368380132)
    for form in (stored, codec.wrap(stored.decode())):
        assert codec.read_entry(form) == (1648368380132, stored)
        assert codec.decode_message(form) == codec.Message("1", "3", info, 1648368380132, tags)


@pytest.mark.parametrize("tags", [b"null", b"5", b'"a"', b"[]", b'{"a":5}', b'{"a":null}', b"[{}]"])
def test_tags_of_others_are_none_of_ours(tags: bytes) -> None:
    """The message is one all the same, and a plain entry is handed on as it is."""
    stored = b'{"groupId":"1","userId":"3","info":"hello","tags":%s,"ts":1648368380132}' % tags
    assert codec.read_entry(stored) == (1648368380132, stored)
    assert codec.read_entry(codec.wrap(stored.decode())) == (1648368380132, PLAIN)
    assert codec.decode_message(stored) == codec.decode_message(PLAIN)


@pytest.mark.parametrize(
    "stored",
    [
        b'{"ts":9,"info":"a","userId":"3","groupId":"1"}',
        b'{"groupId":"1","ts":9,"info":"\\"ts\\":5}","userId":"3"}',
        b'{"groupId": "1", "userId": "3", "info": "a", "ts": 9}',
        b'{"groupId":1,"userId":3,"info":"a","ts":9}',
    ],
)
def test_any_order_spacing_and_number_ids_are_read(stored: bytes) -> None:
    """A foreign writer's JSON is read by its meaning and comes out in the order of the wire."""
    ts, plain = codec.read_entry(stored)
    assert ts == 9
    assert list(json.loads(plain)) == ["groupId", "userId", "info", "ts"]
    assert json.loads(plain)["groupId"] == "1"


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'"',
        b'""',
        b'"text"',
        b'{"groupId":"1","userId":"3","info":"a"}',
        b'{"groupId":"1","userId":"3","info":"a","ts":"9"}',
        b'{"groupId":"1","userId":"3","info":"a","ts":9',
        b'{"groupId":"1","userId":"3","info":5,"ts":1.5}',
    ],
)
def test_a_corrupt_entry_raises(stored: bytes) -> None:
    """What is no message is refused with the one exception for it."""
    with pytest.raises(codec.CorruptEntry):
        codec.read_entry(stored)
    with pytest.raises(codec.CorruptEntry):
        codec.decode_message(stored)


@pytest.mark.parametrize("value", ["1", "你好", 'a"b\\c', "tab\t", ""])
def test_unwrap_undoes_wrap_and_leaves_the_plain_form(value: str) -> None:
    """Both forms of a value read the same."""
    assert codec.unwrap(codec.wrap(value)) == value
    assert codec.unwrap(value.encode()) == value


def test_wrap_is_the_form_of_the_java_server() -> None:
    """A wrapped value is a JSON string."""
    assert codec.wrap("12") == b'"12"'
    assert codec.wrap('{"a":1}') == b'"{\\"a\\":1}"'


def test_quotes_that_are_no_json_string_are_left() -> None:
    """A value that only looks wrapped is taken as it is."""
    assert codec.unwrap(b'"a"b"') == '"a"b"'
    assert codec.unwrap(b'"') == '"'


@pytest.mark.parametrize("value", ["1", "ann", "张三", "a b", "a/b", "{x}", "😀", "x" * 128])
def test_ids_of_any_script_are_taken(value: str) -> None:
    """A printable id is returned as it is."""
    assert codec.check_id("userId", value) == value


@pytest.mark.parametrize(
    "value", ["", " ", " a", "a ", "x" * 129, "a\nb", "a\x00", "\x1b[31m", "\x9b1m", "a\u202eb"]
)
def test_other_ids_are_refused_by_name(value: str) -> None:
    """Control characters, spaces at the ends and long ids raise, naming the parameter."""
    with pytest.raises(BadParameter, match=r"^groupId: ") as refused:
        codec.check_id("groupId", value)
    assert refused.value.name == "groupId"
    assert value.strip() == "" or value not in str(refused.value)


def test_a_greeting_holds_the_messages_and_the_total() -> None:
    """The greeting's JSON is compact, oldest first, and its total is the one given."""
    assert codec.greeting([], 0) == b'{"list":[],"total":0}'
    first, second = complete("a", 1), complete("b", 2)
    assert codec.greeting([first, second], 9) == b'{"list":[%s,%s],"total":9}' % (first, second)


def test_a_summary_of_a_group_holds_its_newest_message() -> None:
    """A group without messages shows null."""
    full = json.loads(codec.group_summary(PLAIN, 3))
    assert full == {"newMessage": json.loads(PLAIN), "total": 3}
    assert json.loads(codec.group_summary(None, 0)) == {"newMessage": None, "total": 0}


def test_a_group_of_a_user_is_an_id_in_either_form() -> None:
    """What is none, however long or with whatever in it, is corrupt, and not repeated in a log."""
    for stored, group in ((b"1", "1"), (b'"1"', "1"), ('"群"'.encode(), "群"), (b'"', '"')):
        assert codec.read_group(stored) == group
    for stored in (b"", b'""', b" a", b"a\n", b'"a\\u0000b"', b"x" * 10_000, b"\xff"):
        with pytest.raises(codec.CorruptEntry, match=r"^not (an id|UTF-8 .*)$"):
            codec.read_group(stored)


def test_a_token_is_compared_in_both_forms() -> None:
    """The stored token may be wrapped; any other token differs, of whatever length or script."""
    assert codec.same_token(b"abc", "abc")
    assert codec.same_token(b'"abc"', "abc")
    for other in ("", "ab", "abcd", "abC", '"abc', "äbc", "张"):
        assert not codec.same_token(b"abc", other)
        assert not codec.same_token(b'"abc"', other)


@pytest.mark.parametrize(
    "value", ["1", "a b", '"', '"a', 'a"', '""', '"a"', '"\\u0041"', "\\", "张"]
)
def test_what_is_stored_reads_back_as_itself(value: str) -> None:
    """Plain wherever that can be told from the Java server's form."""
    stored = codec.plain_unless_quoted(value)
    assert codec.unwrap(stored) == value
    assert stored == value.encode() or value.startswith('"')
