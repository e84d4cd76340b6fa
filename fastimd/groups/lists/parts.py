"""Long sequences by parts, with a turn for other tasks between, and in the order of a list."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import trio

GROUPS_A_TURN = 4096
"""Groups that are sorted, or written into a list, before other tasks get their turn."""

Subject = TypeVar("Subject")


def parts(subjects: Sequence[Subject], size: int) -> Iterator[list[Subject]]:
    """Parts of at most ``size``."""
    for start in range(0, len(subjects), size):
        yield list(subjects[start : start + size])


async def let_others(part: Sequence[object]) -> None:
    """Let other tasks have their turn after a whole part of many; after a few nobody waits."""
    if len(part) == GROUPS_A_TURN:
        await trio.lowlevel.checkpoint()


async def newest_first(subjects: list[Subject], moment: Callable[[Subject], int]) -> list[Subject]:
    """Sort by descending ``moment``.

    Many are first parted, at bounds that a sample gives, and then sorted part by part.
    """
    if len(subjects) <= GROUPS_A_TURN:
        return sorted(subjects, key=moment, reverse=True)
    sample = sorted(map(moment, subjects[::16]))
    bounds = sample[GROUPS_A_TURN // 16 :: GROUPS_A_TURN // 16]
    buckets: list[list[Subject]] = [[] for _ in range(len(bounds) + 1)]
    for some in parts(subjects, GROUPS_A_TURN):
        for subject in some:
            buckets[bisect_left(bounds, moment(subject))].append(subject)
        await trio.lowlevel.checkpoint()
    in_order: list[Subject] = []
    for part in reversed(buckets):
        part.sort(key=moment, reverse=True)
        in_order += part
        await trio.lowlevel.checkpoint()
    return in_order
