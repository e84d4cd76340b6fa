"""Appends in a cluster: a queue for each slot, with an applied mark of its own that lies there.

A script finds its keys in one slot, the applied mark among them. So what one Redis takes as one
sequence is here one for each slot (``Appender``), which begins when somebody speaks there. It goes
over the connection to the master of the slot; when that is another, the queue is settled there, as
it is after a connection has broken. While the keys of a slot are on their way from one master to
another its appends are refused for now, and wait.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable

import trio

from ...base.metrics import Metrics
from ...base.settings import Config
from ..appender import LOOK_SECONDS, Appender
from ..batch import OnAppended, Place, Told
from ..clock import RedisClock
from ..connection import Connection
from ..replies import InTransit, NotNow, Redirected
from ..room import Room
from ..scripts import APPEND
from .masters import Masters
from .slots import slot_of, tag_of

IDLE_SECONDS = 1800.0
"""A queue that was not used for so long is given up, before its mark is."""


class Lane(Appender):
    """The queue of one slot."""

    def __init__(self, slot: int, config: Config, metrics: Metrics, lanes: Lanes) -> None:
        super().__init__(config, metrics, lanes.clock, lanes.room, tag_of(slot), APPEND.sharded)
        self.slot = slot
        self.is_settling = False
        self.used_at = trio.current_time()
        self._lanes = lanes
        self._seen = 0
        self.heard, self.hear_out = lanes.heard, lanes.hear_out

    def is_used(self) -> bool:
        """Something was appended since this was asked the last time."""
        before, self._seen = self._seen, self._sequence
        return self._seen != before

    @property
    def connection(self) -> Connection | None:
        """Over which it goes."""
        return self._connection

    def go_on(self, connection: Connection | None) -> None:
        """Go over another connection, as soon as it is known what became of what has no answer."""
        if connection is self._connection:
            return
        is_busy = self._is_held or self._unanswered
        self._connection = connection
        if is_busy or connection is None:
            self._hold()

    def note_refusal(self, refusal: NotNow) -> None:
        """That the slot is elsewhere, or on its way, is no trouble, but where it is matters."""
        if not isinstance(refusal, InTransit):
            super().note_refusal(refusal)
        elif isinstance(refusal, Redirected) and refusal.is_moved:
            self._lanes.on_moved(refusal)


class Lanes:
    """All queues of the daemon; to the rooms above they are one ``Appender``.

    Args:
        masters: over whose connections they go.
    """

    def __init__(
        self, config: Config, metrics: Metrics, clock: RedisClock, masters: Masters
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._masters = masters
        masters.on_spread.append(self.use)
        masters.on_connection, masters.on_loss = self.use, self.lose
        self._lanes: dict[int, Lane] = {}
        self._nursery: trio.Nursery | None = None
        self.clock = clock
        self.on_moved = masters.note_moved
        self.room = Room(config)
        self.heard: Callable[[bytes], int] = lambda _channel: 0
        self.hear_out: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    @property
    def unanswered(self) -> int:
        """How many appends wait for an answer."""
        return sum(lane.unanswered for lane in self._lanes.values())

    @property
    def refusal(self) -> str | None:
        """What Redis refused the last append of some slot with, while it does."""
        return next((lane.refusal for lane in self._lanes.values() if lane.refusal), None)

    @property
    def has_room(self) -> bool:
        """More may be appended now; while not, Redis takes messages, but slower than they come."""
        return self.room.is_there

    async def wait_room(self) -> None:
        """Wait until there is room."""
        while not self.room.is_there:
            await self.room.wait_answer()

    async def wait_all_answered(self) -> None:
        """Wait until the fate of every append is known."""
        while self.unanswered:
            await self.room.wait_answer()

    def append(
        self,
        place: Place,
        prefix: bytes,
        on_appended: OnAppended | Told,
        within: float = math.inf,
    ) -> None:
        """Queue one append; as ``Appender.append``."""
        slot = slot_of(place.list_key)
        lane = self._lanes.get(slot) or self._open(slot)
        lane.append(place, prefix, on_appended, within)

    def use(self, slots: Iterable[int]) -> None:
        """Go on over the connections that slots have now, which may be none."""
        for slot in slots:
            lane = self._lanes.get(slot)
            if lane is not None:
                lane.go_on(self._masters.connection_of(slot))

    def lose(self, connection: Connection) -> None:
        """A connection is gone."""
        for lane in self._lanes.values():
            if lane.connection is connection:
                lane.go_on(None)

    async def run(self) -> None:
        """Settle and expire what is held, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for lane in self._lanes.values():
                self._settle(lane)
            while True:
                await trio.sleep(LOOK_SECONDS)
                now = trio.current_time()
                for lane in list(self._lanes.values()):
                    lane.expire()
                    if lane.unanswered or lane.is_used():
                        lane.used_at = now
                    elif now - lane.used_at > IDLE_SECONDS:
                        del self._lanes[lane.slot]

    def _open(self, slot: int) -> Lane:
        lane = self._lanes[slot] = Lane(slot, self._config, self._metrics, self)
        lane.on_held = lambda: self._settle(lane)
        lane.go_on(self._masters.connection_of(slot))
        return lane

    def _settle(self, lane: Lane) -> None:
        if self._nursery is not None and not lane.is_settling and lane.connection is not None:
            lane.is_settling = True
            self._nursery.start_soon(self._keep_settling, lane)

    async def _keep_settling(self, lane: Lane) -> None:
        try:
            await lane.settle_again()
        finally:
            lane.is_settling = False
