"""The members of a group on this daemon that speak one dialect, and those that are arriving.

An arriving member hears nothing until its greeting was read; messages that come meanwhile are kept
with their ``ts``. The greeting then says up to which ``ts`` the member knows everything. Until the
first message newer than that goes by, or everything has that was published before the greeting was
read, it stands with the arrivals, and messages are chosen for it. So between the greeting and the
first live message nothing is missing and nothing comes twice.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

import trio

from ..base.errors import KeyUnusable, StoreUnavailable
from ..websocket.outbox import Outbox
from .gap import NO_GAP
from .store.history import Position
from .store.stand import Stand

Batch: TypeAlias = list[tuple[int, bytes]]
"""Messages as plain JSON, each with its ``ts``, which is 0 for a foreign one; and notices, each an
``Event`` as JSON; and what members are told of a gap, with ``GAP`` for a ``ts``."""


class Since(NamedTuple):
    """Up to where an arriving member knows a group already, by its own word."""

    epoch: str
    offset: int


class Greeting(NamedTuple):
    """What a member gets first.

    ``data`` are the bytes that are pushed, ``position`` says where it ends, ``foreign`` are the
    foreign messages in it; ``stand`` is what it was made of, for a dialect that answers each member
    in words of its own.
    """

    data: bytes
    position: Position
    foreign: frozenset[bytes]
    stand: Stand | None = None


class Dialect(Protocol):
    """How members are spoken to. Nothing is encoded for one member that is the same for all.

    Where it ``resumes``, members can come again, and are told whether they have missed something.
    """

    resumes: bool

    async def greet(self, group: str, since: Since | None) -> Greeting:
        """Read what an arriving member gets; those that arrive meanwhile and know as much share it.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read.
        """
        ...

    def encode(self, group: str, batch: Batch) -> list[bytes]:
        """A batch as whole frames, in order; without what it has no words for."""
        ...


class Arrival:
    """A member that was greeted, before it hears everything.

    ``known`` is the ``ts`` up to which it knows everything, ``texts`` the foreign messages and the
    notices that it knows. It has got what came before the message with the number ``since``;
    whatever comes from ``settled`` on is new to it, when that is known. ``fence`` is the number of
    the fence after which it is. ``gap`` is what it lacked and was left out, and is not told yet.
    """

    __slots__ = ("fence", "gap", "known", "settled", "since", "texts")

    def __init__(self, greeting: Greeting, since: int, fence: int) -> None:
        self.known = greeting.position.ts
        self.texts = greeting.foreign
        if greeting.stand is not None:
            self.texts = self.texts.union(greeting.stand.removals)
        self.since = since
        self.settled: int | None = None
        self.fence = fence
        self.gap = NO_GAP

    def lacks(self, ts: int, message: bytes) -> bool:
        """A message or a notice is not in the greeting; a ``ts`` of 0 is a foreign one's."""
        return ts > self.known if ts > 0 else message not in self.texts

    def choose(self, batch: Batch, first: int) -> tuple[list[int], bool]:
        """Which messages it lacks of a batch whose first one has the number ``first``.

        Returns:
            Where in the batch they stand, and whether all that come later are new to it.
        """
        is_settled = self.settled is not None
        chosen = []
        for number, (ts, message) in enumerate(batch, first):
            if number < self.since:
                continue
            if self.lacks(ts, message) or (self.settled is not None and number >= self.settled):
                chosen.append(number - first)
                is_settled = is_settled or ts > 0
        return chosen, is_settled


class Reading:
    """A greeting that is being read.

    ``result`` is it, or why there is none; None when its reader gave up.
    """

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.result: Greeting | StoreUnavailable | KeyUnusable | None = None


class Audience:
    """The members and arrivals of one group that speak one dialect."""

    __slots__ = ("arrivals", "dialect", "members", "readings")

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        # Each with how many messages the group had delivered when it became a member.
        self.members: dict[Outbox, int] = {}
        # Nothing before an arrival's greeting is read.
        self.arrivals: dict[Outbox, Arrival | None] = {}
        # What is being read, by what those it is for know already.
        self.readings: dict[Since | None, Reading] = {}

    async def greeting(self, group: str, since: Since | None) -> Greeting:
        """A greeting; those that come while one is read, and know as much, share it.

        What was said since it was read has come, or will, by the relay, and is kept for them.
        """
        while (reading := self.readings.get(since)) is not None:
            await reading.ended.wait()
            if isinstance(reading.result, Exception):
                raise reading.result
            if reading.result is not None:
                return reading.result
        self.readings[since] = reading = Reading()
        try:
            reading.result = greeting = await self.dialect.greet(group, since)
            return greeting
        except (StoreUnavailable, KeyUnusable) as exc:
            reading.result = exc
            raise
        finally:
            del self.readings[since]
            reading.ended.set()

    def promote(self, outbox: Outbox, delivered: int) -> None:
        """An arrival is a member from now on."""
        del self.arrivals[outbox]
        self.members[outbox] = delivered
