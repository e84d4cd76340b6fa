"""Kicks that were announced while the relay was away: the store remembers them for a while.

After each reconnection all that are remembered are carried out, against sockets that were open
when the kick was given. One that was heard before finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from ..base.errors import KeyUnusable, StoreUnavailable
from .store import Event, Store

RETRY_SECONDS = 0.1

OnKick: TypeAlias = Callable[[Event, float], None]
"""Gets a kick, and how many seconds ago it was given."""


class Kicks:
    """Looks for kicks that were missed.

    ``on_kick`` is called with each that is remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._missed = trio.Event()
        self.on_kick: OnKick = lambda _event, _age: None

    def look(self) -> None:
        """Some may have been missed: look, as soon as Redis can be asked."""
        self._missed.set()

    async def run(self) -> None:
        """Carry out what was missed, until cancelled."""
        while True:
            await self._missed.wait()
            self._missed = trio.Event()
            try:
                await self._carry_out()
            except StoreUnavailable:  # the connection says why
                self.look()
                await trio.sleep(RETRY_SECONDS)
            except KeyUnusable:  # the log has said why
                pass

    async def _carry_out(self) -> None:
        for event, ts in await self._store.kicks():
            self.on_kick(event, self._store.age(ts))
            await trio.lowlevel.checkpoint()  # each is a look at all sockets
