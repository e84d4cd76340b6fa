"""The methods of the daemon that a client calls: its own, and those of moderators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..base.errors import BadParameter
from . import inbox, moderating
from .codes import (
    LIMIT_EXCEEDED,
    METHOD_NOT_FOUND,
    NOT_AVAILABLE,
    NOT_FOUND,
    PERMISSION_DENIED,
    Refusal,
    bad_request,
    denied,
)
from .connection import Connection
from .protocol import Reply, Rpc, RpcResult
from .speaking import check_policy, judge, tell_failed


class Send(msgspec.Struct):
    """Say something in a group: with the same nonce it is the same message, said once."""

    channel: str
    data: msgspec.Raw
    nonce: str = ""


class Recall(msgspec.Struct):
    """Take back one's own message."""

    channel: str
    ts: int


class Typing(msgspec.Struct):
    """Tell the others in a group that one is typing."""

    channel: str


class Sent(msgspec.Struct):
    """When it was said, which is its id."""

    ts: int | None


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
    said = await judge(connection, request.channel, request.data, request.nonce)

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
            said.info,
            answer,
            nonce=request.nonce,
            tags=said.tags,
            within=said.within,
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


async def typing(connection: Connection, number: int, request: Typing) -> None:
    """Tell the others that the user is typing."""
    if request.channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    presence = connection.service.domain.presence
    if not presence.is_enabled:
        raise Refusal(NOT_AVAILABLE)
    await check_policy(connection, request.channel, takes_turn=False)
    if not await presence.type(request.channel, connection):
        raise Refusal(LIMIT_EXCEEDED)
    connection.answer(number, _result({}))


async def read(connection: Connection, number: int, request: inbox.Read) -> None:
    """Move the user's read mark in a group."""
    await inbox.read(connection, request)
    connection.answer(number, _result({}))


async def groups(connection: Connection, number: int, request: inbox.Groups) -> None:
    """The groups of the user, each with its last message and what is unread."""
    connection.answer(number, _result(await inbox.groups(connection, request)))


def _result(result: object) -> Reply:
    return Reply(rpc=RpcResult(msgspec.Raw(msgspec.json.encode(result))))


METHODS: dict[str, tuple[type[Any], Callable[[Connection, int, Any], Awaitable[None]]]] = {
    "send": (Send, send),
    "recall": (Recall, recall),
    "typing": (Typing, typing),
    "read": (inbox.Read, read),
    "groups": (inbox.Groups, groups),
    **moderating.METHODS,
}
