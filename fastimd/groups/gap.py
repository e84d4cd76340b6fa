"""What was left out of a room's live messages, as each member is told of it.

A gap stands in a batch before the first message that follows it. So whoever has heard a message
knows how many before it were left out, and can go on from there after a reconnection: nothing is
both passed over and untold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

GAP = -3
"""Stands for the ``ts`` of a gap in a batch, whose text is ``Gap.told``."""


class Gap(NamedTuple):
    """Messages that somebody was not given, one behind the other.

    ``missed`` is how many, ``first`` and ``last`` are their first and last ``ts``; 0 while all of
    them are foreign, which have none.
    """

    missed: int = 0
    first: int = 0
    last: int = 0

    def and_one(self, ts: int) -> Gap:
        """With one message more; ``ts`` is 0 when it is foreign."""
        return Gap(self.missed + 1, self.first or ts, max(self.last, ts))

    @property
    def told(self) -> bytes:
        """What members are told: ``{"missed":n,"from":ts,"to":ts}``, or without a ``ts``."""
        told = {"missed": self.missed}
        if self.first:
            told |= {"from": self.first, "to": self.last}
        return msgspec.json.encode(told)


NO_GAP = Gap()


def thin(
    batch: list[tuple[int, bytes]],
    passes: Sequence[bool] | None,
    gap: Gap,
    *,
    tells_all: bool = False,
) -> tuple[list[tuple[int, bytes]], Gap]:
    """What somebody is given of a batch.

    Args:
        passes: of each message whether it is given; None when all are.
        gap: what was left out before the batch, and is not told yet.
        tells_all: tell also what no message of the batch follows.

    Returns:
        The messages with the gaps between them, and what is left out and not told yet.
    """
    if passes is None and not gap.missed:
        return batch, gap
    given: list[tuple[int, bytes]] = []
    for number, message in enumerate(batch):
        if passes is not None and not passes[number]:
            gap = gap.and_one(message[0])
            continue
        if gap.missed:
            given.append((GAP, gap.told))
            gap = NO_GAP
        given.append(message)
    if tells_all and gap.missed:
        given.append((GAP, gap.told))
        gap = NO_GAP
    return given, gap
