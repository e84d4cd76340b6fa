"""History, presence and presence_stats: what was said in a group, and who is in it."""

from __future__ import annotations

from .codes import (
    BAD_REQUEST,
    LIMIT_EXCEEDED,
    PERMISSION_DENIED,
    UNRECOVERABLE_POSITION,
    Disconnect,
    Refusal,
    bad_request,
)
from .connection import Connection, info_of
from .protocol import Channel, ClientInfo, History, Page, Present, PresentStats, Reply
from .publications import publications
from .subscribing import offset_of

MOST_MESSAGES = 1000
"""How many messages a page of history has at most."""
MOST_PRESENT = 1000
"""How many members presence tells at most."""


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
    limit = MOST_MESSAGES if request.limit < 0 else min(request.limit, MOST_MESSAGES)
    stands = connection.service.domain.store.stands
    page = await stands.history(
        group,
        since.epoch if since is not None else "",
        offset_of(since.offset) if since is not None else None,
        limit,
        reverse=request.reverse,
    )
    if not page.is_of_epoch:
        raise Refusal(UNRECOVERABLE_POSITION)
    told = publications(stands, group, page.messages)
    connection.answer(number, Reply(history=Page(told, page.epoch, page.offset)))


async def presence(connection: Connection, number: int, request: Channel) -> None:
    """Who is in a group here.

    Raises:
        Refusal, Disconnect: it may not be told.
    """
    present = _present(connection, _subscribed(connection, request.channel))
    if len(present) > MOST_PRESENT:
        raise Refusal(LIMIT_EXCEEDED)
    connection.answer(number, Reply(presence=Present(present)))


async def presence_stats(connection: Connection, number: int, request: Channel) -> None:
    """How many are in a group here.

    Raises:
        Refusal, Disconnect: it may not be told.
    """
    present = _present(connection, _subscribed(connection, request.channel))
    users = {info.user for info in present.values()}
    connection.answer(number, Reply(presence_stats=PresentStats(len(present), len(users))))


def _present(connection: Connection, group: str) -> dict[str, ClientInfo]:
    sessions = connection.service.around.sessions.of_group(group)
    return {info.client: info for info in (info_of(session) for session in sessions)}


def _subscribed(connection: Connection, channel: str) -> str:
    if not channel:
        raise Disconnect(BAD_REQUEST)
    if channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    return channel
