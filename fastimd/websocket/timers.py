"""Calls at a time, for all sockets, by one task: a socket with a deadline needs no task for it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

import trio

TURN_SECONDS = 0.25
"""How exact the times are."""
MOST_CANCELLED = 256
"""So many calls that were cancelled are kept, and beyond that not more than others."""


class Timer:
    """A call that is still to come; ``cancel`` makes it one of nothing."""

    __slots__ = ("_callback", "_timers")

    def __init__(self, callback: Callable[[], object], timers: Timers) -> None:
        self._callback: Callable[[], object] | None = callback
        self._timers = timers

    @property
    def is_cancelled(self) -> bool:
        """It will not call, or has called."""
        return self._callback is None

    def cancel(self) -> None:
        """Do not call; what the call would need is let go at once."""
        if self._callback is not None:
            self._callback = None
            self._timers.note_cancelled()

    def ring(self) -> None:
        """Call; it was not cancelled."""
        callback, self._callback = self._callback, None
        assert callback is not None
        callback()


class Timers:
    """All calls that are still to come."""

    def __init__(self) -> None:
        self._cancelled = 0  # of those in the heap
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._set = trio.Event()

    def call_after(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Have ``callback`` called in so many seconds; it must not wait."""
        timer = Timer(callback, self)
        heappush(self._timers, (trio.current_time() + seconds, next(self._numbers), timer))
        self._set.set()
        return timer

    def __len__(self) -> int:
        """How many are kept, with those that were cancelled and are not forgotten yet."""
        return len(self._timers)

    def note_cancelled(self) -> None:
        """One was. Of a token that is good for a year, nothing may be kept for a year."""
        self._cancelled += 1
        if self._cancelled >= MOST_CANCELLED and 2 * self._cancelled > len(self._timers):
            self._timers = [each for each in self._timers if not each[2].is_cancelled]
            heapify(self._timers)
            self._cancelled = 0

    async def run(self) -> None:
        """Call, until cancelled."""
        while True:
            if not self._timers:
                self._set = trio.Event()
                await self._set.wait()
            await trio.sleep(TURN_SECONDS)
            now = trio.current_time()
            while self._timers and self._timers[0][0] <= now:
                timer = heappop(self._timers)[2]
                if timer.is_cancelled:
                    self._cancelled -= 1
                else:
                    timer.ring()
