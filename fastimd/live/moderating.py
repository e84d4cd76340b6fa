"""The methods of moderators, and what clients are told of their acts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from ..base.errors import BadParameter, Refused
from ..groups.events import PolicyChange
from ..groups.moderation import bodies
from ..groups.moderation.acts import Actor, Moderation, NoSuchMessage
from ..groups.moderation.restraint import banned
from ..groups.store.policy import Sentence
from .codes import (
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

BANNED_CODE = 2103
"""Ends a subscription; clients do not subscribe again by themselves below 2500."""

Body: TypeAlias = Any


async def ban(moderation: Moderation, by: Actor, body: bodies.Restraint) -> object:
    """Keep a user out of a group."""
    await moderation.ban(by, body)
    return {}


async def unban(moderation: Moderation, by: Actor, body: bodies.OfUser) -> object:
    """Let a user in again."""
    await moderation.unban(by, body)
    return {}


async def mute(moderation: Moderation, by: Actor, body: bodies.Restraint) -> object:
    """Let a user say nothing."""
    await moderation.mute(by, body)
    return {}


async def unmute(moderation: Moderation, by: Actor, body: bodies.OfUser) -> object:
    """Let a user speak again."""
    await moderation.unmute(by, body)
    return {}


async def slow_mode(moderation: Moderation, by: Actor, body: bodies.SlowMode) -> object:
    """Put time between two messages of a user."""
    await moderation.slow_mode(by, body)
    return {}


async def mute_all(moderation: Moderation, by: Actor, body: bodies.MuteAll) -> object:
    """Let only moderators write."""
    await moderation.mute_all(by, body)
    return {}


async def moderators(moderation: Moderation, by: Actor, body: bodies.Moderators) -> object:
    """Who the moderators are, and who is to be one."""
    return {"users": await moderation.moderators(by, body)}


async def delete_message(moderation: Moderation, by: Actor, body: bodies.OfMessage) -> object:
    """Delete anybody's message."""
    await moderation.delete_message(by, body)
    return {}


async def delete_messages_of(moderation: Moderation, by: Actor, body: bodies.OfUser) -> object:
    """Delete all messages of a user."""
    return {"deleted": await moderation.delete_messages_of(by, body)}


async def reports(moderation: Moderation, by: Actor, body: bodies.OfGroup) -> object:
    """What members have reported."""
    return {"reports": await moderation.reports(by, body)}


async def report(connection: Connection, number: int, body: bodies.Complaint) -> None:
    """Report a message, as a member of its group."""
    if body.channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    if not connection.may_speak():
        raise Refusal(TOO_MANY_REQUESTS)
    try:
        await connection.service.domain.moderation.report(connection.user, body)
    except NoSuchMessage:
        raise Refusal(NOT_FOUND) from None
    _answer(connection, number, {})


def _method(
    act: Callable[[Moderation, Actor, Any], Awaitable[object]],
) -> Callable[[Connection, int, Body], Awaitable[None]]:
    async def call(connection: Connection, number: int, body: Body) -> None:
        by = Actor(connection.user, connection.has_role(body.channel))
        try:
            result = await act(connection.service.domain.moderation, by, body)
        except NoSuchMessage:
            raise Refusal(NOT_FOUND) from None
        except BadParameter as exc:
            raise Refusal(bad_request(str(exc))) from None
        except Refused as exc:
            raise Refusal(denied(str(exc))) from None
        _answer(connection, number, result)

    return call


def _answer(connection: Connection, number: int, result: object) -> None:
    data = msgspec.Raw(msgspec.json.encode(result))
    connection.answer(number, Reply(rpc=RpcResult(data)))


METHODS: dict[str, tuple[type[Any], Callable[[Connection, int, Any], Awaitable[None]]]] = {
    "ban": (bodies.Restraint, _method(ban)),
    "unban": (bodies.OfUser, _method(unban)),
    "mute": (bodies.Restraint, _method(mute)),
    "unmute": (bodies.OfUser, _method(unmute)),
    "slow_mode": (bodies.SlowMode, _method(slow_mode)),
    "mute_all": (bodies.MuteAll, _method(mute_all)),
    "moderators": (bodies.Moderators, _method(moderators)),
    "delete_message": (bodies.OfMessage, _method(delete_message)),
    "delete_messages_of": (bodies.OfUser, _method(delete_messages_of)),
    "report": (bodies.Complaint, report),
    "reports": (bodies.OfGroup, _method(reports)),
}


def tell(connection: Connection, change: PolicyChange) -> None:
    """Tell a connection of the user whom an act concerns; put it out when that is a ban."""
    if change.act != "ban":
        if change.group in connection.subscriptions:
            connection.push(Push(change.group, pub=moderated(change)))
        return
    if not connection.is_at(change.group):
        return
    if connection.has_role(change.group) and change.by:
        return  # a moderator's word does not hold for another one
    if change.group in connection.subscriptions:
        connection.push(Push(change.group, pub=moderated(change)))
    reason = str(banned(Sentence(change.until, change.reason, change.by)))
    connection.put_out(change.group, Unsubscribed(BANNED_CODE, reason))
