"""The operator's desk: what the daemon tells of itself, and what it does when told to.

The admin address serves it, ``operate/`` is what people type. Whatever changes something leaves a
log line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog
import trio

from .. import __version__
from ..base import recent
from ..base.codec import check_id
from ..base.errors import BadParameter, StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from ..groups.hub import Hub
from ..groups.relays import GroupRelay
from ..groups.store import Store
from ..redis.clients import RedisClient
from ..websocket.kick import Kick
from ..websocket.session import Sessions
from .forms import Counters, GroupView, Kicked, LoggedOut, Purged, RedisState, Said, Status

SAY_SECONDS = 5.0
"""How long Redis may take to store what an operator says."""
MAX_LAST = 1000

log = structlog.get_logger("fastimd.operator")


class Desk:
    """What an operator may ask of a running daemon.

    Args:
        reasons_not_ready: empty when the daemon can serve.

    Error handling: ``BadParameter`` when an id or a number is none, ``StoreUnavailable`` when Redis
    is away.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        hub: Hub,
        client: RedisClient,
        relay: GroupRelay,
        metrics: Metrics,
        sessions: Sessions,
        reasons_not_ready: Callable[[], list[str]],
    ) -> None:
        self.reasons_not_ready = reasons_not_ready
        self._config = config
        self._store = store
        self._hub = hub
        self._client = client
        self._relay = relay
        self._metrics = metrics
        self._sessions = sessions
        self._began = trio.current_time()

    def status(self) -> Status:
        """How the daemon is now."""
        reasons = self.reasons_not_ready()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round(trio.current_time() - self._began, 3),
            settings=self._config.source,
            ready=not reasons,
            reasons=reasons,
            sockets=self._sessions.by_kind(),
            groups=self._hub.groups,
            outbox_bytes=self._sessions.queued,
            redis=self._redis(),
            counters=self._counters(),
            troubles=recent.troubles(),
        )

    async def group(self, group: str, last: int) -> GroupView:
        """How a group is: its members on this daemon, and its last messages."""
        check_id("group", group)
        if not 0 <= last <= MAX_LAST:
            raise BadParameter("last", f"must be a whole number from 0 to {MAX_LAST}")
        look = await self._store.history.look(group, last)
        members = Counter(session.user for session in self._sessions.of_group(group))
        return GroupView(
            group=group,
            members=dict(sorted(members.items())),
            messages=look.total,
            expires_in=look.expires_in,
            last=[msgspec.Raw(message) for message in look.messages],
        )

    async def say(self, said: Said) -> None:
        """Say something in a group, as a member would; returns when it is in Redis."""
        check_id("group", said.group)
        check_id("user", said.user)
        most = self._config.group_message.max_bytes
        if len(said.text.encode()) > most:
            raise BadParameter("text", f"must have at most {most} bytes")
        if self._client.last_error is not None:
            raise StoreUnavailable(f"Redis is away ({self._client.last_error})")
        await self._append(said)
        log.info("operator.said", group=said.group, user=said.user)

    async def kick(self, kicked: Kicked) -> int:
        """Close a user's sockets on every daemon; returns how many daemons were told."""
        check_id("user", kicked.user)
        if kicked.group is not None:
            check_id("group", kicked.group)
        daemons = await self._store.kicks.announce(Kick(kicked.user, kicked.group or ""))
        log.info("operator.kicked", user=kicked.user, group=kicked.group, daemons=daemons)
        return daemons

    async def purge(self, purged: Purged) -> int:
        """Delete the messages of a group; returns how many there were."""
        messages = await self._store.messages.purge(check_id("group", purged.group))
        log.info("operator.purged", group=purged.group, messages=messages)
        return messages

    async def log_out(self, logged_out: LoggedOut) -> int:
        """End a user's login; returns 1, or 0 when the token is not the user's."""
        user = check_id("user", logged_out.user)
        ended = await self._store.logins.log_out(user, logged_out.token)
        log.info("operator.logged_out", user=user, logins=ended)
        return ended

    async def _append(self, said: Said) -> None:
        answered = trio.Event()
        failures: list[Exception] = []

        def on_appended(failure: Exception | None) -> None:
            failures.extend([] if failure is None else [failure])
            answered.set()

        self._store.messages.append(said.group, said.user, said.text, on_appended)
        with trio.move_on_after(SAY_SECONDS):
            await answered.wait()
        if failures:
            raise StoreUnavailable(f"the message is not stored: {failures[0]}")
        if not answered.is_set():
            raise StoreUnavailable("no answer of Redis yet: the message may still be stored")

    def _redis(self) -> RedisState:
        return RedisState(
            address=self._client.address.shown_url,
            commands=self._client.last_error,
            messages=self._relay.last_error,
            held=self._store.messages.unanswered,
        )

    def _counters(self) -> Counters:
        metrics = self._metrics
        return Counters(
            opened=metrics.sockets_opened,
            closed=sum(metrics.closes.values()),
            messages=metrics.messages_received,
            deliveries=metrics.deliveries,
            slow_closes=metrics.slow_closes,
            flood_closes=metrics.flood_closes,
            appends_failed=metrics.appends_failed,
            connections_refused=metrics.connections_refused,
            connections_crashed=metrics.connections_crashed,
        )
