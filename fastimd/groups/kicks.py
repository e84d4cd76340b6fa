"""Kicks that were announced while the relay was away: the store remembers them for a while.

After each reconnection all that are remembered are carried out, against sockets that were open
when the kick was given. One that was heard before finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from ..base.errors import KeyUnusable, StoreUnavailable
from ..websocket.kick import Kick
from .events import Event
from .store.history import History
from .store.kicks import RememberedKicks

RETRY_SECONDS = 0.1

OnKick: TypeAlias = Callable[[Kick, float], None]
"""Gets a kick, and how many seconds ago it was given."""


class Kicks:
    """Carries out kicks: those that are heard, and those that were missed.

    Args:
        on_kick: called with each, perhaps more than once.
    """

    def __init__(self, store: RememberedKicks, history: History, on_kick: OnKick) -> None:
        self._store = store
        self._history = history
        self._on_kick = on_kick
        self._missed = trio.Event()

    def receive(self, event: Event) -> None:
        """Carry out a kick that a daemon has just announced."""
        self._on_kick(_kick_of(event), 0.0)

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
        for event, ts in await self._store.all():
            self._on_kick(_kick_of(event), self._history.age(ts))
            await trio.lowlevel.checkpoint()  # each is a look at all sockets


def _kick_of(event: Event) -> Kick:
    close = (event.code, event.reason) if event.code else None
    return Kick(event.user, event.group, event.client, event.keep, close)
