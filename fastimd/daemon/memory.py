"""What the garbage collector looks at: not at what stays, and not at sockets.

Sockets are freed without it, as soon as nobody holds them. Yet it would look at all of them again
and again, and hold everybody up: with Python's own thresholds that took a quarter of the CPU time
of a storm of connections, and each full look stops the daemon. So it looks seldom, and what it has
seen while many sockets came is frozen: it is not looked at again.

Garbage that only the collector can free comes from requests over HTTP, so nothing is frozen while
one is open. What was frozen all the same is looked at when there are few sockets.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import trio

from ..base.metrics import Metrics

FREEZE_EACH = 500
"""After how many new sockets what there is is frozen."""
FEW_SOCKETS = 500
"""With no more than these a full look takes some 10 ms."""
LOOK_SECONDS = 600.0
"""How often a full look is taken at most."""


class Memory:
    """Keeps the garbage collector from what stays.

    Args:
        sockets: how many are open.
        serves_http: whether a connection over HTTP is open.
    """

    def __init__(
        self, metrics: Metrics, sockets: Callable[[], int], serves_http: Callable[[], bool]
    ) -> None:
        self._metrics = metrics
        self._sockets = sockets
        self._serves_http = serves_http
        self._frozen_at = metrics.sockets_opened
        self._has_frozen = False
        self._looked_at = trio.current_time()

    def settle(self) -> None:
        """Freeze what the start has made."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)

    async def run(self) -> None:
        """Freeze and look, until cancelled."""
        while True:
            await trio.sleep(1)
            if self._serves_http():
                continue
            if self._metrics.sockets_opened - self._frozen_at >= FREEZE_EACH:
                self._frozen_at = self._metrics.sockets_opened
                self._has_frozen = True
                gc.freeze()
            elif self._may_look():
                self._has_frozen = False
                self._looked_at = trio.current_time()
                gc.unfreeze()
                gc.collect()
                gc.freeze()

    def _may_look(self) -> bool:
        is_due = trio.current_time() - self._looked_at >= LOOK_SECONDS
        return self._has_frozen and is_due and self._sockets() <= FEW_SOCKETS
