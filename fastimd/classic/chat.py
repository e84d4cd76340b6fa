"""A chat socket: what a member says goes to Redis; what the group says comes from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from functools import partial

import msgspec
import structlog
import trio

from ..base import log as logs
from ..base.errors import HookFailed, Refused, Restrained, StoreUnavailable
from ..base.texts import HOOK_FAILED, MESSAGE_REFUSED, restrained
from ..groups.domain import Domain
from ..groups.hub import Membership
from ..groups.moderation.policy import Policy
from ..hooks import Message
from ..websocket.frames import cut_reason
from ..websocket.session import Session
from .dialect import Classic
from .routes import Route

MAX_IN_FLIGHT = 64
"""Appends of one socket that may wait for Redis before the socket is read on."""

log = structlog.get_logger("fastimd.socket")


async def serve_chat(
    session: Session, domain: Domain, dialect: Classic, route: Route, first: bytes
) -> None:
    """Serve a member of a group until the socket closes.

    Raises:
        NotLoggedIn, Refused: the user may not come in.
        StoreUnavailable, HookFailed: who has to be asked is away.
    """
    assert route.group is not None
    if domain.access.asks_hook:
        session.open()  # the hook may take its time
    await domain.access.check_opening(route.user, route.token, "chat", route.group)
    if session.is_dismissed:  # while the hook took its time
        return
    members = domain.store.members
    if not (domain.config.group.auto_join or await members.is_member(route.group, route.user)):
        raise Refused("not a member")
    membership = domain.hub.enter(route.group, session.outbox, dialect, session.give_up)
    try:
        await _begin(session, domain, route, membership)
        visit = domain.visits.join(route.group, route.user)
        domain.presence.come(route.group, session)
        try:
            await _listen(session, _Speaker(session, domain, route, membership.policy), first)
        finally:
            domain.visits.leave(visit)
            domain.presence.go(route.group, session)
    finally:
        membership.leave()


async def _begin(session: Session, domain: Domain, route: Route, membership: Membership) -> None:
    """Make the user a member, if that is the way here, and greet it.

    The join and the reading of the greeting go to Redis one behind the other, and their answers
    come together.

    Raises:
        Refused: the user is in too many groups, or banned from this one.
    """
    assert route.group is not None
    domain.judge.check_known(membership.policy, route.user)
    if domain.config.group.auto_join:
        members = domain.store.members
        join = members.send_join(route.group, route.user)
        await membership.read_greeting()
        joined = await members.joined(join)
        if joined == "full":
            raise Refused("too many groups")
        try:
            domain.judge.check_entry(membership.policy, route.user)
        except Restrained as refusal:
            session.close(1008, cut_reason(str(refusal)))  # before it is closed as one who left
            if joined == "joined":
                await members.leave(route.group, route.user)
            raise
    else:
        await membership.read_greeting()
        domain.judge.check_entry(membership.policy, route.user)
    membership.begin(session.take_opening())


async def _listen(session: Session, speaker: _Speaker, first: bytes) -> None:
    """Send on what the client says, until the socket closes."""
    while texts := await session.receive(first):
        first = b""
        if logs.is_debug:
            speaker.tell_received(texts)
        for text in texts:
            if not (session.has_turn() or await session.wait_turn()):
                break
            if speaker.may_speak:
                speaker.say(text)
            else:
                await speaker.say_when_ready(text)
                session.note_heard()  # what the client says meanwhile is not read
                if session.is_dismissed:
                    break


class _Speaker:
    """Sends one socket's messages, in order, a bounded number at a time.

    Their fate is told from the task of Redis, so the log's context of the socket is kept for it.
    """

    __slots__ = (
        "_answered",
        "_context",
        "_domain",
        "_in_flight",
        "_is_judged",
        "_policy",
        "_route",
        "_session",
        "_waiting",
    )

    def __init__(self, session: Session, domain: Domain, route: Route, policy: Policy) -> None:
        self._session = session
        self._domain = domain
        self._route = route
        self._policy = policy
        self._context = copy_context()
        self._in_flight = 0
        self._waiting = 0  # of them those of which it is not known whether they may be said
        self._is_judged = domain.hooks.has("on_message")
        self._answered: trio.Event | None = None

    @property
    def may_speak(self) -> bool:
        """Nothing needs to be waited for before the next message."""
        return (
            self._in_flight < MAX_IN_FLIGHT
            and self._domain.store.messages.has_room
            and not self._domain.config.group.login_auth
            and not self._is_judged
            and not self._waiting
            and self._policy.lets(self._route.user)
        )

    async def say_when_ready(self, text: str) -> None:
        """Send a message when it may be sent, and as the application wants it, or not at all."""
        if self._domain.config.group.login_auth:
            await self._check_token()
        info: str | None = text
        tags: Mapping[str, str] | None = None
        if self._is_judged:
            if not await self._is_let(text, takes_turn=False):
                return
            info, tags = await self._judge(text)
        await self._wait_room()  # after the hook: many may have their answers at once
        if info is None or self._session.is_dismissed:
            return
        if self._waiting or not (self._policy.is_certain or self._policy.slow):
            self._hold(text, info, tags)
        elif await self._is_let(text) and not self._session.is_dismissed:
            self.say(info, tags)

    def _hold(self, text: str, info: str, tags: Mapping[str, str] | None) -> None:
        """Keep a message, and what is to be stored of it, until it is known whether it may be."""
        self._in_flight += 1
        self._waiting += 1
        size = len(info.encode())
        try:
            on_known = partial(self._on_known, text, info, tags)
            self._domain.judge.waiting.hold(self._policy, size, on_known)
        except StoreUnavailable as exc:
            self._waiting -= 1
            self._on_appended(exc)

    def _on_known(
        self, text: str, info: str, tags: Mapping[str, str] | None, failure: Exception | None
    ) -> None:
        self._waiting -= 1
        if failure is not None:
            self._on_appended(failure)
            return
        self._in_flight -= 1
        try:
            self._domain.judge.check_held(self._policy, self._route.user)
        except Restrained as refusal:
            self._tell_restrained(refusal, text)
            self._note_answered()
        else:
            self.say(info, tags)

    async def _is_let(self, text: str, *, takes_turn: bool = True) -> bool:
        """Ask whether the group's moderators let the user speak; if not, the sender is told."""
        user = self._route.user
        if self._policy.lets(user):
            return True
        seconds = self._domain.config.redis.hold_seconds
        try:
            await self._domain.judge.check_message(
                self._policy, user, within=seconds, takes_turn=takes_turn
            )
        except Restrained as refusal:
            self._tell_restrained(refusal, text)
            return False
        return True

    async def _judge(self, text: str) -> tuple[str | None, Mapping[str, str] | None]:
        """Ask the hook what is to be sent; what it refuses is told to the sender alone."""
        route = self._route
        assert route.group is not None
        try:
            judged = await self._domain.hooks.judge_message(Message(route.group, route.user, text))
            return judged.info, judged.tags
        except Refused as exc:
            self._tell_refused(403, str(exc) or MESSAGE_REFUSED, text)
        except HookFailed:  # the log has said why
            self._tell_refused(503, HOOK_FAILED, text)
        return None, None

    def _tell_restrained(self, refusal: Restrained, text: str) -> None:
        self._tell_refused(403, restrained(refusal.why, str(refusal)), text)

    def _tell_refused(self, code: int, reason: str, text: str) -> None:
        refusal = {"code": code, "msg": reason, "data": text}
        self._session.push_text(msgspec.json.encode(refusal))

    async def _wait_room(self) -> None:
        """Wait until one more may be under way to Redis."""
        while self._in_flight >= MAX_IN_FLIGHT:
            self._answered = trio.Event()
            await self._answered.wait()
        await self._domain.store.messages.wait_room()

    def tell_received(self, texts: list[str]) -> None:
        """Log what the client said; the text itself only if that is wanted."""
        route, shown = self._route, self._domain.config.log.message_text
        for text in texts:
            log.debug(
                "message.received",
                group=route.group,
                user=route.user,
                characters=len(text),
                text=text if shown else None,
            )

    def say(self, info: str, tags: Mapping[str, str] | None = None) -> None:
        """Send one message on its way."""
        self._in_flight += 1
        route = self._route
        assert route.group is not None
        messages = self._domain.store.messages
        if logs.is_debug:
            messages.append_told(route.group, route.user, info, self._on_told, tags=tags)
        else:
            messages.append(route.group, route.user, info, self._on_appended, tags=tags)

    async def _check_token(self) -> None:
        """Check it as soon as Redis can tell, in the time that a message may be held."""
        until = trio.current_time() + self._domain.config.redis.hold_seconds
        while True:
            try:
                route = self._route
                await self._domain.access.check(route.user, route.token, "say", route.group or "")
                return
            except StoreUnavailable:
                if trio.current_time() > until:
                    raise
            await trio.sleep(0.1)

    def _on_appended(self, failure: Exception | None) -> None:
        self._in_flight -= 1
        if failure is not None:
            self._domain.metrics.appends_failed += 1
            self._context.run(self._tell_failed, failure)
            away = isinstance(failure, StoreUnavailable)
            self._session.close(1013, "message not stored" if away else "message refused")
        self._note_answered()

    def _note_answered(self) -> None:
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    def _on_told(self, failure: Exception | None, ts: int | None) -> None:
        if failure is None:
            self._context.run(self._tell_appended, ts)
        self._on_appended(failure)

    def _tell_failed(self, failure: Exception) -> None:
        log.warning("socket.append_failed", group=self._route.group, error=str(failure))

    def _tell_appended(self, ts: int | None) -> None:
        route = self._route
        log.debug("message.appended", group=route.group, user=route.user, message_ts=ts)
