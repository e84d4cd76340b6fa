"""How fast one client may send: a token bucket that slows it, and tells when it does not yield."""

from __future__ import annotations

import trio

FLOOD_SECONDS = 10.0
"""How long a client may be slowed; the time in which it is not counts back."""


_FIRST_SECONDS = 1.0  # a first refusal counts as so long: it may come after a pause
_TICK = 0.001  # seconds; the rest of a token may be too little for a clock to tell


class Pace:
    """The pace of one socket.

    Args:
        rate: messages a second.
        burst: messages that may come at once after a pause.
    """

    __slots__ = ("_at", "_burst", "_rate", "_slowed", "_tokens", "_was_refused")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = trio.current_time()
        self._slowed = 0.0
        self._was_refused = False

    def adapt(self, rate: float, burst: int) -> None:
        """Take other limits from now on."""
        self._rate = rate
        self._burst = burst

    async def wait_turn(self) -> bool:
        """Wait until the next message may pass; False when the client has flooded for too long.

        Who waits does not read, so the client is slowed by its own TCP connection.
        """
        self._slowed = max(0.0, self._slowed - self._refill())
        if self._tokens < 1 and self._slowed >= FLOOD_SECONDS:
            return False
        while self._tokens < 1:
            await trio.sleep(max(_TICK, (1 - self._tokens) / self._rate))
            self._slowed += self._refill()
        self._tokens -= 1
        return True

    def take_turn(self) -> bool:
        """Whether the next message may pass now; one that may not is not waited for.

        The time before one that may not counts as that in which a client is slowed.
        """
        passed = self._refill()
        if self._tokens >= 1:
            self._tokens -= 1
            self._slowed = max(0.0, self._slowed - passed)
            self._was_refused = False
            return True
        self._slowed += passed if self._was_refused else min(passed, _FIRST_SECONDS)
        self._was_refused = True
        return False

    @property
    def is_flood(self) -> bool:
        """The client has not kept its pace for too long."""
        return self._slowed >= FLOOD_SECONDS

    def _refill(self) -> float:
        """Earn tokens; returns the seconds since the last time."""
        now = trio.current_time()
        passed, self._at = now - self._at, now
        self._tokens = min(self._burst, self._tokens + passed * self._rate)
        return passed
