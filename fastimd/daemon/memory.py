"""What the garbage collector looks at: each object once, while it is young.

All that a connection leaves is freed as soon as nobody holds it, so the collector finds next to
nothing, and yet it would look at every socket again and again: Python's own thresholds took a
quarter of the CPU time of a storm of connections. So it looks when so many objects are new, and
what it has looked at is frozen, which is not looked at again. What became garbage after that, as
the code of hooks may have it, waits for a look at everything: seldom, and in a quiet moment.
"""

from __future__ import annotations

import gc
from typing import Literal

import trio

from ..base.metrics import Metrics

YOUNG = 10_000
"""How many new objects there are when they are looked at."""
LOOKS = 1000
"""How many of these looks come before one at everything, which stops the daemon for some 10 ms for
each thousand sockets."""
QUIET = 50
"""No more new sockets than these make a second quiet."""
PATIENCE = 60
"""How many seconds a quiet one is waited for."""


class Memory:
    """Has the garbage collector look no more often than the daemon needs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._looks = 0

    async def run(self) -> None:
        """Freeze what the start has made, and see to it that everything is looked at now and then.

        When it is cancelled, the collector is left to itself.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG)
        gc.callbacks.append(self._keep)
        try:
            while True:
                await self._wait_due()
                gc.unfreeze()
                gc.collect()
                self._looks = 0
        finally:
            gc.callbacks.remove(self._keep)

    async def _wait_due(self) -> None:
        """Wait until everything is to be looked at, and then for a quiet second."""
        waited = 0
        while True:
            opened = self._metrics.sockets_opened
            await trio.sleep(1)
            if self._looks >= LOOKS:
                waited += 1
                if self._metrics.sockets_opened - opened <= QUIET or waited == PATIENCE:
                    return

    def _keep(self, phase: Literal["start", "stop"], _info: dict[str, int]) -> None:
        """Freeze what the collector has looked at."""
        if phase == "stop":
            self._looks += 1
            gc.freeze()
