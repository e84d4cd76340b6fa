"""History, presence and presence_stats: what was said in a group, and who is in it."""

from __future__ import annotations

from ..groups.presence.presence import Presence as GroupPresence
from .codes import (
    BAD_REQUEST,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    PERMISSION_DENIED,
    UNRECOVERABLE_POSITION,
    Disconnect,
    Refusal,
    bad_request,
)
from .connection import Connection, info_of
from .protocol import Channel, History, Page, Present, PresentStats, Reply
from .publications import publications
from .subscribing import offset_of

MOST_MESSAGES = 1000
"""How many messages a page of history has at most."""


def page_of(limit: int) -> int:
    """How many messages are read for a limit; one below 0 asks for a whole page."""
    return MOST_MESSAGES if limit < 0 else min(limit, MOST_MESSAGES)


async def history(connection: Connection, number: int, request: History) -> None:
    """Messages of a group: all, those after a position, or back from it.

    Raises:
        Refusal, Disconnect: they may not be read.
        StoreUnavailable, KeyUnusable: they cannot be read now.
    """
    group = _subscribed(connection, request.channel)
    since = request.since
    if since is not None and not since.offset and request.reverse:
        raise Refusal(bad_request("since.offset: must be more than 0, to go back from it"))
    await connection.check("history", group)
    stands = connection.service.domain.store.stands
    page = await stands.history(
        group,
        since.epoch if since is not None else "",
        offset_of(since.offset) if since is not None else None,
        page_of(request.limit),
        reverse=request.reverse,
    )
    if not page.is_of_epoch:
        raise Refusal(UNRECOVERABLE_POSITION)
    told = publications(stands, group, page.messages)
    connection.answer(number, Reply(history=Page(told, page.epoch, page.offset)))


async def presence(connection: Connection, number: int, request: Channel) -> None:
    """Who is in a group, on all daemons.

    Raises:
        Refusal, Disconnect: it may not be told.
        StoreUnavailable, KeyUnusable: it cannot be told now.
    """
    group = _subscribed(connection, request.channel)
    members = await _presence(connection).members_of(group)
    if members is None:
        raise Refusal(LIMIT_EXCEEDED)
    present = {place.client: info_of(user, place) for user, place in members}
    connection.answer(number, Reply(presence=Present(present)))


async def presence_stats(connection: Connection, number: int, request: Channel) -> None:
    """How many are in a group, on all daemons.

    Raises:
        Refusal, Disconnect: it may not be told.
        StoreUnavailable, KeyUnusable: it cannot be told now.
    """
    group = _subscribed(connection, request.channel)
    counts = await _presence(connection).count(group)
    connection.answer(number, Reply(presence_stats=PresentStats(*counts)))


def _presence(connection: Connection) -> GroupPresence:
    found = connection.service.domain.presence
    if not found.is_enabled:
        raise Refusal(NOT_AVAILABLE)
    return found


def _subscribed(connection: Connection, channel: str) -> str:
    if not channel:
        raise Disconnect(BAD_REQUEST)
    if channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    return channel
