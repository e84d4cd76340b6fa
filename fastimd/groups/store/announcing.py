"""What daemons say to all daemons, or to one, and nobody remembers."""

from __future__ import annotations

from contextlib import suppress

from ...base.errors import KeyUnusable, StoreUnavailable
from ..events import EVENTS_CHANNEL
from .keyspace import Keyspace


class Announcing:
    """Says it."""

    def __init__(self, keys: Keyspace) -> None:
        self._keys = keys

    async def announce(self, event: bytes) -> int:
        """Tell all daemons something; returns how many hear it.

        Raises:
            StoreUnavailable, KeyUnusable: they cannot be told.
        """
        told = await self._keys.call("PUBLISH", EVENTS_CHANNEL, event)
        return await self._keys.count_listeners(EVENTS_CHANNEL, told)

    async def tell(self, inbox: str, letter: bytes) -> None:
        """Tell one daemon something, if that can be done now: it does not wait for ever."""
        with suppress(StoreUnavailable, KeyUnusable):  # the log has said why
            await self._keys.call("PUBLISH", inbox, letter)
