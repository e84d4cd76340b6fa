"""Tells ``on_moderation`` and ``on_report``, in the order of a group, and holds up nobody."""

from __future__ import annotations

from collections import deque

import structlog
import trio

from ..base.metrics import Metrics
from . import ModerationAct, ReportedMessage
from .runner import HookRunner

AT_ONCE = 4
"""How many are told at the same time, at most; what concerns one group goes in its order."""
MAX_WAITING = 10_000
"""How many may wait when another one comes."""

log = structlog.get_logger("fastimd.hooks")


class Tellings:
    """What has happened, for the hooks."""

    def __init__(self, hooks: HookRunner, metrics: Metrics) -> None:
        self._hooks = hooks
        self._metrics = metrics
        self._queues: list[deque[tuple[str, ModerationAct | ReportedMessage]]] = [
            deque() for _ in range(AT_ONCE)
        ]
        self._parked = [trio.lowlevel.ParkingLot() for _ in range(AT_ONCE)]
        self._being_told = 0
        self._all_told = trio.Event()

    @property
    def waiting(self) -> int:
        """How many are not told yet."""
        return sum(map(len, self._queues)) + self._being_told

    def tell(self, name: str, what: ModerationAct | ReportedMessage) -> None:
        """Tell a hook something, if there is this hook."""
        if not self._hooks.has(name):
            return
        if self.waiting >= MAX_WAITING:
            self._metrics.tellings_dropped += 1
            log.warning("hook.telling_dropped", purpose=name, group=what.group_id)
            return
        number = hash(what.group_id) % AT_ONCE
        self._queues[number].append((name, what))
        self._parked[number].unpark()

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
            name, what = queue.popleft()
            self._being_told += 1
            await self._hooks.tell(name, what)
            self._being_told -= 1
            if not self.waiting:
                self._all_told.set()
