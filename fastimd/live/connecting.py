"""Connect and refresh: who somebody is, and until when."""

from __future__ import annotations

import math
import secrets
from typing import NamedTuple

import msgspec

from .. import __version__
from ..base.codec import check_id
from ..base.errors import BadParameter, NotLoggedIn, Refused, TokenRefused
from ..websocket.frames import cut_reason
from ..websocket.life import tell_opened
from .codes import (
    BAD_REQUEST,
    CONNECTION_EXPIRED,
    INVALID_TOKEN,
    NOT_AVAILABLE,
    TOKEN_EXPIRED,
    Disconnect,
    Refusal,
    bad_request,
    ttl_of,
)
from .connection import Connection
from .protocol import Connect, Connected, Refresh, Refreshed, Reply
from .subscribing import Barred, Entry, enter, since_of
from .tokens import Claims

CONNECT_SECONDS = 10.0
"""How long a client may take for its connect command."""
EXPIRED_SECONDS = 25.0
"""How long one whose token has expired may take to show another."""
MAX_SDK = 64  # characters


class _Who(NamedTuple):
    """Who connects, until when (seconds since the epoch, or 0), and into which groups.

    ``role_groups`` are those that it moderates.
    """

    user: str
    expires_at: int = 0
    info: bytes = b""
    channels: tuple[str, ...] = ()
    is_login: bool = False
    is_guest: bool = False
    role_groups: tuple[str, ...] = ()


async def connect(connection: Connection, number: int, request: Connect) -> None:
    """Let a client in, and into the groups that its token names.

    Raises:
        Refusal, Disconnect: it may not come in.
        StoreUnavailable, KeyUnusable, HookFailed: who has to be asked is away.
    """
    connection.sdk = _sdk(request)
    who = await _identify(connection, request)
    connection.user, connection.conn_info = who.user, who.info
    connection.token = request.token
    connection.is_login, connection.is_guest = who.is_login, who.is_guest
    connection.role_groups = who.role_groups
    entries: list[Entry] = []
    try:
        for group in who.channels:
            since = since_of(request.subs.get(group))
            try:
                entries.append(await enter(connection, group, since, is_invited=True))
            except Barred:  # from this group alone
                continue
    except BaseException:
        for entry in entries:
            entry.give_up(connection)
        connection.user = ""
        raise
    ttl = expire(connection, who.expires_at)
    connected = Connected(
        connection.client,
        f"fastimd {__version__}",
        expires=ttl > 0,
        ttl=ttl,
        subs={entry.group: entry.result for entry in entries},
        ping=math.ceil(connection.service.around.config.socket.ping_interval),
        pong=True,
    )
    tell_opened(connection)
    connection.answer(number, Reply(connect=connected))
    for entry in entries:
        entry.begin(connection)


async def refresh(connection: Connection, number: int, request: Refresh) -> None:
    """Take a new token of the same user.

    Raises:
        Refusal, Disconnect: it is none.
    """
    if not request.token:
        raise Disconnect(BAD_REQUEST)
    tokens = connection.service.tokens
    if not tokens.is_configured:
        raise Refusal(NOT_AVAILABLE)
    try:
        claims = await tokens.read_connect(request.token)
        if claims.user != connection.user:
            raise TokenRefused("claims", "sub: is of another user")
    except TokenRefused as exc:
        bad, expired = Disconnect(INVALID_TOKEN), Disconnect(CONNECTION_EXPIRED)
        raise connection.token_refused("refresh", exc, bad, expired) from None
    connection.token, connection.role_groups = request.token, _role_groups(claims)
    if claims.info != connection.conn_info:
        connection.conn_info = claims.info
        for group in connection.subscriptions:
            connection.service.domain.presence.renew(group, connection.user)
    ttl = expire(connection, claims.expires_at)
    connection.answer(number, Reply(refresh=Refreshed(ttl > 0, ttl)))


def expire(connection: Connection, expires_at: int) -> int:
    """End a connection some time after its token has expired; returns the seconds until then."""
    if not expires_at:
        connection.end_at(None, CONNECTION_EXPIRED)
        return 0
    ttl = ttl_of(expires_at)
    connection.end_at(ttl + EXPIRED_SECONDS, CONNECTION_EXPIRED)
    return ttl


async def _identify(connection: Connection, request: Connect) -> _Who:
    tokens, domain = connection.service.tokens, connection.service.domain
    named = _named_user(request)
    is_signed = request.token.count(".") == 2 or (request.token and not named)
    if tokens.is_configured and is_signed:
        try:
            claims = await tokens.read_connect(request.token)
        except TokenRefused as exc:
            bad, expired = Disconnect(INVALID_TOKEN), Refusal(TOKEN_EXPIRED)
            raise connection.token_refused("connect", exc, bad, expired) from None
        return _Who(
            claims.user,
            claims.expires_at,
            claims.info,
            claims.channels,
            role_groups=_role_groups(claims),
        )
    is_login = domain.config.group.login_auth
    if not named and is_login:
        raise Disconnect(INVALID_TOKEN)
    user = named or f"guest-{secrets.token_hex(8)}"
    try:
        await domain.access.check_opening(user, request.token, "connect")
    except NotLoggedIn:
        raise Disconnect(INVALID_TOKEN) from None
    except Refused as exc:
        raise Disconnect((INVALID_TOKEN[0], cut_reason(str(exc) or "not allowed"))) from None
    return _Who(user, is_login=is_login, is_guest=not named)


def _role_groups(claims: Claims) -> tuple[str, ...]:
    return claims.groups if claims.role == "moderator" else ()


def _named_user(request: Connect) -> str:
    """``userId`` of the data, or ""."""
    try:
        data = msgspec.json.decode(request.data) if bytes(request.data) else None
    except (ValueError, RecursionError):
        raise Refusal(bad_request("data: not JSON")) from None
    user = data.get("userId") if isinstance(data, dict) else None
    if user is None or user == "":
        return ""
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    try:
        return check_id("data.userId", user if isinstance(user, str) else "")
    except BadParameter as exc:
        raise Refusal(bad_request(str(exc))) from None


def _sdk(request: Connect) -> str:
    """The client's library and its version, as it may stand in a log."""
    said = f"{request.name} {request.version}".strip()
    return "".join(sign for sign in said if sign.isprintable())[:MAX_SDK]
