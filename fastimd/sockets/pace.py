"""How fast one client may send: a token bucket that slows it, and tells when it does not yield."""

from __future__ import annotations

import trio

FLOOD_SECONDS = 10.0
"""How long a client may stay over its rate."""


class Pace:
    """The pace of one socket.

    Args:
        rate: messages a second.
        burst: messages that may come at once after a pause.
    """

    __slots__ = ("_at", "_burst", "_over_since", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = trio.current_time()
        self._over_since: float | None = None

    async def wait_turn(self) -> bool:
        """Wait until the next message may pass; False when the client has flooded for too long.

        Who waits does not read, so the client is slowed by its own TCP connection.
        """
        now = self._refill()
        if self._tokens >= 1:
            self._over_since = None
        else:
            if self._over_since is None:
                self._over_since = now
            if now - self._over_since >= FLOOD_SECONDS:
                return False
            while self._tokens < 1:
                await trio.sleep((1 - self._tokens) / self._rate)
                self._refill()
        self._tokens -= 1
        return True

    def _refill(self) -> float:
        now = trio.current_time()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return now
