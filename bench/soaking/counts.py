"""The judge of a soak: holds what members heard and what was acknowledged against the lists.

A message has an id, which is its talker and the number that the talker gave it. What a member hears
of a group is kept in stretches: within one, nothing may be missing. A stretch ends with the
connection, unless its client comes back to hear that it has ``recovered``.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeAlias

EXAMPLES = 20
"""How many broken promises are told in full."""

Stored: TypeAlias = tuple[int, int]
"""The ts and the id of a message in a list."""


def message_id(talker: int, number: int) -> int:
    """The id of a talker's ``number``th message."""
    return talker << 32 | number


def write_text(message: int, filler: str = "") -> str:
    """The text of a message."""
    return f"{message >> 32} {message & 0xFFFFFFFF} {filler}"


def read_text(text: str) -> int:
    """The id of the message with this text.

    Raises:
        ValueError: nobody has said that.
    """
    talker, number, _ = text.split(" ", 2)
    return message_id(int(talker), int(number))


class Stretch:
    """What a member heard of a group, in the order in which it came, from after ``since`` on.

    ``is_open`` says that the member is still there: it must have heard all that is stored.
    """

    __slots__ = ("ids", "is_open", "member", "since", "ts")

    def __init__(self, member: str, since: int, *, is_open: bool = False) -> None:
        self.member = member
        self.since = since
        self.is_open = is_open
        self.ts = array("q")
        self.ids = array("Q")

    @property
    def end(self) -> int:
        """The newest ts that was heard."""
        return self.ts[-1] if self.ts else self.since

    def hear(self, ts: int, message: int) -> None:
        """A message has come."""
        self.ts.append(ts)
        self.ids.append(message)


@dataclass
class Spoken:
    """What became of the messages of a group, as their talkers were told.

    ``acknowledged`` has when, in milliseconds of the wall clock; ``refused`` were answered with an
    error that says they are not stored; of ``unknown`` nothing was told before the connection
    ended; ``swallowed`` are those of which nothing was told though a later one came back.
    """

    acknowledged: dict[int, int] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    swallowed: list[int] = field(default_factory=list)


@dataclass
class Counts:
    """How many messages there were, and of how many a promise was broken.

    ``lost_to_fail_over`` and ``gone_in_fail_over`` were acknowledged or heard around a fail-over,
    which may lose what the replica had not.
    """

    said: int = 0
    stored: int = 0
    heard: int = 0
    unknown: int = 0
    refused: int = 0
    lost: int = 0
    stored_twice: int = 0
    heard_twice: int = 0
    missed: int = 0
    disordered: int = 0
    refused_and_stored: int = 0
    heard_and_not_stored: int = 0
    swallowed: int = 0
    lost_to_fail_over: int = 0
    gone_in_fail_over: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, int]:
        """The promises that were broken, and how often."""
        return {name: getattr(self, name) for name in PROMISES if getattr(self, name)}

    def add(self, other: Counts) -> None:
        """Count those of another group, too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        del self.examples[EXAMPLES:]

    def note(self, kind: str, what: str) -> None:
        """Count a broken promise."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {what}")


PROMISES = (
    *("lost", "stored_twice", "heard_twice", "missed", "disordered"),
    *("refused_and_stored", "heard_and_not_stored", "swallowed"),
)


def judge(
    group: str,
    stored: Sequence[Stored],
    spoken: Spoken,
    stretches: Iterable[Stretch],
    fail_overs: Sequence[tuple[int, int]] = (),
) -> Counts:
    """Count what became of the messages of a group.

    Args:
        stored: its list.
        fail_overs: from when to when, in milliseconds of the wall clock, a master may have lost
            what it had taken.
    """
    counts = Counts(said=len(spoken.acknowledged), stored=len(stored))
    counts.unknown, counts.refused = len(spoken.unknown), len(spoken.refused)
    times = Counter(message for _, message in stored)
    for message, often in times.items():
        if often > 1:
            counts.note("stored_twice", f"{_name(message)} in {group}, {often} times")
    for (before, _), (ts, message) in itertools.pairwise(stored):
        if ts <= before:
            counts.note("disordered", f"{_name(message)} in the list of {group}: {ts} <= {before}")
    for message, moment in spoken.acknowledged.items():
        if message in times:
            continue
        if _is_within(moment, fail_overs):
            counts.lost_to_fail_over += 1
        else:
            counts.note("lost", f"{_name(message)} in {group}, acknowledged at {moment}")
    for message in spoken.refused:
        if message in times:
            counts.note("refused_and_stored", f"{_name(message)} in {group}")
    for message in spoken.swallowed:
        counts.note("swallowed", f"{_name(message)} in {group}")
    by_ts = dict(stored)
    for stretch in stretches:
        _judge_stretch(counts, group, stored, by_ts, stretch, fail_overs)
    return counts


def _judge_stretch(
    counts: Counts,
    group: str,
    stored: Sequence[Stored],
    by_ts: dict[int, int],
    stretch: Stretch,
    fail_overs: Sequence[tuple[int, int]],
) -> None:
    where = f"{stretch.member} in {group} since {stretch.since}"
    counts.heard += len(stretch.ts)
    before, heard = stretch.since, set[int]()
    for ts, message in zip(stretch.ts, stretch.ids, strict=True):
        if message in heard:
            counts.note("heard_twice", f"{_name(message)} at {ts} by {where}")
        elif ts <= before:
            counts.note("disordered", f"{_name(message)} at {ts} behind {before} by {where}")
        if by_ts.get(ts) != message:
            if _is_within(ts, fail_overs):
                counts.gone_in_fail_over += 1
            else:
                counts.note("heard_and_not_stored", f"{_name(message)} at {ts} by {where}")
        heard.add(message)
        before = max(before, ts)
    first = bisect_right(stored, stretch.since, key=lambda each: each[0])
    end = len(stored) if stretch.is_open else bisect_right(stored, before, key=lambda each: each[0])
    for ts, message in stored[first:end]:
        if message not in heard:
            counts.note("missed", f"{_name(message)} at {ts} by {where}")


def _is_within(moment: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= moment <= end for start, end in spans)


def _name(message: int) -> str:
    return write_text(message).strip().replace(" ", "/")
