"""Buries killed daemons: tells the leaves of the connections that they had.

Every daemon lists itself every few seconds, and looks whether the others still do. It takes the
ledger of one that does not, and tells the leaves of all visits in it. It may be killed meanwhile:
then the next one goes on.

A daemon that was only cut off from Redis finds that its ledger was taken. Its connections that are
still there begin anew for the hooks, under other ids, in a new ledger.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.metrics import Metrics
from ...hooks.visits import Visit, Visits
from ..store.ledgers import LEASE_SECONDS, Ledgers, make_id
from .ledger import RETRY_SECONDS, HeldLedger

LOOK_SECONDS = 4.0
"""How often a daemon is listed, and looks for others."""

log = structlog.get_logger("fastimd.presence")


class Burials:
    """The ledger of this daemon, and those of dead ones.

    Args:
        visits: of this daemon; their ledger is set here, and those of dead ones are told there.
        ending: set when the daemon ends and begins nothing more.
    """

    def __init__(
        self, store: Ledgers, visits: Visits, metrics: Metrics, ending: trio.Event
    ) -> None:
        self._store = store
        self._visits = visits
        self._metrics = metrics
        self._ending = ending
        self._seen: dict[str, tuple[int, float]] = {}
        # Whether they are held yet.
        self._being_buried: dict[str, bool] = {}
        self._was_buried = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._own = self._open()

    async def run(self) -> None:
        """Hold the ledger, and bury, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hold)
            while True:
                if not self._is_closed:
                    await self._look(nursery)
                await trio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Leave nothing in Redis, when all leaves of this daemon were told."""
        self._is_closed = True
        while self._being_buried:
            await self._was_buried.park()
        with suppress(StoreUnavailable, KeyUnusable):  # others find it, and nothing in it
            await self._own.close()

    def _open(self) -> HeldLedger:
        ledger = HeldLedger(self._store, make_id(), self._visits.look, is_own=True)
        self._visits.ledger = ledger
        return ledger

    async def _hold(self) -> None:
        while True:
            await self._own.run()
            if not self._own.is_lost:
                await trio.sleep_forever()
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Another daemon has told all visits as over, or is about to."""
        seen, unseen = self._own.left()
        buried, self._own = self._own.daemon, self._open()
        alive = [visit for visit in seen if not visit.is_over]
        for visit in seen:
            if visit.is_over:
                visit.give_up()
            else:
                self._visits.begin_anew(visit)
        for visit in unseen:
            self._visits.move(visit)
        log.warning("presence.was_buried", daemon=buried, connections=len(alive))

    async def _look(self, nursery: trio.Nursery) -> None:
        """List this daemon, and bury those that were not listed for long.

        Only what is seen counts: while Redis is away nobody can be listed.
        """
        held = [daemon for daemon, is_held in self._being_buried.items() if is_held]
        began = trio.current_time()
        try:
            listed = await self._store.list([self._own.daemon, *held])
        except (StoreUnavailable, KeyUnusable):
            self._seen.clear()
            return
        before, self._seen = self._seen, {}
        for daemon, at in listed.items():
            if daemon == self._own.daemon or daemon in self._being_buried:
                continue
            was, since = before.get(daemon, (at, began))
            self._seen[daemon] = at, since if was == at else began
            if began - self._seen[daemon][1] >= LEASE_SECONDS and not self._ending.is_set():
                self._being_buried[daemon] = False
                nursery.start_soon(self._bury, daemon)

    async def _bury(self, daemon: str) -> None:
        ledger = HeldLedger(self._store, daemon, self._visits.look, is_own=False)
        try:
            if await ledger.take():
                self._being_buried[daemon] = True
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ledger.run)
                    await self._tell_all(ledger)
                    nursery.cancel_scope.cancel()
        except StoreUnavailable:  # the next look tries again
            pass
        except KeyUnusable:  # the log has said why; that is not to be said at every look
            self._seen.pop(daemon, None)
        del self._being_buried[daemon]
        self._was_buried.unpark_all()

    async def _tell_all(self, ledger: HeldLedger) -> None:
        """Tell the leaves of all visits in a ledger, some at a time."""
        cursor, told = -1, 0
        while cursor and not self._ending.is_set():
            try:
                cursor, found = await self._store.read(ledger.daemon, max(cursor, 0))
            except StoreUnavailable:
                await trio.sleep(RETRY_SECONDS)
                continue
            except KeyUnusable:  # the log has said why; perhaps another time
                return
            for number, group, user in found:
                visit = Visit(group, user, number, ledger)
                ledger.adopt(visit)
                self._visits.leave(visit)
            await ledger.wait_empty()
            if ledger.is_lost:
                for visit in ledger.left()[0]:
                    visit.give_up()
                self._visits.look()
                return
            told += len(found)
            self._metrics.presence_buried += len(found)
        if not cursor:
            if told:
                log.warning("presence.buried", daemon=ledger.daemon, connections=told)
            await self._unlist(ledger.daemon)

    async def _unlist(self, daemon: str) -> None:
        while True:
            try:
                await self._store.unlist(daemon)
                return
            except StoreUnavailable:
                await trio.sleep(RETRY_SECONDS)
            except KeyUnusable:  # it is found again, and nothing in it
                return
