"""A user's inbox: the groups, what was said there last, and what is unread."""

from __future__ import annotations

from typing import Annotated

import msgspec
import trio

from ..base.codec import MAX_TS, check_id
from ..base.errors import BadParameter, StoreUnavailable
from ..groups.store import Store
from ..groups.store.marks import Unread
from ..groups.store.summaries import GroupState
from ..groups.whispers import may_enter
from .codes import Refusal, bad_request, denied
from .connection import Connection
from .protocol import Publication
from .publications import publications

GROUPS_AT_ONCE = 256
MOST_GROUPS = 1000


class Read(msgspec.Struct):
    """One has read a group up to a message."""

    channel: str
    ts: Annotated[int, msgspec.Meta(ge=0, le=MAX_TS)]


class Groups(msgspec.Struct):
    """Which groups one is in, those where something was said last first."""

    limit: int = MOST_GROUPS


class ListedGroup(msgspec.Struct, omit_defaults=True):
    """A group with its last message, how many it has, and how many are unread.

    ``read`` is the ts up to which the user has read it, if there is a mark.
    """

    channel: str
    total: int
    unread: int
    read: int = 0
    last: Publication | None = None


class ListedGroups(msgspec.Struct):
    """All of them."""

    groups: list[ListedGroup]


async def read(connection: Connection, request: Read) -> None:
    """Move the user's read mark in a group that it hears or is a member of.

    Raises:
        Refusal: it may not.
        StoreUnavailable, KeyUnusable, HookFailed: who has to be asked is away.
    """
    group, user = request.channel, connection.user
    try:
        check_id("channel", group)
    except BadParameter as exc:
        raise Refusal(bad_request(str(exc))) from None
    if connection.is_guest:
        raise Refusal(denied("guests have no read marks"))
    if not may_enter(group, user):
        raise Refusal(denied("private group"))
    await connection.check("groups", "")
    store = connection.service.domain.store
    if not (group in connection.subscriptions or await store.members.is_member(group, user)):
        raise Refusal(denied("not a member"))
    await store.marks.move(group, user, request.ts)


async def groups(connection: Connection, request: Groups) -> ListedGroups:
    """The groups of the user, each with its last message and what is unread.

    Raises:
        Refusal: it may not see them.
        StoreUnavailable, KeyUnusable, HookFailed: who has to be asked is away.
    """
    if not 0 < request.limit <= MOST_GROUPS:
        raise Refusal(bad_request(f"limit: must be from 1 to {MOST_GROUPS}"))
    await connection.check("groups", "")
    return await list_groups(connection.service.domain.store, connection.user, request.limit)


async def list_groups(store: Store, user: str, limit: int) -> ListedGroups:
    """The groups of a user, at most some thousand, those where something was said last first.

    Raises:
        StoreUnavailable, KeyUnusable: they cannot be told now.
    """
    found = await _newest(store, user, limit)
    marks = await store.marks.of(user, [name for name, _ in found])
    listed: list[ListedGroup] = []
    unread: list[Unread] = []
    for start in range(0, len(found), GROUPS_AT_ONCE):
        part = found[start : start + GROUPS_AT_ONCE]
        for name, state in part:
            unread.append(store.marks.count_unread(name, state, marks.get(name, 0)))
        await trio.lowlevel.checkpoint()  # they leave, and are counted while these are read:
        for name, state in part:
            last = _last(store, name, state)
            listed.append(ListedGroup(name, state.total, 0, marks.get(name, 0), last))
    for group, asked in zip(listed, unread, strict=True):
        group.unread = await asked.count()
    return ListedGroups(listed)


async def _newest(store: Store, user: str, limit: int) -> list[tuple[str, GroupState]]:
    """The user's groups in which something was said last."""
    names = await store.members.groups_of(user)
    found: list[tuple[str, GroupState]] = []
    for start in range(0, len(names), GROUPS_AT_ONCE):
        part = names[start : start + GROUPS_AT_ONCE]
        for name, state in zip(part, await store.summaries.states(part), strict=True):
            if isinstance(state, StoreUnavailable):
                raise state
            found.append((name, state))
        found.sort(key=lambda each: each[1].position.ts, reverse=True)
        del found[limit:]
    return found


def _last(store: Store, group: str, state: GroupState) -> Publication | None:
    """A group's newest message, as it is told."""
    newest = [] if state.newest is None else [(1, state.newest)]
    last = next(iter(publications(store.stands, group, newest)), None)
    if last is not None:
        last.offset = last.time
    return last
