"""How the live wire speaks to the members of a group: pushes, after where the group stands."""

from __future__ import annotations

from collections.abc import Iterable

from ..groups.audience import Batch, Greeting, Since
from ..groups.store.stand import Stands
from .protocol import Publication
from .publications import notice, publications
from .wire import Wire

FRAME_BYTES = 32_768
"""Pushes are joined in frames up to about this length."""


class Live:
    """The ``Dialect`` of all connections of one encoding."""

    resumes = True

    def __init__(self, stands: Stands, wire: Wire) -> None:
        self._stands = stands
        self._wire = wire

    async def greet(self, group: str, since: Since | None) -> Greeting:
        """Where the group stands, and what is gone of what the client knows."""
        stand = await self._stands.read(group, *(since or ()))
        frames = self._frames(group, map(notice, stand.removals))
        return Greeting(b"".join(frames), stand.position, stand.foreign, stand)

    def encode(self, group: str, batch: Batch) -> list[bytes]:
        """All pushes of a batch, many in a frame."""
        return self._frames(group, publications(self._stands, group, batch))

    def _frames(self, group: str, publications: Iterable[Publication]) -> list[bytes]:
        frames: list[bytes] = []
        pushes: list[bytes] = []
        size = 0
        for each in publications:
            push = self._wire.encode_publication(group, each)
            if size and size + len(push) > FRAME_BYTES:
                frames.append(self._wire.frame(pushes))
                pushes, size = [], 0
            pushes.append(push)
            size += len(push)
        if pushes:
            frames.append(self._wire.frame(pushes))
        return frames
