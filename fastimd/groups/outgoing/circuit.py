"""Whether the backend is spoken with: while it takes nothing, it gets one request at a time."""

from __future__ import annotations

import math
import random

OPENS_AFTER = 3
"""After so many failures, with nothing taken between, the backend counts as away."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds until the next attempt, at most; each pause may be twice the one before."""


class Circuit:
    """Counts what the backend takes and does not take, of all groups together.

    ``since`` is when it was away first, by the clock of Trio; None while it is not.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.next_at = -math.inf
        """When it may be tried again while it is away."""
        self._failures = 0
        self._is_tried = False

    @property
    def is_away(self) -> bool:
        """It takes nothing."""
        return self.since is not None

    def may_begin(self, now: float) -> bool:
        """Whether something may be sent now."""
        return self.since is None or (now >= self.next_at and not self._is_tried)

    def begin(self) -> None:
        """Something will be sent; ``end``, ``fail`` or ``succeed`` says what came of it."""
        self._is_tried = True

    def end(self) -> None:
        """Nothing more is sent by who has begun."""
        self._is_tried = False

    def fail(self, now: float) -> bool:
        """It was not taken; returns whether what was sent before it was."""
        self._failures += 1
        self._is_tried = False
        if self._failures >= OPENS_AFTER:
            self.since = now if self.since is None else self.since
            self.next_at = now + pause(self._failures - OPENS_AFTER)
        return self._failures == 1

    def succeed(self) -> float | None:
        """It was taken; returns since when the backend was away until now, if it was."""
        since, self.since = self.since, None
        self._failures = 0
        return since


def pause(failures: int) -> float:
    """How long to wait after so many further failures."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 16))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret
