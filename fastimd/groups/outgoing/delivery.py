"""Delivers what waits for the backend: of each group in order, of many groups at once.

A group's turn: one script takes what is to be told next, and with it a lease, so that no other
daemon tells it. It is sent. When it was taken the same script notes that, and takes the next. What
was not taken is sent again, by this daemon or another, under the same id, until it was.
"""

from __future__ import annotations

import heapq
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio

from ...base.errors import HookFailed, KeyUnusable, StoreUnavailable
from ...base.metrics import Metrics
from ...base.settings import Config
from ...hooks.outgoing import Event, messages_event
from ..store.queues import Batch, Found, Queues, Turn, Waiting
from .circuit import Circuit, pause

GATHER_SECONDS = 0.05
"""How long what happens in a group is gathered before it is told."""
MAX_SECONDS = 60.0
"""How long an attempt may take, whatever is set: a killed daemon's lease lasts longer than that."""
MARGIN_SECONDS = 15.0
"""How much longer a lease lasts than an attempt."""
RETRY_SECONDS = 1.0
"""Before a group is looked at again after Redis was away."""
IN_A_ROW = 100
"""So many requests of a group are sent before others have their turn."""
GIVE_SECONDS = 0.5
"""How long giving back a lease may take when the daemon ends."""

Send = Callable[[str, bytes], Awaitable[None]]

log = structlog.get_logger("fastimd.events")


class Delivery:
    """The groups that have something to tell, as far as this daemon knows, and who tells it.

    Args:
        send: sends a body under an id; raises ``HookFailed`` when it was not taken.

    ``known`` has up to where this daemon knows that a group's messages were told.

    ``on_idle`` is called when a group that was found by a sweep has nothing to tell.
    """

    def __init__(self, queues: Queues, send: Send, config: Config, metrics: Metrics) -> None:
        self._queues = queues
        self._send = send
        self._metrics = metrics
        self._seconds = min(config.hooks.presence_timeout, MAX_SECONDS)
        self._lease = self._seconds + MARGIN_SECONDS
        self._at_once = max(1, config.hooks.webhook_connections // 2)
        self._holder = secrets.token_hex(8)
        self.circuit = Circuit()
        self.known: dict[str, int] = {}
        self.on_idle: Callable[[Found], Awaitable[None]] | None = None
        self._found: dict[str, Found] = {}
        # Each group is in one of these, or busy; one that is busy may have to be looked at again.
        self._gathering: dict[str, None] = {}
        self._ready: dict[str, None] = {}
        self._later: list[tuple[float, str]] = []
        self._put_off: dict[str, float] = {}
        self._held: set[str] = set()  # of them those that another daemon tells
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        # Since when something of a group waits, and how much when it was last looked at.
        self._since: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._has_some = trio.Event()
        self._changed = trio.Event()
        self._idle = trio.lowlevel.ParkingLot()
        self._told = trio.lowlevel.ParkingLot()

    @property
    def waiting(self) -> int:
        """How much waits, as far as this daemon knows."""
        return sum(self._counts.get(group, 1) for group in self._since)

    @property
    def oldest_seconds(self) -> float:
        """For how long the first of it has."""
        return trio.current_time() - min(self._since.values()) if self._since else 0.0

    def look(self, group: str) -> None:
        """Something is to be told of a group."""
        self._since.setdefault(group, trio.current_time())
        self._note_news(group)
        if group in self._busy:
            self._again.add(group)
        elif group not in self._ready and group not in self._put_off:
            self._gathering[group] = None
            self._has_some.set()

    def look_after(self, found: Found) -> None:
        """Something may be to be told of a group that a sweep has found."""
        if not (found.group in self._since or found.group in self._busy):
            self._found[found.group] = found
            self._enqueue(found.group)

    async def run(self) -> None:
        """Deliver, until cancelled; then what this daemon holds is given back."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._at_once):
                nursery.start_soon(self._work)
            nursery.start_soon(self._keep_time)
            while True:
                await self._has_some.wait()
                await trio.sleep(GATHER_SECONDS)
                self._has_some = trio.Event()
                gathered, self._gathering = self._gathering, {}
                for group in gathered:
                    self._enqueue(group)

    async def wait_idle(self) -> None:
        """Wait until nothing can be told now."""
        while self._gathering or self._busy or (self._ready and not self.circuit.is_away):
            await self._told.park()

    def _note_news(self, group: str) -> None:
        """Who held a group may have let go before it saw what has happened there."""
        if group in self._held:
            self._held.discard(group)
            self._put_off.pop(group, None)

    def _enqueue(self, group: str) -> None:
        self._ready[group] = None
        self._idle.unpark()

    def _put_off_until(self, group: str, at: float) -> None:
        self._put_off[group] = at
        heapq.heappush(self._later, (at, group))
        self._changed.set()

    async def _keep_time(self) -> None:
        """Have groups looked at when it is time, and the backend when it may be there again."""
        while True:
            now = trio.current_time()
            while self._later and self._later[0][0] <= now:
                at, group = heapq.heappop(self._later)
                if self._put_off.get(group) == at:
                    del self._put_off[group]
                    self._held.discard(group)
                    self._enqueue(group)
            next_at = self._later[0][0] if self._later else math.inf
            if self.circuit.is_away and self._ready:
                if self.circuit.may_begin(now):
                    self._idle.unpark()
                    next_at = min(next_at, now + RETRY_SECONDS)
                else:
                    next_at = min(next_at, max(self.circuit.next_at, now + GATHER_SECONDS))
            with trio.move_on_at(next_at):
                await self._changed.wait()
            self._changed = trio.Event()

    async def _work(self) -> None:
        while True:
            while not (self._ready and self.circuit.may_begin(trio.current_time())):
                await self._idle.park()
            group = next(iter(self._ready))
            del self._ready[group]
            self._busy.add(group)
            self.circuit.begin()
            try:
                await self._tell(group)
            except BaseException:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_SECONDS):
                    await self._give(group)
                raise
            self._busy.discard(group)
            self.circuit.end()
            if group in self._again:
                self._again.discard(group)
                self._note_news(group)
                if group not in self._put_off and group not in self._ready:
                    self._enqueue(group)
            if self.circuit.is_away:
                self._changed.set()
            self._told.unpark_all()

    async def _tell(self, group: str) -> None:
        """Tell what a group has to tell, in order, as long as it is taken."""
        told: Waiting | Batch | None = None
        for number in range(IN_A_ROW + 1):
            try:
                known = self.known.get(group)
                turn = await self._queues.take(group, self._holder, self._lease, known, told)
            except StoreUnavailable:
                self._put_off_until(group, trio.current_time() + RETRY_SECONDS)
                return
            except KeyUnusable:  # the log has said why; a sweep finds it again
                self._forget(group)
                return
            if turn.held_for:  # who holds it looks again before it lets go, unless it is killed
                self._held.add(group)
                self._put_off_until(group, trio.current_time() + turn.held_for)
                return
            if isinstance(told, Batch) and group in self.known:
                self.known[group] = max(self.known[group], told.newest)
            self._count_dropped(group, turn)
            self._since[group] = trio.current_time() - turn.age
            self._counts[group] = turn.waiting
            told = turn.event or turn.batch
            if told is None and not turn.more:
                await self._note_idle(group)
                return
            if number == IN_A_ROW:
                self._enqueue(group)
                return
            if told is not None and not await self._send_one(group, told):
                return

    async def _send_one(self, group: str, told: Waiting | Batch) -> bool:
        """Send what was taken; False when it was not taken there."""
        event, count = _event_of(group, told)
        if event is None:  # nothing of it is a message
            return True
        error = f"no answer within {self._seconds:g} s"
        with trio.move_on_after(self._seconds):
            try:
                await self._send(event.id, event.body)
                error = ""
            except HookFailed as exc:
                error = str(exc)
        if error:
            await self._note_failure(event, error)
            return False
        self._failures.pop(group, None)
        self._metrics.count_event("delivered", event.name, count)
        away_since = self.circuit.succeed()
        if away_since is not None:
            seconds = round(trio.current_time() - away_since, 1)
            log.info("event.recovered", seconds=seconds, waiting=self.waiting)
            for waiting in list(self._put_off):
                self._put_off_until(waiting, trio.current_time())
            self._idle.unpark(count=self._at_once)
        return True

    async def _note_failure(self, event: Event, error: str) -> None:
        group = event.group
        self._metrics.count_event("failed", event.name)
        failures = self._failures[group] = self._failures.get(group, 0) + 1
        now = trio.current_time()
        if self.circuit.fail(now):
            log.warning("event.failed", purpose=event.name, group=group, error=error)
        await self._give(group)
        self._put_off_until(group, now + pause(failures - 1))

    async def _give(self, group: str) -> None:
        with suppress(StoreUnavailable, KeyUnusable):  # then the lease ends by itself
            await self._queues.give(group, self._holder)

    def _count_dropped(self, group: str, turn: Turn) -> None:
        for name in sorted(set(turn.dropped)):
            count = turn.dropped.count(name)
            self._metrics.count_event("dropped", name, count)
            log.warning(
                "event.dropped", purpose=name, group=group, count=count, error="it is too old"
            )
        if turn.is_gap:
            self._metrics.event_gaps += 1
            log.warning("event.gap", group=group)

    async def _note_idle(self, group: str) -> None:
        self._forget(group)
        found = self._found.pop(group, None)
        if found is not None and self.on_idle is not None and group not in self._again:
            await self.on_idle(found)

    def _forget(self, group: str) -> None:
        if group not in self._again:
            self._since.pop(group, None)
        self._counts.pop(group, None)
        self._failures.pop(group, None)


def _event_of(group: str, told: Waiting | Batch) -> tuple[Event | None, int]:
    """What is sent, and how much it tells."""
    if isinstance(told, Waiting):
        return Event(told.name, group, told.id, told.body), 1
    if not told.messages:
        return None, 0
    return messages_event(group, told.before, told.newest, told.messages), len(told.messages)
