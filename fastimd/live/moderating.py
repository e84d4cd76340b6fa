"""The methods of moderators, and what clients are told of their acts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..base.errors import BadParameter, Refused
from ..groups.events import PolicyChange
from ..groups.moderation import bodies
from ..groups.moderation.acts import Actor, NoSuchMessage
from ..groups.moderation.methods import METHODS as OF_MODERATORS
from ..groups.moderation.methods import Method
from ..groups.moderation.restraint import banned
from ..groups.store.policy import Sentence
from ..websocket.frames import cut_reason
from .codes import (
    BANNED,
    BANNED_HERE,
    NOT_FOUND,
    PERMISSION_DENIED,
    TOO_MANY_REQUESTS,
    Refusal,
    bad_request,
    denied,
)
from .connection import Connection
from .protocol import Push, Reply, RpcResult, Unsubscribed
from .publications import moderated


async def report(connection: Connection, number: int, body: bodies.Complaint) -> None:
    """Report a message, as a member of its group."""
    if body.channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    _check_pace(connection)
    try:
        await connection.service.domain.moderation.report(connection.user, body)
    except NoSuchMessage:
        raise Refusal(NOT_FOUND) from None
    _answer(connection, number, {})


def _called(method: Method) -> Callable[[Connection, int, Any], Awaitable[None]]:
    async def call(connection: Connection, number: int, body: Any) -> None:
        _check_pace(connection)
        by = Actor(connection.user, connection.has_role(body.channel))
        try:
            result = await method.call(connection.service.domain.moderation, by, body)
        except NoSuchMessage:
            raise Refusal(NOT_FOUND) from None
        except BadParameter as exc:
            raise Refusal(bad_request(str(exc))) from None
        except Refused as exc:
            raise Refusal(denied(str(exc))) from None
        _answer(connection, number, result)

    return call


def _check_pace(connection: Connection) -> None:
    if not connection.may_speak():
        raise Refusal(TOO_MANY_REQUESTS)


def _answer(connection: Connection, number: int, result: object) -> None:
    data = msgspec.Raw(msgspec.json.encode(result))
    connection.answer(number, Reply(rpc=RpcResult(data)))


METHODS: dict[str, tuple[type[Any], Callable[[Connection, int, Any], Awaitable[None]]]] = {
    "report": (bodies.Complaint, report),
    **{name: (method.body, _called(method)) for name, method in OF_MODERATORS.items()},
}


def tell(connection: Connection, change: PolicyChange) -> None:
    """Tell a connection of the user whom an act concerns; put it out when that is a ban."""
    is_ban = change.act == "ban"
    if is_ban and change.by and connection.has_role(change.group):
        return  # a moderator's word does not hold for another one
    if change.group in connection.subscriptions:
        connection.push(Push(change.group, pub=moderated(change)))
    if is_ban:
        reason = str(banned(Sentence(change.until, change.reason, change.by)))
        if connection.is_only_at(change.group):
            connection.close(BANNED[0], cut_reason(reason))
        else:
            connection.put_out(change.group, Unsubscribed(BANNED_HERE.code, reason))
