"""Tells ``on_moderation`` and ``on_report``, in the order of a group.

A handler is told, and nothing waits for it. A backend is told over Redis, and who has done
something is answered when Redis has the event: then it is told, whatever becomes of this daemon.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import structlog
import trio

from ..base.errors import StoreUnavailable
from ..base.metrics import Metrics
from . import ModerationAct, ReportedMessage
from .outgoing import Event, moderation_event
from .runner import HookRunner

AT_ONCE = 4
"""How many are told at the same time, at most; what concerns one group goes in its order."""
MAX_WAITING = 10_000
"""How many may wait when another one comes."""
PUSH_SECONDS = 3.0
"""How long who has done something waits for Redis to have the event; later it waits here."""
RETRY_SECONDS = 0.25

log = structlog.get_logger("fastimd.hooks")


@dataclass(slots=True, eq=False)
class _Told:
    """What is to be told; ``event`` is that for a backend, ``is_tried`` is set with the outcome."""

    name: str
    what: ModerationAct | ReportedMessage
    event: Event | None
    is_pushed: bool = False
    is_tried: trio.Event = field(default_factory=trio.Event)


class Tellings:
    """What has happened, for the hooks."""

    def __init__(self, hooks: HookRunner, metrics: Metrics) -> None:
        self._hooks = hooks
        self._metrics = metrics
        self._queues: list[deque[_Told]] = [deque() for _ in range(AT_ONCE)]
        self._parked = [trio.lowlevel.ParkingLot() for _ in range(AT_ONCE)]
        self._being_told = 0
        self._all_told = trio.Event()

    @property
    def waiting(self) -> int:
        """How many are not told yet."""
        return sum(map(len, self._queues)) + self._being_told

    async def tell(self, name: str, what: ModerationAct | ReportedMessage) -> None:
        """Tell a hook something, if there is this hook.

        It is told even if who waits for this is cancelled. For a backend this waits until Redis has
        the event, or cannot take it now; then it waits here.
        """
        if not self._hooks.has(name):
            return
        if self.waiting >= MAX_WAITING:
            self._metrics.tellings_dropped += 1
            log.warning("hook.telling_dropped", purpose=name, group=what.group_id)
            return
        event = moderation_event(what) if name in self._hooks.events else None
        told = _Told(name, what, event)
        number = hash(what.group_id) % AT_ONCE
        self._queues[number].append(told)
        self._parked[number].unpark()
        if event is not None:
            with trio.move_on_after(PUSH_SECONDS):
                await told.is_tried.wait()
            if not told.is_pushed:
                log.warning("hook.telling_delayed", purpose=name, group=what.group_id)

    async def run(self) -> None:
        """Tell, until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(self._tell_all, number)

    async def wait_all_told(self) -> None:
        """Wait until nothing waits."""
        while self.waiting:
            self._all_told = trio.Event()
            await self._all_told.wait()

    async def _tell_all(self, number: int) -> None:
        queue = self._queues[number]
        while True:
            while not queue:
                await self._parked[number].park()
            told = queue.popleft()
            self._being_told += 1
            if told.event is None:
                await self._hooks.tell(told.name, told.what)
            elif not await self._push(told, told.event):
                queue.appendleft(told)
                for each in queue:
                    each.is_tried.set()
            self._being_told -= 1
            if not told.is_pushed and told.event is not None:
                await trio.sleep(RETRY_SECONDS)
            elif not self.waiting:
                self._all_told.set()

    async def _push(self, told: _Told, event: Event) -> bool:
        assert self._hooks.outlet is not None
        try:
            await self._hooks.outlet.push(event)
        except StoreUnavailable:
            return False
        told.is_pushed = True
        told.is_tried.set()
        return True
