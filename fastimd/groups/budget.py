"""A room's budget: how many deliveries a group may have in a second on this daemon.

Theory of operation: a bucket fills with ``room.max_deliveries_per_second`` and holds what flows
into it in a second. A message costs as many deliveries as the group has members here. What finds
too little is left out before it is parsed or encoded, so that it costs the daemon no more than
its reading. A message of high priority always passes, and may leave the bucket in debt, for a
second at most. Of a batch the newest messages pass: all leave in one write, and whoever has to
skip some is best off where the talk is now. From batch to batch the bucket fills evenly, and so
messages pass evenly.

The budget may be more than the machine can do. Then each round of deliveries would take longer
than the one before, while more and more waits behind it, urgent messages too. So a round has a
limit, which is learned as a TCP sender learns its window: it is doubled while rounds that need it
take less than half of ``ROUND_SECONDS``, and cut by how much a round took longer than that. What
is beyond it is left out as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..base.codec import has_high_priority
from ..websocket.outbox import Outbox
from .gap import NO_GAP, Gap
from .subscription import NOTICE

ROUND_SECONDS = 0.25
"""How long a flush may take. A message that comes during one waits for its end, then for half as
long while the relay gathers (``GATHER_SHARE``), and is delivered in the next: within 0.7 seconds.
"""

BATCHES_A_SECOND = 1000
"""Batches that the relay hands on in a second, at most: each gathers for ``GATHER_SECONDS``."""

FIRST_ROUND = 200_000
"""Deliveries that a round may have before it is known how long they take."""

LEAST_ROUND = 20_000
"""Deliveries that a round may always have: a long round of fewer was held up by something else."""


class Rounds:
    """How many deliveries a round may have, so that it takes no longer than it may."""

    def __init__(self) -> None:
        self.limit: float = FIRST_ROUND

    def note(self, deliveries: int, seconds: float) -> None:
        """A round has had so many deliveries, and has taken so long."""
        if seconds > ROUND_SECONDS:
            self.limit = max(LEAST_ROUND, deliveries * ROUND_SECONDS / seconds)
        elif seconds < ROUND_SECONDS / 2 and (
            self.limit < FIRST_ROUND or deliveries >= self.limit / 2
        ):
            self.limit *= 2

    def share(self, deliveries: float) -> float:
        """How much of what is wanted a round may have, from 0 to 1."""
        return min(1.0, self.limit / deliveries) if deliveries else 1.0


class Budget:
    """What a group may have, and what its members were not given.

    ``gap`` is what was left out and is not told yet, for all members but those in ``late``, who
    have come meanwhile and miss something else. ``left_out`` are the numbers of the group's recent
    messages that were left out, for those who are being greeted. ``tells_all`` asks that the next
    flush tell everything. ``messages`` and ``deliveries`` were left out since ``shedding_since``;
    ``shed_at`` is when that was last the case, ``untold_since`` since when it is not told.
    """

    __slots__ = (
        "_burst",
        "_filled_at",
        "_tokens",
        "cost",
        "deliveries",
        "gap",
        "late",
        "left_out",
        "messages",
        "share",
        "shed_at",
        "shedding_since",
        "tells_all",
        "untold_since",
    )

    def __init__(self) -> None:
        self._tokens = math.inf
        self._burst = math.inf
        self._filled_at = 0.0
        self.cost = 0
        self.share = 1.0
        self.gap = NO_GAP
        self.late: dict[Outbox, Gap] = {}
        self.left_out: set[int] = set()
        self.tells_all = False
        self.messages = self.deliveries = 0
        self.shedding_since: float | None = None
        self.shed_at = 0.0
        self.untold_since: float | None = None

    def fill(self, rate: int, cost: int, now: float) -> float:
        """Let flow in what has since the last time.

        Args:
            rate: deliveries a second, 0 for any number.
            cost: deliveries that each message means.
            now: seconds of any clock that nobody sets.

        Returns:
            How many deliveries there may be now.
        """
        self.cost = cost
        if not rate:
            self._tokens = self._burst = math.inf
        else:
            # A message to more members than the rate allows in a second passes now and then.
            self._burst = max(rate, cost)
            flown_in = (now - self._filled_at) * rate
            self._tokens = min(self._burst, self._tokens + flown_in)
        self._filled_at = now
        return max(0.0, self._tokens)

    @property
    def is_full(self) -> bool:
        """Nothing is missing in the bucket: a new one would be the same."""
        return self._tokens >= self._burst

    def take(self, deliveries: int) -> None:
        """Take deliveries out, though there may be too few: then it is in debt for a second."""
        self._tokens = max(self._tokens - deliveries, -self._burst)

    def choose(self, batch: Sequence[tuple[int, bytes]]) -> list[bool] | None:
        """Which of a group's messages pass, after ``fill``; None when all do."""
        if not self.cost:  # nobody is there
            return None
        if len(batch) * self.cost <= self._tokens and self.share >= 1:
            self.take(len(batch) * self.cost)
            return None
        passes = [ts == NOTICE or has_high_priority(message) for ts, message in batch]
        low = passes.count(False)
        urgent = sum(
            [passed and ts != NOTICE for passed, (ts, _) in zip(passes, batch, strict=True)]
        )
        self.take(urgent * self.cost)
        room = math.ceil(low * self.share)
        if self._tokens < room * self.cost:
            room = int(max(0.0, self._tokens) // self.cost)
        self.take(room * self.cost)
        if room == low:
            return None
        for number in range(len(passes) - 1, -1, -1):
            if not room:
                break
            if not passes[number]:
                passes[number] = True
                room -= 1
        return passes

    def note_member(self, outbox: Outbox, gap: Gap) -> None:
        """Somebody is a member from now on, who was not given ``gap`` and was not told so."""
        if gap != self.gap:
            self.late[outbox] = gap
