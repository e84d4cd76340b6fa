"""How much waits for Redis, in all queues together."""

from __future__ import annotations

import trio

from ..base.errors import StoreUnavailable
from ..base.settings import Config


class Room:
    """How much waits for Redis, of all queues that share it, in bytes; ``held`` of it in vain.

    ``kept`` is how many messages wait in none of them.

    Args:
        config: how much may.
    """

    __slots__ = ("_config", "answered", "bytes", "held", "kept")

    def __init__(self, config: Config) -> None:
        self._config = config
        self.bytes = 0
        self.held = 0
        self.kept = 0
        self.answered: trio.Event | None = None

    @property
    def is_there(self) -> bool:
        """More may be appended now; while not, Redis takes messages, but slower than they come."""
        return self.bytes - self.held <= self._config.redis.hold_bytes

    def keep(self, size: int) -> None:
        """Count a message that waits elsewhere, in vain.

        Raises:
            StoreUnavailable: too much waits already.
        """
        most = self._config.redis.hold_bytes
        if self.held + size > most:
            raise StoreUnavailable(f"{most} bytes wait for Redis already")
        self.held += size
        self.bytes += size
        self.kept += 1

    def let_go(self, size: int) -> None:
        """It waits no longer."""
        self.held -= size
        self.bytes -= size
        self.kept -= 1
        self.tell_answered()

    async def wait_answer(self) -> None:
        """Wait until an append was answered, or its queue is held."""
        if self.answered is None:
            self.answered = trio.Event()
        await self.answered.wait()

    def tell_answered(self) -> None:
        """Wake whoever waits for that."""
        if self.answered is not None:
            self.answered.set()
            self.answered = None
