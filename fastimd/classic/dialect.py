"""How Fast-IM speaks to the members of a group: a text frame a message, after the last ones."""

from __future__ import annotations

from ..groups.audience import Batch, Greeting
from ..groups.store import Store
from ..websocket.frames import text_frame


class Classic:
    """The ``Dialect`` of all chat sockets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def greet(self, group: str) -> Greeting:
        """The last messages of the group and how many it has."""
        payload, position, foreign = await self._store.greeting(group)
        return Greeting(text_frame(payload), position, foreign)

    def encode(self, _group: str, batch: Batch) -> list[bytes]:
        """A frame a message."""
        return [text_frame(message) for _, message in batch]
