"""When the lists of watched groups expire, so that each is asked about then."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping

import trio

from .parts import GROUPS_A_TURN
from .watched import Watched

SLACK = 256
"""How many moments may wait that mean nothing any more, beside as many as there are groups."""


class Expiries:
    """Moments at which lists expire.

    Args:
        groups: those that are watched, by name.
        on_due: gets each group whose list is due to expire.
    """

    def __init__(self, groups: Mapping[str, Watched], on_due: Callable[[Watched], None]) -> None:
        self._groups = groups
        self._on_due = on_due
        self._expiring: list[tuple[float, str]] = []

    def expect(self, group: Watched) -> None:
        """Note when the list of a group expires; messages make it live longer."""
        if group.state.expires_in is not None:
            due = trio.current_time() + group.state.expires_in
            if due < group.expiry_due:
                group.expiry_due = due
                heapq.heappush(self._expiring, (due, group.name))
        if len(self._expiring) > 2 * len(self._groups) + SLACK:
            self._forget_stale_expiries()

    async def collect(self, now: float) -> None:
        """Tell of each group whose moment has come."""
        collected = 0
        while self._expiring and self._expiring[0][0] <= now:
            due, name = heapq.heappop(self._expiring)
            group = self._groups.get(name)
            if group is not None and group.expiry_due == due:
                group.expiry_due = math.inf
                self._on_due(group)
            collected += 1
            if collected % GROUPS_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    def _forget_stale_expiries(self) -> None:
        """Groups that nobody watches any more would stay for as long as their lists live."""
        known = ((group.expiry_due, group.name) for group in self._groups.values())
        self._expiring = [(due, name) for due, name in known if due < math.inf]
        heapq.heapify(self._expiring)
