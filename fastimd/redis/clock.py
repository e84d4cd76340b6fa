"""The clock of Redis, as well as it can be known from here.

A ``ts`` is of the clock of Redis, which may be minutes from this machine's own. So Redis is asked
for its time now and then: it was read between question and answer, and the shorter these lie apart,
the better it is known. An answer that took longer than a former one replaces it only when the two
contradict each other, or when the former has grown too old for clocks that drift.

A clock may be set back, and a fail-over may lead to a server whose clock is behind. For the order
of messages the latest time counts that Redis has shown, and what has passed since.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

DRIFT = 1e-4
"""Seconds by which two clocks may part in one second; crystals keep to a tenth of it."""


class RedisClock:
    """How long ago something was, by the clock of Redis; until that is known, by this machine's.

    Args:
        monotonic: a clock in seconds that nobody sets.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = time.time() - monotonic()
        self._doubt = math.inf
        self._learned_at = 0.0
        # How far the latest time that Redis can have shown is before the monotonic one, at least.
        self._shown = -math.inf
        self._shown_at = 0.0

    def now(self) -> float:
        """This machine's monotonic time, for ``learn``."""
        return self._monotonic()

    def age(self, ts: int) -> float:
        """Seconds since a ``ts``; never less than 0, for in a burst a ``ts`` runs ahead."""
        return max(0.0, self._monotonic() + self._offset - ts / 1000)

    def latest_shown(self) -> int:
        """The latest time that Redis is sure to have shown, in milliseconds since the epoch.

        It goes on while Redis is asked nothing, and is 0 before Redis was asked at all.
        """
        if self._shown == -math.inf:
            return 0
        now = self._monotonic()
        return int((now + self._shown - 2 * DRIFT * (now - self._shown_at)) * 1000)

    def learn(self, asked_at: float, seconds: float) -> None:
        """Take an answer that has come just now.

        Args:
            asked_at: what ``now`` said before Redis was asked.
            seconds: what Redis said, since the epoch.
        """
        now = self._monotonic()
        self._shown = max(seconds - now, self._shown - 2 * DRIFT * (now - self._shown_at))
        self._shown_at = now
        doubt = (now - asked_at) / 2
        offset = seconds - (asked_at + now) / 2
        known = self._doubt + (now - self._learned_at) * DRIFT
        if doubt <= known or abs(offset - self._offset) > doubt + known:
            self._offset = offset
            self._doubt = doubt
            self._learned_at = now
