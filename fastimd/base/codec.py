"""Messages and ids as bytes: pure functions, no I/O.

A message is compact JSON with its keys in the order of the wire. ``ts`` (milliseconds since the
epoch) stands last, because the append script in Redis completes the JSON with it. That also lets
the hot path read ``ts`` off the end of an entry without parsing the rest. Before it stand the
message's tags, if it has any.

The Java server wraps what it stores once more as a JSON string; both forms are read everywhere,
the plain one is written.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

import msgspec

from .errors import BadParameter

MAX_ID_LENGTH = 128
"""Characters in a group or user id. Ids become parts of Redis keys, so they are kept short."""

USER_INFO = "user_info"
"""``data`` of the answer to a login of which no hook says more."""

MAX_TS = 2**53 - 1
"""The latest ``ts``: beyond it a number of Lua or of JavaScript is not exact any more."""

_PLAIN_START = b'{"groupId":"'
_TS_KEY = b'"ts":'
_NO_TAGS = msgspec.Raw(b"{}")
_PRIORITY_TAG = b'"priority"'
_NO_USER = b',"userId":"","info":'
_TS_DIGITS = len(str(MAX_TS))


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a group; with the ``userId`` "" it is the server's own.

    ``ts`` is milliseconds since the epoch, by the clock of Redis; unique and increasing within
    the group, and so the message's id.
    """

    groupId: str
    userId: str
    info: str
    ts: int
    tags: dict[str, str] = {}


class _StoredMessage(msgspec.Struct):
    """A message as any Fast-IM writer may have stored it: its ids may be numbers.

    What others call its tags may be anything, and is then none of ours.
    """

    groupId: str | int
    userId: str | int
    info: str
    ts: Annotated[int, msgspec.Meta(ge=0, le=MAX_TS)]
    tags: msgspec.Raw = _NO_TAGS


_encode = msgspec.json.Encoder().encode
_decode_stored = msgspec.json.Decoder(_StoredMessage).decode
_decode_tags = msgspec.json.Decoder(dict[str, str]).decode
_decode_string = msgspec.json.Decoder(str).decode


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


_T = TypeVar("_T")


def read_json(data: bytes | str, kind: type[_T]) -> _T:
    """JSON that anybody may have written, as a value of a kind.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc


class CorruptEntry(ValueError):
    """What stands in Redis is not a message in either form."""


def message_prefix(
    group: str, user: str, info: str, tags: Mapping[str, str] | None = None
) -> bytes:
    """The message's JSON up to and including ``"ts":``; Redis appends the number and ``}``."""
    fields: dict[str, object] = {"groupId": group, "userId": user, "info": info}
    if tags:
        fields["tags"] = tags
    return _encode(fields)[:-1] + b"," + _TS_KEY


def read_entry(stored: bytes) -> tuple[int, bytes]:
    """Read a list entry or a published message, in the plain or the wrapped form.

    Returns:
        ``ts`` and the message as plain JSON.

    Raises:
        CorruptEntry: it is not a message.
    """
    if stored.startswith(_PLAIN_START):
        ts_at = stored.rfind(_TS_KEY)
        digits = stored[ts_at + len(_TS_KEY) : -1]
        is_plain = ts_at > 0 and digits.isdigit() and stored.endswith(b"}")
        if is_plain and len(digits) <= _TS_DIGITS and _is_utf8(stored):
            ts = int(digits)
            if ts <= MAX_TS:
                return ts, stored
    read = decode_message(stored)
    prefix = message_prefix(read.groupId, read.userId, read.info, read.tags)
    return read.ts, prefix + b"%d}" % read.ts


def decode_message(stored: bytes) -> Message:
    """Parse a message in the plain or the wrapped form.

    Raises:
        CorruptEntry: it is not a message.
    """
    try:
        text = unwrap(stored)
        read = _decode_stored(text)
        tags = {} if read.tags == _NO_TAGS else _read_tags(read.tags)
        return Message(str(read.groupId), str(read.userId), read.info, read.ts, tags)
    except (ValueError, RecursionError) as exc:  # numbers may be too long, arrays too deep
        raise CorruptEntry(f"not a message ({exc})") from exc


def has_high_priority(message: bytes) -> bool:
    """Whether a message, as plain JSON, is the server's own, or its tag ``priority`` is ``high``.

    Only a message that has this word between quotes is parsed. In a text it is not: its quotes are
    escaped.
    """
    if _NO_USER in message:
        return True
    if _PRIORITY_TAG not in message:
        return False
    try:
        return decode_message(message).tags.get("priority") == "high"
    except CorruptEntry:
        return False


def _read_tags(tags: msgspec.Raw) -> dict[str, str]:
    try:
        return _decode_tags(tags)
    except msgspec.MsgspecError:
        return {}


def unwrap(stored: bytes) -> str:
    """A value of Redis as text, without the JSON string the Java server puts around it.

    Raises:
        CorruptEntry: it is not UTF-8.
    """
    try:
        if stored.startswith(b'"') and stored.endswith(b'"') and len(stored) > 1:
            with contextlib.suppress(msgspec.MsgspecError):  # a plain value that has quotes
                return _decode_string(stored)
        return stored.decode()
    except UnicodeDecodeError as exc:
        raise CorruptEntry(f"not UTF-8 ({exc})") from exc


def read_group(stored: bytes) -> str:
    """A member of a user's set of groups as an id, from the plain or the wrapped form.

    Raises:
        CorruptEntry: it is none.
    """
    try:
        return check_id("groupId", unwrap(stored))
    except BadParameter as exc:
        raise CorruptEntry("not an id") from exc


def wrap(value: str) -> bytes:
    """The form in which the Java server stores the string ``value``."""
    return _encode(value)


def plain_unless_quoted(value: str) -> bytes:
    """The form in which a value is stored: plain, if it then reads back as itself."""
    plain = value.encode()
    return plain if unwrap(plain) == value else wrap(value)


def same_token(stored: bytes, given: str) -> bool:
    """Compare a stored token, in either form, with the client's, in constant time.

    Raises:
        CorruptEntry: what is stored is not UTF-8.
    """
    return hmac.compare_digest(unwrap(stored).encode(), given.encode())


def greeting(entries: Iterable[bytes], total: int) -> bytes:
    """``{"list":[…],"total":n}`` of plain entries, oldest first."""
    return b'{"list":[%s],"total":%d}' % (b",".join(entries), total)


def group_summary(newest: bytes | None, total: int) -> bytes:
    """``{"newMessage":…,"total":n}``, one group of a group-list push."""
    return b'{"newMessage":%s,"total":%d}' % (newest or b"null", total)


def check_id(name: str, value: str) -> str:
    """Return ``value`` if it may be a group or user id.

    Ids are 1 to 128 printable characters of any script, without spaces at the ends. U+FFFD, which
    stands where a form had bytes that are no UTF-8, is none of them.

    Raises:
        BadParameter: it may not; the error names the parameter ``name``.
    """
    readable = value.isprintable() and value.strip() == value and "\ufffd" not in value
    if 0 < len(value) <= MAX_ID_LENGTH and readable:
        return value
    raise BadParameter(name, f"must be 1 to {MAX_ID_LENGTH} printable characters")
