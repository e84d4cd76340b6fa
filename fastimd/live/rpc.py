"""The methods of the daemon that a client calls: send, recall, groups, and those of moderators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..base.errors import BadParameter, StoreUnavailable
from . import moderating
from .codes import (
    METHOD_NOT_FOUND,
    NOT_FOUND,
    PERMISSION_DENIED,
    Refusal,
    bad_request,
    denied,
)
from .connection import Connection
from .protocol import Publication, Reply, Rpc, RpcResult
from .publications import publications
from .speaking import ANSWER_SECONDS, judge, tell_failed

GROUPS_AT_ONCE = 256
MOST_GROUPS = 1000


class Send(msgspec.Struct):
    """Say something in a group: with the same nonce it is the same message, said once."""

    channel: str
    data: msgspec.Raw
    nonce: str = ""


class Recall(msgspec.Struct):
    """Take back one's own message."""

    channel: str
    ts: int


class Groups(msgspec.Struct):
    """Which groups one is in, those where something was said last first."""

    limit: int = MOST_GROUPS


class Sent(msgspec.Struct):
    """When it was said, which is its id."""

    ts: int | None


class GroupState(msgspec.Struct, omit_defaults=True):
    """A group with its last message and how many it has."""

    channel: str
    total: int
    last: Publication | None = None


class GroupStates(msgspec.Struct):
    """All of them."""

    groups: list[GroupState]


async def call(connection: Connection, number: int, request: Rpc) -> None:
    """Call a method.

    Raises:
        Refusal, Disconnect: there is none such, or it refuses.
        StoreUnavailable, KeyUnusable, HookFailed: who has to be asked is away.
    """
    if request.method not in METHODS:
        raise Refusal(METHOD_NOT_FOUND)
    arguments, method = METHODS[request.method]
    data = request.data if bytes(request.data) else msgspec.Raw(b"{}")
    try:
        given = msgspec.json.decode(data, type=arguments)
    except (ValueError, RecursionError) as exc:
        raise Refusal(bad_request(str(exc))) from None
    await method(connection, number, given)


async def send(connection: Connection, number: int, request: Send) -> None:
    """Say something; the answer comes when it is in Redis, and tells its ``ts``."""
    info = await judge(connection, request.channel, request.data, request.nonce)

    def answer(failure: Exception | None, ts: int | None) -> None:
        connection.note_answered()
        if failure is None:
            connection.answer_later(number, _result(Sent(ts)))
        else:
            tell_failed(connection, number, request.channel, failure)

    messages = connection.service.domain.store.messages
    connection.in_flight += 1
    try:
        messages.append_told(
            request.channel,
            connection.user,
            info,
            answer,
            nonce=request.nonce,
            within=ANSWER_SECONDS,
        )
    except BadParameter as exc:
        connection.note_answered()
        raise Refusal(bad_request(str(exc))) from None


async def recall(connection: Connection, number: int, request: Recall) -> None:
    """Delete the user's own message."""
    if request.channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    await connection.check("recall", request.channel)
    messages = connection.service.domain.store.messages
    outcome = await messages.recall(request.channel, connection.user, request.ts)
    if outcome == "old":
        raise Refusal(denied("too old to be recalled"))
    if outcome == "missing":
        raise Refusal(NOT_FOUND)
    connection.answer(number, _result({}))


async def groups(connection: Connection, number: int, request: Groups) -> None:
    """The groups of the user, each with its last message."""
    if not 0 < request.limit <= MOST_GROUPS:
        raise Refusal(bad_request(f"limit: must be from 1 to {MOST_GROUPS}"))
    await connection.check("groups", "")
    store = connection.service.domain.store
    names = await store.members.groups_of(connection.user)
    found: list[tuple[int, GroupState]] = []
    for start in range(0, len(names), GROUPS_AT_ONCE):
        part = names[start : start + GROUPS_AT_ONCE]
        for name, state in zip(part, await store.summaries.states(part), strict=True):
            if isinstance(state, StoreUnavailable):
                raise state
            newest = [] if state.newest is None else [(1, state.newest)]
            last = next(iter(publications(store.stands, name, newest)), None)
            if last is not None:
                last.offset = last.time
            found.append((state.position.ts, GroupState(name, state.total, last)))
        found.sort(key=lambda each: each[0], reverse=True)
        del found[request.limit :]
    connection.answer(number, _result(GroupStates([state for _, state in found])))


def _result(result: object) -> Reply:
    return Reply(rpc=RpcResult(msgspec.Raw(msgspec.json.encode(result))))


METHODS: dict[str, tuple[type[Any], Callable[[Connection, int, Any], Awaitable[None]]]] = {
    "send": (Send, send),
    "recall": (Recall, recall),
    "groups": (Groups, groups),
    **moderating.METHODS,
}
