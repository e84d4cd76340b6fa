"""How Fast-IM speaks to the members of a group: a text frame a message, after the last ones."""

from __future__ import annotations

from ..base import codec
from ..groups.audience import Batch, Greeting, Since
from ..groups.store.history import History
from ..websocket.frames import text_frame


class Classic:
    """The ``Dialect`` of all chat sockets."""

    resumes = False

    def __init__(self, history: History) -> None:
        self._history = history

    async def greet(self, group: str, _since: Since | None) -> Greeting:
        """The last messages of the group and how many it has."""
        messages, total, position, foreign = await self._history.tail(group)
        return Greeting(text_frame(codec.greeting(messages, total)), position, foreign)

    def encode(self, _group: str, batch: Batch) -> list[bytes]:
        """A frame a message. Of what became of messages Fast-IM's clients hear nothing."""
        return [text_frame(message) for ts, message in batch if ts >= 0]
