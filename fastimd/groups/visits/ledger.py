"""A ledger that this daemon holds: its own, or that of a daemon which it buries.

Changes are noted together, one script after the other, and that renews the lease. While Redis does
not answer nothing is told of the visits: another daemon may have begun to.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from itertools import islice

import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ...hooks.visits import Visit
from ..store.ledgers import LEASE_SECONDS, Ledgers, Noted

RENEW_SECONDS = 4.0
"""How often the lease is renewed."""
MARGIN_SECONDS = 4.0
"""How long before its end it is not relied upon: a hook takes its time."""
RETRY_SECONDS = 0.5
AT_ONCE = 500
"""Visits in one script: Redis does nothing else meanwhile."""


class HeldLedger:
    """The visits of one daemon, as Redis has them, and as they are to be.

    Args:
        daemon: whose they are.
        on_change: called when visits may have become ready, or never will.
        is_own: the daemon is this one, which notes more visits.
    """

    def __init__(
        self, store: Ledgers, daemon: str, on_change: Callable[[], None], *, is_own: bool
    ) -> None:
        self.daemon = daemon
        self.is_lost = False
        """Another daemon has taken it."""
        self._store = store
        self._holder = secrets.token_hex(8)
        self._on_change = on_change
        self._is_own = is_own
        self._is_listed = not is_own
        self._unnoted: dict[str, Visit] = {}
        # Were sent, and Redis has not answered.
        self._sent: set[str] = set()
        self._noted: dict[str, Visit] = {}
        self._over: dict[str, None] = {}
        self._sure_until = -math.inf
        self._is_refused = False
        self._is_closing = False
        self._has_changed = trio.Event()
        self._has_ended = trio.Event()
        self._answered = trio.lowlevel.ParkingLot()

    @property
    def is_empty(self) -> bool:
        """Redis has no visit of it."""
        return not (self._unnoted or self._noted or self._over)

    def note(self, visit: Visit) -> None:
        """A visit has begun."""
        self._unnoted[visit.connection_id] = visit
        self._has_changed.set()

    def forget(self, visit: Visit) -> None:
        """Its leave was told."""
        number = visit.connection_id
        self._unnoted.pop(number, None)
        if number in self._noted or number in self._sent:
            self._over[number] = None
            self._has_changed.set()

    def is_ready(self, visit: Visit) -> bool:
        """Something may be told of the visit.

        It may also when Redis refuses to keep any: then the leave is told by this daemon, or never.
        """
        is_sure = trio.current_time() < self._sure_until
        is_noted = visit.connection_id in self._noted
        return (is_sure and is_noted) or (self._is_own and self._is_refused)

    async def take(self) -> bool:
        """Take the ledger from a daemon that is dead; False when it is held.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be told now.
        """
        began = trio.current_time()
        is_taken = await self._store.keep(self.daemon, self._holder, takes=True) is not None
        self._sure_until = began + LEASE_SECONDS - MARGIN_SECONDS
        return is_taken

    def adopt(self, visit: Visit) -> None:
        """A visit was found in it."""
        self._noted[visit.connection_id] = visit

    def left(self) -> tuple[list[Visit], list[Visit]]:
        """The visits that who has taken it may have found there, and those it has not."""
        unnoted = self._unnoted.items()
        seen = [visit for number, visit in unnoted if number in self._sent]
        unseen = [visit for number, visit in unnoted if number not in self._sent]
        return [*self._noted.values(), *seen], unseen

    async def run(self) -> None:
        """Keep it until it is lost, or closed and empty."""
        due = -math.inf
        while not (self.is_lost or (self._is_closing and self.is_empty)):
            with trio.move_on_at(due):
                await self._has_changed.wait()
            self._has_changed = trio.Event()
            due = trio.current_time() + RENEW_SECONDS
            try:
                await self._keep()
            except StoreUnavailable:
                self._sure_until = -math.inf
                due = trio.current_time() + RETRY_SECONDS
                await trio.sleep_until(due)
            except KeyUnusable:  # the log has said why
                self._is_refused = True
                self._tell_change()
                await trio.sleep_until(due)
        self._has_ended.set()
        self._tell_change()

    async def wait_empty(self) -> None:
        """Wait until it is, or is lost."""
        while not (self.is_lost or self.is_empty):
            await self._answered.park()

    async def close(self) -> None:
        """Leave nothing of it in Redis, once nothing has to be told of any visit.

        Raises:
            StoreUnavailable, KeyUnusable: something is left.
        """
        self._is_closing = True
        self._has_changed.set()
        await self._has_ended.wait()
        if not self.is_lost:
            await self._store.close(self.daemon)

    async def _keep(self) -> None:
        if not self._is_listed:
            await self._store.list([self.daemon])
            self._is_listed = True
        begun = list(islice(self._unnoted.items(), AT_ONCE))
        over = list(islice(self._over, AT_ONCE))
        began = trio.current_time()
        fresh = {number for number, _ in begun} - self._sent
        self._sent |= fresh
        noted = [Noted(number, visit.group, visit.user) for number, visit in begun]
        try:
            count = await self._store.keep(self.daemon, self._holder, noted, over)
        except KeyUnusable:
            self._sent -= fresh
            raise
        self._is_refused = False
        if count is None:
            self._sent -= fresh
            self._sure_until = -math.inf
            self.is_lost = True
            return
        self._sure_until = began + LEASE_SECONDS - MARGIN_SECONDS
        for number, visit in begun:
            self._sent.discard(number)
            self._unnoted.pop(number, None)
            self._noted[number] = visit
        for number in over:
            del self._over[number]
            self._noted.pop(number, None)
            self._sent.discard(number)
        if self._is_own and count != len(self._noted):
            await self._take_stock()
        if self._unnoted or self._over:
            self._has_changed.set()
        self._tell_change()

    async def _take_stock(self) -> None:
        """Redis has lost visits, or has some again that were forgotten."""
        found: set[str] = set()
        cursor = -1
        while cursor:
            cursor, some = await self._store.read(self.daemon, max(cursor, 0))
            found.update(each.connection_id for each in some)
        for number in found - self._noted.keys():
            self._over[number] = None
        for number in self._noted.keys() - found:
            visit = self._noted.pop(number)
            if number not in self._over:
                self._unnoted[number] = visit

    def _tell_change(self) -> None:
        self._answered.unpark_all()
        self._on_change()
