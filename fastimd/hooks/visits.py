"""Tells ``on_join`` and ``on_leave``, and holds up nobody.

What waits is visits, not events: one visit is with one worker at a time, so that of each connection
the leave is told after the join. A join finds no place when too much waits, and then its leave is
not told either; the leave of a join that was told always is, so that who counts comes out right.

With a ledger a visit is noted before its join is told, and only forgotten when its leave was told:
so another daemon can tell the leaves of one that was killed.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Protocol

import structlog
import trio

from ..base.errors import StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from .runner import HookRunner

RETRY_SECONDS = 0.25
"""After Redis was away, when a backend is told over it."""
AT_ONCE = 16
"""How many joins and leaves are told at the same time, at most."""
MAX_WAITING = 10_000
"""How many may wait when a join comes that wants to."""

log = structlog.get_logger("fastimd.hooks")


class Ledger(Protocol):
    """Where visits are noted, for all daemons to see."""

    def note(self, visit: Visit) -> None:
        """A visit has begun."""
        ...

    def forget(self, visit: Visit) -> None:
        """Its leave was told."""
        ...

    def is_ready(self, visit: Visit) -> bool:
        """The visit is noted, and nobody else tells its leave.

        When that changes ``Visits.look`` is called.
        """
        ...


class Visit:
    """One chat socket's time in a group; ``untold`` are the events still to be told."""

    __slots__ = (
        "connection_id",
        "group",
        "is_given_up",
        "is_over",
        "is_queued",
        "ledger",
        "untold",
        "user",
    )

    def __init__(self, group: str, user: str, connection_id: str, ledger: Ledger | None) -> None:
        self.group = group
        self.user = user
        self.connection_id = connection_id
        self.ledger = ledger
        self.untold: deque[str] = deque()
        self.is_queued = False  # or with a worker, or not ready
        self.is_over = False
        self.is_given_up = False

    def give_up(self) -> None:
        """Tell nothing more of it: another daemon does."""
        self.untold.clear()
        self.is_given_up = True


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
        self._unready: dict[Visit, None] = {}
        self._idle = trio.lowlevel.ParkingLot()
        self._being_told = 0
        self._all_told = trio.Event()
        self.ledger: Ledger | None = None
        """Where visits that begin are noted; without one a killed daemon tells no leaves."""

    @property
    def tells_leaves(self) -> bool:
        """There is a hook ``on_leave``."""
        return "on_leave" in self._names

    @property
    def waiting(self) -> int:
        """How many connections have something that is not told yet."""
        return len(self._queue) + len(self._unready) + self._being_told

    def join(self, group: str, user: str) -> Visit | None:
        """A chat socket has come into a group; returns what ``leave`` wants."""
        if not self._names:
            return None
        if len(self._queue) + len(self._unready) >= MAX_WAITING:
            self._drop()
            return None
        visit = Visit(group, user, _make_id(), self.ledger)
        if self.ledger is not None:
            self.ledger.note(visit)
        self._put(visit, "on_join")
        return visit

    def leave(self, visit: Visit | None) -> None:
        """It has left."""
        if visit is not None:
            visit.is_over = True
            self._put(visit, "on_leave")

    def begin_anew(self, visit: Visit) -> None:
        """Tell of a visit that goes on as of a new one: others tell the leave of the old one.

        What was still to be told of that is not told.
        """
        visit.untold.clear()
        visit.connection_id = _make_id()
        self.move(visit)
        self._put(visit, "on_join")

    def move(self, visit: Visit) -> None:
        """Note a visit in another ledger, where those of this daemon are noted by now."""
        visit.ledger = self.ledger
        assert visit.ledger is not None
        visit.ledger.note(visit)

    def look(self) -> None:
        """Tell of the visits that are ready now."""
        ready = [each for each in self._unready if _is_ready(each)]
        for each in ready:
            del self._unready[each]
            self._enqueue(each)

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
        log.warning("presence.dropped", waiting=len(self._queue) + len(self._unready))

    def _put(self, visit: Visit, name: str) -> None:
        if name not in self._names:
            return
        visit.untold.append(name)
        if not visit.is_queued:
            visit.is_queued = True
            self._enqueue(visit)

    def _enqueue(self, visit: Visit) -> None:
        self._queue.append(visit)
        self._idle.unpark()

    async def _tell_visits(self) -> None:
        while True:
            while not self._queue:
                await self._idle.park()
            visit = self._queue.popleft()
            if not _is_ready(visit):
                self._unready[visit] = None
                continue
            if visit.untold:
                self._being_told += 1
                await self._tell(visit, visit.untold.popleft())
                self._being_told -= 1
            if visit.untold:
                self._enqueue(visit)
            else:
                visit.is_queued = False
            if not self.waiting:
                self._all_told.set()

    async def _tell(self, visit: Visit, name: str) -> None:
        number = visit.connection_id
        try:
            await self._hooks.tell_visit(name, visit.group, visit.user, number)
        except StoreUnavailable:
            await trio.sleep(RETRY_SECONDS)
            # Unless it has begun anew meanwhile, or others tell of it.
            if visit.connection_id == number and not visit.is_given_up:
                visit.untold.appendleft(name)
            return
        if name == "on_leave" and visit.ledger is not None:
            visit.ledger.forget(visit)


def _is_ready(visit: Visit) -> bool:
    """Something may be told of it; or there is nothing to tell any more."""
    return not visit.untold or visit.ledger is None or visit.ledger.is_ready(visit)


def _make_id() -> str:
    return secrets.token_hex(16)
