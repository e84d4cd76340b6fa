"""One connection of the live wire: who it is, in which groups it is, what it is told."""

from __future__ import annotations

import socket
from fnmatch import fnmatchcase
from functools import partial

import trio

from ..base.errors import NotLoggedIn, Refused, TokenExpired, TokenRefused
from ..groups.hub import Membership
from ..groups.presence.roster import Coming
from ..groups.store.presence import Place
from ..hooks import Action
from ..hooks.visits import Visit, Visits
from ..websocket.outbox import Outbox
from ..websocket.pace import Pace
from ..websocket.replies import ReplyOutbox
from ..websocket.session import Session
from ..websocket.subprotocol import Reason
from ..websocket.timers import Timer
from .codes import (
    INSUFFICIENT_STATE,
    INTERNAL,
    INVALID_TOKEN,
    UNSUBSCRIBED,
    Disconnect,
    Refusal,
    denied,
)
from .protocol import ABSENT, ClientInfo, Joined, Push, Reply, Unsubscribed
from .publications import typing_of
from .service import Service

ESCAPED = 6
"""How much longer than a text JSON may say it: a control character as six."""
FRAME_ROOM = 65_536
"""How much longer than that a frame may be, for what stands around it and more commands."""


class Subscription:
    """A connection's place in a group.

    ``expiry`` ends it when its token has expired, ``since`` is when the client set out for it, by
    the clock of Trio.
    """

    __slots__ = ("expiry", "membership", "since", "visit")

    def __init__(self, membership: Membership, visit: Visit | None, since: float) -> None:
        self.membership = membership
        self.visit = visit
        self.expiry: Timer | None = None
        self.since = since

    def end(self, visits: Visits) -> None:
        """Hear nothing more."""
        if self.expiry is not None:
            self.expiry.cancel()
        self.membership.leave()
        visits.leave(self.visit)


class Entering:
    """A connection's way into a group; ``since`` as of a ``Subscription``.

    ``barred`` tells why it leads nowhere, when something has come between.
    """

    __slots__ = ("barred", "since")

    def __init__(self) -> None:
        self.barred: Unsubscribed | None = None
        self.since = trio.current_time()


class Connection(Session):
    """A socket that speaks the live wire.

    ``token`` is what the client has shown, for hooks and for logins of Fast-IM; it
    ``is_login`` when it has to be checked with every message. One that ``is_guest`` has a name of
    this connection only, and becomes a member of nothing. ``sdk`` is the client's name and
    version of its library, as it says. ``role_groups`` are those, as globs, that it moderates by
    the word of its token. ``in_flight`` counts messages on their way to Redis;
    ``entering`` are the ways into groups that it is not in yet.
    """

    __slots__ = (
        "_answered",
        "conn_info",
        "deadline",
        "entering",
        "in_flight",
        "is_guest",
        "is_login",
        "outbox",
        "role_groups",
        "sdk",
        "service",
        "subscriptions",
        "token",
    )

    outbox: ReplyOutbox

    def __init__(
        self,
        connection: socket.socket,
        scope: trio.CancelScope,
        nursery: trio.Nursery,
        service: Service,
        opening: bytes,
    ) -> None:
        self.service = service
        super().__init__(connection, scope, nursery, service.around, opening, service.subprotocol)
        self.subscriptions: dict[str, Subscription] = {}
        self.kind, self.user, self.groups = "live", "", self.subscriptions
        self.conn_info = b""
        self.token = ""
        self.is_login = False
        self.is_guest = False
        self.role_groups: tuple[str, ...] = ()
        self.sdk = ""
        self.in_flight = 0
        self.entering: dict[str, Entering] = {}
        self._answered: trio.Event | None = None
        # Ends the connection: as no connect command comes, later as its token has expired.
        self.deadline: Timer | None = None

    @property
    def max_bytes(self) -> int:
        """The longest frame that the client may send."""
        return ESCAPED * super().max_bytes + FRAME_ROOM

    def is_at(self, group: str) -> bool:
        """It is in a group, or on its way into it."""
        return group in self.subscriptions or group in self.entering

    def is_only_at(self, group: str) -> bool:
        """It is in this group, or on its way into it, and in no other."""
        return {*self.subscriptions, *self.entering} == {group}

    def has_role(self, group: str) -> bool:
        """It is a moderator of a group, by the word of its token."""
        return any(fnmatchcase(group, glob) for glob in self.role_groups)

    def description(self) -> dict[str, object]:
        """What it is, as the log tells it."""
        return {
            "wire": self.subprotocol.name,
            "kind": self.kind,
            "user": self.user or None,
            "sdk": self.sdk or None,
        }

    def ping(self) -> None:
        """Ask the client whether it is there, once it has said who it is."""
        if self.user:
            super().ping()
        else:
            self.note_heard()  # its deadline ends it

    def answer(self, number: int, reply: Reply) -> None:
        """Answer a command while it is obeyed: with what else is answered in the same turn."""
        reply.id = number
        if self.is_open:
            self.outbox.keep(self.service.wire.encode(reply))

    def answer_later(self, number: int, reply: Reply) -> None:
        """Answer a command after that, in a moment."""
        reply.id = number
        if self.is_open:
            self.outbox.reply(self.service.wire.encode(reply))

    def tell_published(self, number: int) -> None:
        """Answer a publish command: the message is in Redis."""
        if self.is_open:
            self.outbox.reply(self.service.wire.encode_published(number))

    def push(self, push: Push) -> None:
        """Tell something unasked, behind the answers so far."""
        if self.is_open:
            self.outbox.reply(self.service.wire.encode(Reply(push=push)))

    def unsubscribe(self, group: str) -> None:
        """Leave a group; nothing happens when the connection is not in it."""
        subscription = self.subscriptions.pop(group, None)
        if subscription is not None:
            domain = self.service.domain
            subscription.end(domain.visits)
            domain.presence.go(group, self)

    def tell_comings(self, group: str, comings: list[Coming]) -> None:
        """Tell the client who has come into a group, or left it."""
        for user, place, has_come in comings:
            joined = Joined(info_of(user, place))
            self.push(Push(group, join=joined) if has_come else Push(group, leave=joined))

    def tell_typing(self, group: str, user: str) -> None:
        """Tell the client that somebody else is typing in a group."""
        self.push(Push(group, typing_of(user)))

    def put_out(self, group: str, why: Unsubscribed) -> None:
        """Leave a group, and tell the client: of one that it enters, when it has been let in."""
        if group in self.entering:
            self.entering[group].barred = why
        elif group in self.subscriptions:
            self.unsubscribe(group)
            self.push(Push(group, unsubscribe=why))

    def lose(self, group: str) -> None:
        """A group can no longer be heard, or not all of it was: the client comes again.

        It is told then why it may not come, or whether it has missed something.
        """
        self.put_out(group, INSUFFICIENT_STATE)

    def kick(self, group: str, given_at: float, close: Reason | None = None) -> None:
        """Leave a group, or go altogether: the user was kicked."""
        if not group:
            super().kick(group, given_at, close)
            return
        place = self.subscriptions.get(group) or self.entering[group]
        if place.since <= given_at:
            self.put_out(group, UNSUBSCRIBED)

    def drop(self, group: str, _reason: str) -> None:
        """Leave a group: the user may not be in it any more."""
        self.put_out(group, UNSUBSCRIBED)

    def end_at(self, seconds: float | None, why: Reason) -> None:
        """Close the connection in so many seconds, or, with None, not any more."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        if seconds is not None:
            self.deadline = self.service.timers.call_after(seconds, partial(self.close, *why))

    def leave_all(self) -> None:
        """Nothing more concerns this connection."""
        self.end_at(None, (0, ""))
        for group in list(self.subscriptions):
            self.unsubscribe(group)

    def token_refused(
        self, purpose: str, refusal: TokenRefused, bad: Exception, expired: Exception
    ) -> Exception:
        """Log a token that is not good; returns what is to be raised for it."""
        self.service.tokens.tell_refused(purpose, refusal)
        if isinstance(refusal, TokenExpired):
            return expired
        return Refusal(INTERNAL) if refusal.is_temporary else bad

    async def check(self, action: Action, group: str) -> None:
        """Ask whether the user may do something in a group that it is in.

        Raises:
            Refusal, Disconnect: it may not.
            StoreUnavailable, HookFailed: who has to be asked is away.
        """
        access = self.service.domain.access
        if not (access.asks_hook or self.is_login):  # else a token has said who it is
            return
        try:
            await access.check(self.user, self.token, action, group)
        except NotLoggedIn:
            raise Disconnect(INVALID_TOKEN) from None
        except Refused as exc:
            raise Refusal(denied(str(exc))) from None

    def may_speak(self) -> bool:
        """It keeps its pace. One that never does is closed."""
        limits = self.service.around.config.socket
        if not limits.max_messages_per_second:
            return True
        if self._pace is None:
            self._pace = Pace(limits.max_messages_per_second, limits.message_burst)
        self._pace.adapt(limits.max_messages_per_second, limits.message_burst)
        has_turn = self._pace.take_turn()
        if not has_turn and self._pace.is_flood:
            self._end_flood()
        return has_turn

    async def wait_in_flight(self, most: int) -> None:
        """Wait while as many messages are on their way to Redis."""
        while self.in_flight >= most:
            self._answered = trio.Event()
            await self._answered.wait()

    def note_answered(self) -> None:
        """One fewer is."""
        self.in_flight -= 1
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    def _take_note(self, payloads: int) -> None:
        """A frame is no message; those are counted as they are said."""

    def _make_outbox(self, connection: socket.socket, nursery: trio.Nursery) -> Outbox:
        service = self.service
        limit = service.around.config.socket.outbox_bytes
        return ReplyOutbox(
            connection, nursery, limit, self._end_slow, service.wire.frame, service.replies
        )


def info_of(user: str, place: Place) -> ClientInfo:
    """A member as others are told."""
    return ClientInfo(user, place.client, place.info if place.has_info else ABSENT)
