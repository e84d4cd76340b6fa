"""Calls at a time, for all sockets, by one task: a socket with a deadline needs no task for it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import trio

TURN_SECONDS = 0.25
"""How exact the times are."""


class Timer:
    """A call that is still to come; ``cancel`` makes it one of nothing."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call; what the call would need is let go at once."""
        self._callback = None

    def ring(self) -> None:
        """Call, unless it was cancelled."""
        if self._callback is not None:
            callback, self._callback = self._callback, None
            callback()


class Timers:
    """All calls that are still to come."""

    def __init__(self) -> None:
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._set = trio.Event()

    def call_after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Have ``callback`` called in so many seconds; it must not wait."""
        timer = Timer(callback)
        heappush(self._timers, (trio.current_time() + seconds, next(self._numbers), timer))
        self._set.set()
        return timer

    async def run(self) -> None:
        """Call, until cancelled."""
        while True:
            if not self._timers:
                self._set = trio.Event()
                await self._set.wait()
            await trio.sleep(TURN_SECONDS)
            now = trio.current_time()
            while self._timers and self._timers[0][0] <= now:
                heappop(self._timers)[2].ring()
