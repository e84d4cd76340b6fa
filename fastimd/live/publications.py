"""Messages as publications, and back: what is said on one wire is heard on the other.

What is published is a JSON string, which is stored as the text that it says, or an object or an
array, which is stored as its compact JSON. So a text that is the JSON of an object or an array is
delivered as that, and any other text as a string.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..base.codec import CorruptEntry, decode_message
from ..groups.events import MODERATION, Event, PolicyChange
from ..groups.gap import GAP
from ..groups.store.stand import Stands
from ..groups.subscription import NOTICE
from .escapes import unescape, without_halves
from .protocol import ClientInfo, Publication

_encode = msgspec.json.encode


def publications(
    stands: Stands, group: str, batch: Iterable[tuple[int, bytes]]
) -> list[Publication]:
    """Messages of a group, notices and gaps as they are told, each message with its ts.

    Whoever hands on a message reads only its ends. One of another writer that proves to be none is
    left out, as others are that are none at first sight.
    """
    told: list[Publication] = []
    for ts, message in batch:
        try:
            if ts >= 0:
                told.append(publication(ts, message))
            elif ts == NOTICE:
                told.append(notice(message))
            elif ts == GAP:
                told.append(Publication(msgspec.Raw(message), tags={"event": "gap"}))
        except CorruptEntry as exc:
            stands.note_corrupt(group, exc)
    return told


def publication(ts: int, message: bytes) -> Publication:
    """A message as it is told; ``ts`` is its offset, and 0 for a foreign one, which has none."""
    read = decode_message(message)
    by = ClientInfo(read.userId) if read.userId else None
    return Publication(data_of(read.info), by, ts, dict(read.tags), read.ts)


def notice(event: bytes) -> Publication:
    """A notice as it is told, in a publication that is not stored: what is gone, or an act."""
    read = msgspec.json.decode(event, type=Event)
    if read.kind == MODERATION:
        return moderated(msgspec.json.decode(event, type=PolicyChange))
    gone: dict[str, object] = {"ts": read.until or read.ts}
    if read.user:
        gone["user"] = read.user
    if read.since:
        gone["since"] = read.since
    tags = {"event": "purge" if read.until else "recall"}
    return Publication(msgspec.Raw(_encode(gone)), tags=tags)


def typing_of(user: str) -> Publication:
    """That a user is typing, as it is told."""
    return Publication(msgspec.Raw(_encode({"user": user})), tags={"event": "typing"})


def moderated(change: PolicyChange) -> Publication:
    """A moderator's act as those are told whom it concerns, in a publication that is not stored."""
    data: dict[str, object] = {"act": change.act}
    if change.user:
        data["user"] = change.user
    if change.act in ("ban", "mute"):
        data["until"] = change.until
        data["reason"] = change.reason
    if change.act == "slow_mode":
        data["seconds"] = change.seconds
    if change.by:
        data["by"] = change.by
    return Publication(msgspec.Raw(_encode(data)), tags={"event": "moderation"})


def data_of(info: str) -> msgspec.Raw:
    """The text of a message as what is published, on one line."""
    if info[:1] in ("{", "["):
        try:
            return msgspec.Raw(msgspec.json.format(info.encode(), indent=-1))
        except (ValueError, RecursionError):  # it only begins like one
            pass
    return msgspec.Raw(_encode(info))


def info_of(data: msgspec.Raw) -> str:
    """The text that is stored of what is published.

    Raises:
        ValueError: it is neither a string nor an object nor an array; or it is nested too deep.
    """
    try:
        return _info_of(bytes(data).strip())
    except (ValueError, RecursionError):
        pass
    try:
        return _info_of(without_halves(bytes(data).decode()).encode().strip())
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"data: {exc}") from None


def _info_of(data: bytes) -> str:
    if data[:1] == b'"':
        return msgspec.json.decode(data, type=str)
    if data[:1] in (b"{", b"["):
        return unescape(msgspec.json.format(data, indent=-1).decode())
    raise ValueError("must be a string, an object or an array")
