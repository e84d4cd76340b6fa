"""What the garbage collector looks at: each object once, while it is young.

All that a connection leaves is freed as soon as nobody holds it, so the collector finds next to
nothing, and yet it would look at every socket again and again: Python's own thresholds took a
quarter of the CPU time of a storm of connections. So what it has looked at is frozen, and after a
look that has found nothing some are spared: what is new then is frozen unseen. Garbage that was
frozen, as the code of hooks may leave it, waits for a look at everything, in a quiet moment.
"""

from __future__ import annotations

import gc
from typing import Literal

import trio

from ..base.metrics import Metrics

YOUNG = 10_000
"""How many new objects there are when they are looked at."""
SPARED = 9
"""How many such looks are spared after one that has found nothing."""
LOOKS = 1000
"""How many of these, spared or not, come before a look at everything, which stops the daemon for
some 40 ms for each thousand sockets."""
QUIET = 50
"""No more new sockets than these make a second quiet."""
PATIENCE = 60
"""How many seconds a quiet one is waited for."""


class Memory:
    """Has the garbage collector look no more often than the daemon needs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._looks = 0
        self._to_spare = 0
        self._is_spared = False

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

    def _keep(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """Freeze what the collector has looked at, or before it does when the look is spared."""
        if phase == "start":
            self._is_spared = self._to_spare > 0 and not info["generation"]  # else it is asked for
            if self._is_spared:
                self._to_spare -= 1
                gc.freeze()
            return
        self._looks += 1
        if not self._is_spared:
            self._to_spare = 0 if info["collected"] else SPARED
        gc.freeze()
