"""The events that a backend is told over HTTP, as they are sent.

What has happened is not asked, so nothing waits for the backend: an event goes into a queue in
Redis, and from there to the backend, however long that is away.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import msgspec

from ..base import codec
from . import ModerationAct, ReportedMessage

MESSAGE = "message"
"""The event of a message that is stored: it is told from the group's list."""
EVENTS = frozenset(("on_join", "on_leave", "on_moderation", "on_report", MESSAGE))
"""Those of ``hooks.webhook_events`` that are told; the others are asked."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened in a group. ``id`` is its ``webhook-id``, however often sent."""

    name: str
    group: str
    id: str
    body: bytes


class Outlet(Protocol):
    """Where events go that the backend is told."""

    async def push(self, event: Event) -> None:
        """Have the backend told; when this returns, it will be, whatever becomes of this daemon.

        Raises:
            StoreUnavailable: Redis is away; it may be told or not.
        """
        ...


def visit_event(name: str, group: str, user: str, connection_id: str) -> Event:
    """A join or a leave: under the same id, whichever daemon tells it."""
    fields = {"groupId": group, "userId": user, "connectionId": connection_id}
    return Event(name, group, f"msg_{connection_id}_{name}", _body(name, fields))


def moderation_event(what: ModerationAct | ReportedMessage) -> Event:
    """An act or a report, under an id of its own."""
    fields: dict[str, str | int]
    if isinstance(what, ModerationAct):
        name = "on_moderation"
        fields = {
            "groupId": what.group_id,
            "act": what.act,
            "moderatorId": what.moderator_id,
            "userId": what.user_id,
            "seconds": what.seconds,
            "reason": what.reason,
            "ts": what.ts,
            "count": what.count,
        }
    else:
        name = "on_report"
        fields = {
            "groupId": what.group_id,
            "ts": what.ts,
            "userId": what.user_id,
            "reporterId": what.reporter_id,
            "reason": what.reason,
        }
    return Event(name, what.group_id, f"msg_{secrets.token_hex(16)}", _body(name, fields))


class _Said(msgspec.Struct, omit_defaults=True):
    """A message, as the backend is told of it."""

    userId: str
    info: str
    ts: int
    tags: dict[str, str] = {}


def messages_event(
    group: str, before: int, newest: int, messages: Sequence[codec.Message]
) -> Event:
    """Messages of a group, under an id that is made from where they stand.

    Args:
        before: the ts after which they are.
        newest: that of the last of them.
    """
    place = f"{before} {newest} {group}".encode()
    number = f"msg_{blake2b(place, digest_size=16).hexdigest()}_{MESSAGE}"
    said = [_Said(each.userId, each.info, each.ts, each.tags) for each in messages]
    fields = {"groupId": group, "messages": said}
    return Event(MESSAGE, group, number, _body(MESSAGE, fields))


def _body(name: str, fields: object) -> bytes:
    return b'{"type":"%b",%b' % (name.encode(), msgspec.json.encode(fields)[1:])
