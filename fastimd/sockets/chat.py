"""A chat socket: what a member says goes to Redis; what the group says comes from the hub."""

from __future__ import annotations

from contextvars import copy_context

import structlog
import trio

from .. import log as logs
from ..errors import StoreUnavailable
from .handshake import Route
from .session import Session, Surroundings

MAX_IN_FLIGHT = 64
"""Appends of one socket that may wait for Redis before the socket is read on."""

log = structlog.get_logger("fastimd.socket")


async def serve_chat(session: Session, around: Surroundings, route: Route, first: bytes) -> None:
    """Serve a member of a group until the socket closes.

    Raises:
        NotLoggedIn: the token is wrong, and ``login_auth`` is on.
        StoreUnavailable: Redis is away.
    """
    assert route.group is not None
    if around.config.group.login_auth:
        await around.store.check_token(route.user, route.token)
    if not await _may_enter(around, route.group, route.user):
        session.close(1008, "not a member")
        return
    speaker = _Speaker(session, around, route)
    async with around.hub.member(route.group, session.outbox, session.take_opening):
        while texts := await session.receive(first):
            first = b""
            if logs.is_debug:
                speaker.tell_received(texts)
            for text in texts:
                if not (session.has_turn() or await session.wait_turn()):
                    break
                if not speaker.may_speak:
                    await speaker.wait_ready()
                speaker.say(text)


async def _may_enter(around: Surroundings, group: str, user: str) -> bool:
    if around.config.group.auto_join:
        await around.store.join(group, user)
        return True
    return await around.store.is_member(group, user)


class _Speaker:
    """Sends one socket's messages, in order, a bounded number at a time.

    Their fate is told from the task of Redis, so the log's context of the socket is kept for it.
    """

    __slots__ = ("_answered", "_around", "_context", "_in_flight", "_route", "_session")

    def __init__(self, session: Session, around: Surroundings, route: Route) -> None:
        self._session = session
        self._around = around
        self._route = route
        self._context = copy_context()
        self._in_flight = 0
        self._answered: trio.Event | None = None

    @property
    def may_speak(self) -> bool:
        """Nothing needs to be waited for before the next message."""
        return (
            self._in_flight < MAX_IN_FLIGHT
            and self._around.store.has_room
            and not self._around.config.group.login_auth
        )

    async def wait_ready(self) -> None:
        """Check the token, if every message needs that, and wait for room."""
        if self._around.config.group.login_auth:
            await self._check_token()
        while self._in_flight >= MAX_IN_FLIGHT:
            self._answered = trio.Event()
            await self._answered.wait()
        await self._around.store.wait_room()

    def tell_received(self, texts: list[str]) -> None:
        """Log what the client said; the text itself only if that is wanted."""
        route, shown = self._route, self._around.config.log.message_text
        for text in texts:
            log.debug(
                "message.received",
                group=route.group,
                user=route.user,
                characters=len(text),
                text=text if shown else None,
            )

    def say(self, info: str) -> None:
        """Send one message on its way."""
        self._in_flight += 1
        route = self._route
        assert route.group is not None
        self._around.store.append(route.group, route.user, info, self._on_appended)

    async def _check_token(self) -> None:
        """Check it as soon as Redis can tell, in the time that a message may be held."""
        until = trio.current_time() + self._around.config.redis.hold_seconds
        while True:
            try:
                await self._around.store.check_token(self._route.user, self._route.token)
                return
            except StoreUnavailable:
                if trio.current_time() > until:
                    raise
            await trio.sleep(0.1)

    def _on_appended(self, failure: Exception | None) -> None:
        self._in_flight -= 1
        if failure is not None:
            self._around.metrics.appends_failed += 1
            self._context.run(self._tell_failed, failure)
            away = isinstance(failure, StoreUnavailable)
            self._session.close(1013, "message not stored" if away else "message refused")
        elif logs.is_debug:
            self._context.run(self._tell_appended)
        if self._answered is not None:
            self._answered.set()
            self._answered = None

    def _tell_failed(self, failure: Exception) -> None:
        log.warning("socket.append_failed", group=self._route.group, error=str(failure))

    def _tell_appended(self) -> None:
        route, ts = self._route, self._around.store.last_ts
        log.debug("message.appended", group=route.group, user=route.user, message_ts=ts)
