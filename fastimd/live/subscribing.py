"""Subscribe, unsubscribe and sub_refresh: into a group, out of it, and for how long."""

from __future__ import annotations

from functools import partial
from sys import intern
from typing import NamedTuple

from ..base.codec import MAX_TS, check_id
from ..base.errors import BadParameter, NotLoggedIn, Refused, Restrained, TokenRefused
from ..groups.audience import Greeting, Since
from ..groups.hub import Membership
from ..groups.store.stand import Stands
from ..groups.whispers import may_enter
from .codes import (
    ALREADY_SUBSCRIBED,
    BAD_REQUEST,
    BANNED_HERE,
    INVALID_TOKEN,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    PERMISSION_DENIED,
    SUBSCRIPTION_EXPIRED,
    TOKEN_EXPIRED,
    Disconnect,
    Refusal,
    bad_request,
    denied,
    ttl_of,
)
from .connection import Connection, Entering, Subscription
from .protocol import (
    Channel,
    Nothing,
    Push,
    Reply,
    SubRefresh,
    SubRefreshed,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from .publications import publications

EXPIRED_SECONDS = 25.0
"""How long a client whose subscription has expired may take to show another token."""


class Barred(Refusal):
    """The user is banned from the group."""


class Entry(NamedTuple):
    """A way into a group that is open: ``begin`` goes it, after the client was told ``result``."""

    group: str
    membership: Membership
    result: Subscribed

    def give_up(self, connection: Connection) -> None:
        """Do not go it."""
        del connection.entering[self.group]
        self.membership.leave()

    def begin(self, connection: Connection, *, wants_comings: bool = False) -> None:
        """Hear the group from now on, if nothing has come between."""
        domain = connection.service.domain
        way = connection.entering.pop(self.group)
        barred = way.barred or _barred(connection, self)
        if barred is not None:
            self.membership.leave()
            connection.push(Push(self.group, unsubscribe=barred))
            return
        visit = domain.visits.join(self.group, connection.user)
        connection.subscriptions[self.group] = Subscription(self.membership, visit, way.since)
        self.membership.begin()
        domain.presence.come(self.group, connection)
        if wants_comings:
            domain.presence.listen(self.group, connection, connection.tell_comings)


async def subscribe(connection: Connection, number: int, request: Subscribe) -> None:
    """Let a client into a group, and tell it what it missed.

    Raises:
        Refusal, Disconnect: it may not come in.
        StoreUnavailable, KeyUnusable, HookFailed: who has to be asked is away.
    """
    if not request.channel:
        raise Disconnect(BAD_REQUEST)
    if request.type:
        raise Refusal(NOT_AVAILABLE)
    group = _group(request.channel)
    bad = Refusal(PERMISSION_DENIED)
    expires_at = await _read_token(connection, group, request.token, bad)
    since = since_of(request)
    entry = await enter(connection, group, since, is_invited=expires_at is not None)
    ttl = ttl_of(expires_at or 0)
    entry.result.expires, entry.result.ttl = ttl > 0, ttl
    connection.answer(number, Reply(subscribe=entry.result))
    entry.begin(connection, wants_comings=request.join_leave)
    _expire(connection, group, ttl)


def since_of(request: Subscribe | None) -> Since | None:
    """Up to where a client knows a group, if it wants to go on from there."""
    if request is None:
        return None
    offset = offset_of(request.offset)
    return Since(request.epoch, offset) if request.recover else None


def offset_of(offset: int) -> int:
    """An offset that a client knows; one that no message can have is as good as the latest.

    Raises:
        Disconnect: it is none.
    """
    if offset >= 2**64:
        raise Disconnect(BAD_REQUEST)
    return min(offset, MAX_TS)


async def unsubscribe(connection: Connection, number: int, request: Channel) -> None:
    """Let a client out of a group; that it is not in it is no error."""
    if not request.channel:
        raise Disconnect(BAD_REQUEST)
    connection.unsubscribe(request.channel)
    connection.answer(number, Reply(unsubscribe=Nothing()))


async def sub_refresh(connection: Connection, number: int, request: SubRefresh) -> None:
    """Take a new token for a subscription.

    Raises:
        Refusal, Disconnect: it is none.
    """
    if not request.channel:
        raise Disconnect(BAD_REQUEST)
    if request.type:
        raise Refusal(NOT_AVAILABLE)
    if request.channel not in connection.subscriptions:
        raise Refusal(PERMISSION_DENIED)
    if not request.token:
        raise Refusal(bad_request("token: missing"))
    if not connection.service.tokens.is_configured:
        raise Refusal(NOT_AVAILABLE)
    bad = Disconnect(INVALID_TOKEN)
    expires_at = await _read_token(connection, request.channel, request.token, bad)
    ttl = ttl_of(expires_at or 0)
    _expire(connection, request.channel, ttl)
    connection.answer(number, Reply(sub_refresh=SubRefreshed(ttl > 0, ttl)))


async def enter(
    connection: Connection, group: str, since: Since | None, *, is_invited: bool
) -> Entry:
    """Open a client's way into a group.

    Args:
        since: up to where it knows the group, if it is to go on from there.
        is_invited: a token lets it in.

    Raises:
        Refusal: it may not come in.
        StoreUnavailable, KeyUnusable, HookFailed: who has to be asked is away.
    """
    group = intern(group)  # each connection that is in it holds its name
    if group in connection.subscriptions:
        raise Refusal(ALREADY_SUBSCRIBED)
    most = connection.service.domain.config.live.max_subscriptions
    if len(connection.subscriptions) + len(connection.entering) >= most:
        raise Refusal(LIMIT_EXCEEDED)
    connection.entering[group] = Entering()
    try:
        await _check_access(connection, group)
        return await _open_way(connection, group, since, is_invited=is_invited)
    except BaseException:
        del connection.entering[group]
        raise


async def _open_way(
    connection: Connection, group: str, since: Since | None, *, is_invited: bool
) -> Entry:
    service = connection.service
    domain, members = service.domain, service.domain.store.members
    auto_join = domain.config.group.auto_join
    if not (auto_join or is_invited or await members.is_member(group, connection.user)):
        raise Refusal(denied("not a member"))
    membership = domain.hub.enter(group, connection.outbox, service.dialect, connection.lose)
    is_exempt = connection.has_role(group)
    try:
        domain.judge.check_known(membership.policy, connection.user, is_exempt=is_exempt)
        is_joining = auto_join and not connection.is_guest
        join = members.send_join(group, connection.user) if is_joining else None
        greeting = await membership.read_greeting(since)
        joined = None if join is None else await members.joined(join)
        if joined == "full":
            raise Refusal(LIMIT_EXCEEDED)
        try:
            domain.judge.check_entry(membership.policy, connection.user, is_exempt=is_exempt)
        except Restrained:
            if joined == "joined":
                await members.leave(group, connection.user)
            raise
    except Restrained as exc:
        membership.leave()
        raise Barred(denied(str(exc))) from None
    except BaseException:
        membership.leave()
        raise
    return Entry(group, membership, _result(domain.store.stands, group, greeting, since))


def _barred(connection: Connection, entry: Entry) -> Unsubscribed | None:
    """Why a way leads nowhere that was open: the user has been banned since."""
    try:
        connection.service.domain.judge.check_entry(
            entry.membership.policy, connection.user, is_exempt=connection.has_role(entry.group)
        )
    except Restrained as exc:
        return Unsubscribed(BANNED_HERE.code, str(exc))
    return None


async def _check_access(connection: Connection, group: str) -> None:
    access = connection.service.domain.access
    if not (access.asks_hook or connection.is_login):  # else a token has said who it is
        if not may_enter(group, connection.user):
            raise Refusal(denied("private group"))
        return
    try:
        await access.check_opening(connection.user, connection.token, "chat", group)
    except NotLoggedIn:
        raise Refusal(PERMISSION_DENIED) from None
    except Refused as exc:
        raise Refusal(denied(str(exc))) from None


def _result(stands: Stands, group: str, greeting: Greeting, since: Since | None) -> Subscribed:
    stand = greeting.stand
    assert stand is not None
    result = Subscribed(
        recoverable=True,
        positioned=True,
        epoch=stand.epoch,
        offset=stand.position.ts,
        was_recovering=since is not None,
    )
    if since is not None and stand.is_recovered:
        result.recovered, result.offset = True, since.offset
        result.publications = publications(stands, group, stand.messages)
    return result


async def _read_token(connection: Connection, group: str, token: str, bad: Exception) -> int | None:
    """When the token for a group expires, 0 for never; None when there is none.

    Args:
        bad: raised for one that is not good.
    """
    tokens = connection.service.tokens
    if not token or not tokens.is_configured:
        return None
    try:
        claims = await tokens.read_subscription(token, connection.user, group, connection.client)
    except TokenRefused as exc:
        raise connection.token_refused("subscribe", exc, bad, Refusal(TOKEN_EXPIRED)) from None
    return claims.expires_at


def _expire(connection: Connection, group: str, ttl: int) -> None:
    """End a subscription some time after its token has expired."""
    subscription = connection.subscriptions.get(group)
    if subscription is None:
        return
    if subscription.expiry is not None:
        subscription.expiry.cancel()
    subscription.expiry = None
    if ttl:
        end = partial(connection.put_out, group, SUBSCRIPTION_EXPIRED)
        subscription.expiry = connection.service.timers.call_after(ttl + EXPIRED_SECONDS, end)


def _group(channel: str) -> str:
    try:
        return check_id("channel", channel)
    except BadParameter as exc:
        raise Refusal(bad_request(str(exc))) from None
