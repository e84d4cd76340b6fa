"""Up to when a connection is known to have brought what was published.

A connection may be dead and not seem so: that is found out by a probe after several seconds. Some
of what is published must not be missed so long. Redis answers in order, so the answer to a PING
shows that all has been heard that was published before the PING was sent. One is sent a few times
in a second, and what was heard counts as the truth for less than a second after that moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

HEAR_SECONDS = 0.25
"""From one PING to the next."""
SURE_SECONDS = 0.8
"""For how long nothing of importance can have been missed that is not known."""


class Hearing:
    """One connection's; ``until`` is the moment, by ``time.monotonic``, up to which it is sure."""

    __slots__ = ("_is_over", "until")

    def __init__(self, until: float = -math.inf) -> None:
        self.until = until
        self._is_over = False

    @property
    def is_sure(self) -> bool:
        """All has been heard that was published until a moment ago."""
        return monotonic() < self.until

    def begin(self) -> Callable[[bool], None]:
        """A PING is sent now: returns what is to be told whether it was answered."""
        asked_at = monotonic()

        def note(answered: bool) -> None:
            if answered and not self._is_over:
                self.until = asked_at + SURE_SECONDS

        return note

    def end(self) -> None:
        """The connection is gone; it is never sure again."""
        self._is_over = True
        self.until = -math.inf


DEAF = Hearing()
"""No connection's."""
