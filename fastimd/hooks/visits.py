"""Tells ``on_join`` and ``on_leave``, and holds up nobody.

What waits is visits, not events: one visit is with one worker at a time, so that of each connection
the leave is told after the join. A join finds no place when too much waits, and then its leave is
not told either; the leave of a join that was told always is, so that who counts comes out right.
"""

from __future__ import annotations

import secrets
from collections import deque

import structlog
import trio

from ..base.metrics import Metrics
from ..base.settings import Config
from .runner import HookRunner

AT_ONCE = 16
"""How many joins and leaves are told at the same time, at most."""
MAX_WAITING = 10_000
"""How many may wait when a join comes that wants to."""

log = structlog.get_logger("fastimd.hooks")


class Visit:
    """One chat socket's time in a group; ``untold`` are the events still to be told."""

    __slots__ = ("connection_id", "group", "is_queued", "untold", "user")

    def __init__(self, group: str, user: str) -> None:
        self.group = group
        self.user = user
        self.connection_id = secrets.token_hex(16)
        self.untold: deque[str] = deque()
        self.is_queued = False  # or with a worker


class Visits:
    """Who comes and goes, for the hooks.

    Args:
        config: ``hooks.webhook_connections``, of which half are left to hooks that somebody waits
            for.
    """

    def __init__(self, hooks: HookRunner, config: Config, metrics: Metrics) -> None:
        self._at_once = min(AT_ONCE, config.hooks.webhook_connections // 2)
        self._hooks = hooks
        self._metrics = metrics
        self._names = [name for name in ("on_join", "on_leave") if hooks.has(name)]
        self._queue: deque[Visit] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._being_told = 0
        self._all_told = trio.Event()

    @property
    def waiting(self) -> int:
        """How many connections have something that is not told yet."""
        return len(self._queue) + self._being_told

    def join(self, group: str, user: str) -> Visit | None:
        """A chat socket has come into a group; returns what ``leave`` wants."""
        if not self._names:
            return None
        if len(self._queue) >= MAX_WAITING:
            self._drop()
            return None
        visit = Visit(group, user)
        self._put(visit, "on_join")
        return visit

    def leave(self, visit: Visit | None) -> None:
        """It has left."""
        if visit is not None:
            self._put(visit, "on_leave")

    async def run(self) -> None:
        """Tell, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._at_once if self._names else 1):
                nursery.start_soon(self._tell_visits)

    async def wait_all_told(self) -> None:
        """Wait until nothing waits."""
        while self.waiting:
            self._all_told = trio.Event()
            await self._all_told.wait()

    def _drop(self) -> None:
        self._metrics.presence_dropped += len(self._names)
        log.warning("presence.dropped", waiting=len(self._queue))

    def _put(self, visit: Visit, name: str) -> None:
        if name not in self._names:
            return
        visit.untold.append(name)
        if not visit.is_queued:
            visit.is_queued = True
            self._queue.append(visit)
            self._idle.unpark()

    async def _tell_visits(self) -> None:
        while True:
            while not self._queue:
                await self._idle.park()
            visit = self._queue.popleft()
            self._being_told += 1
            await self._hooks.tell(
                visit.untold.popleft(), visit.group, visit.user, visit.connection_id
            )
            self._being_told -= 1
            if visit.untold:
                self._queue.append(visit)
            else:
                visit.is_queued = False
            if not self.waiting:
                self._all_told.set()
