"""Publish, and the methods that say or take back something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import structlog
import trio

from ..base import log as logs
from ..base.errors import FateUnknown, Refused, Restrained, StoreUnavailable
from ..hooks import Message
from .codes import (
    BAD_REQUEST,
    INTERNAL,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    PERMISSION_DENIED,
    TOO_MANY_REQUESTS,
    Disconnect,
    Refusal,
    bad_request,
    denied,
)
from .connection import Connection
from .protocol import Error, Publish, Reply
from .publications import info_of

MAX_IN_FLIGHT = 64
"""Messages of one connection that may wait for Redis before it is read on."""
ANSWER_SECONDS = 4.0
"""How long Redis may take for a message: the clients wait for five seconds."""
POLICY_SECONDS = 2.0
"""How much of it to tell whether the user may speak."""

log = structlog.get_logger("fastimd.socket")


async def publish(connection: Connection, number: int, request: Publish) -> None:
    """Say something in a group; the answer comes when it is in Redis.

    Raises:
        Refusal, Disconnect: it may not be said.
        StoreUnavailable, HookFailed: who has to be asked is away.
    """
    if not request.channel:
        raise Disconnect(BAD_REQUEST)
    if request.type:
        raise Refusal(NOT_AVAILABLE)
    said = await judge(connection, request.channel, request.data)

    def answer(failure: Exception | None) -> None:
        connection.note_answered()
        if failure is None:
            connection.tell_published(number)
        else:
            tell_failed(connection, number, request.channel, failure)

    connection.in_flight += 1
    connection.service.domain.store.messages.append(
        request.channel, connection.user, said.info, answer, tags=said.tags, within=said.within
    )


class Said(NamedTuple):
    """What is stored of what a client says, and the seconds in which Redis must have it."""

    info: str
    tags: Mapping[str, str] | None
    within: float


async def judge(connection: Connection, group: str, data: msgspec.Raw, nonce: str = "") -> Said:
    """What is stored of what a client wants to say, when it may.

    With the nonce of its last message it is that one, and slow mode does not hold it up.

    Raises:
        as ``publish``.
    """
    domain = connection.service.domain
    if group not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    try:
        info = info_of(data)
        if len(info.encode()) > domain.config.group_message.max_bytes:
            raise Refusal(LIMIT_EXCEEDED)
    except ValueError as exc:
        raise Refusal(bad_request(str(exc))) from None
    if not connection.may_speak():
        raise Refusal(TOO_MANY_REQUESTS)
    connection.count_messages(1)
    if logs.is_debug:
        shown = info if domain.config.log.message_text else None
        log.debug(
            "message.received",
            group=group,
            user=connection.user,
            characters=len(info),
            text=shown,
        )
    if connection.is_login:
        await connection.check("say", group)
    tags: Mapping[str, str] | None = None
    if domain.hooks.has("on_message"):
        await check_policy(connection, group, takes_turn=False)
        try:
            judged = await domain.hooks.judge_message(Message(group, connection.user, info))
            info, tags = judged.info, judged.tags
        except Refused as exc:
            raise Refusal(denied(str(exc))) from None
    if connection.in_flight >= MAX_IN_FLIGHT:
        await connection.wait_in_flight(MAX_IN_FLIGHT)
    if not domain.store.messages.has_room:
        await domain.store.messages.wait_room()
    within = ANSWER_SECONDS - await check_policy(connection, group, nonce=nonce)
    connection.note_heard()  # what the client says meanwhile is not read
    if connection.is_dismissed:
        raise StoreUnavailable("the connection is closing")
    if group not in connection.subscriptions:  # put out of it meanwhile, as by a kick
        raise Refusal(PERMISSION_DENIED)
    return Said(info, tags, within)


async def check_policy(
    connection: Connection, group: str, *, takes_turn: bool = True, nonce: str = ""
) -> float:
    """Let the user speak, if the group's moderators do; returns the seconds that it took.

    Raises:
        Refusal: they do not.
        StoreUnavailable, KeyUnusable: it cannot be told.
    """
    subscription = connection.subscriptions.get(group)
    if subscription is None or subscription.membership.policy.lets(connection.user):
        return 0.0
    began = trio.current_time()
    try:
        await connection.service.domain.judge.check_message(
            subscription.membership.policy,
            connection.user,
            is_exempt=connection.has_role(group),
            within=POLICY_SECONDS,
            takes_turn=takes_turn,
            nonce=nonce,
        )
    except Restrained as exc:
        is_temporary = exc.why == "slow"
        code = TOO_MANY_REQUESTS.code if is_temporary else PERMISSION_DENIED.code
        raise Refusal(Error(code, str(exc), temporary=is_temporary)) from None
    return trio.current_time() - began


def tell_failed(connection: Connection, number: int, group: str, failure: Exception) -> None:
    """Log that a message is not in Redis, and tell the client if that is certain."""
    connection.service.domain.metrics.appends_failed += 1
    log.warning("socket.append_failed", group=group, user=connection.user, error=str(failure))
    if not isinstance(failure, FateUnknown):
        connection.answer_later(number, Reply(error=INTERNAL))
