"""What the backend is still to be told: the events of each group in a queue, and its messages.

The messages are in the group's list anyway, so of them only that is kept up to where they were
told. A group's events and messages are told by one daemon at a time, which holds them for a lease.
The groups that may have something to tell are noted in a few parts, so that daemons find what a
killed one has left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias
from zlib import crc32

from ...base import codec
from ...base.settings import Config
from ...redis import scripts
from .keyspace import Keyspace, list_keys, messages_key, out_key, told_key

PARTS = 16
"""Over how many keys the groups are spread that may have something to tell."""
BATCH_MESSAGES = 100
BATCH_BYTES = 256 * 1024
"""How much of a group's messages is told at once."""
SWEPT = 2000
"""How many groups of a part are looked through at once."""
_KEPT_LONGER_MS = 3_600_000
"""How much longer Redis keeps what it knows of a group than any event of it."""

Kind: TypeAlias = Literal["event", "messages", "again", ""]


class Waiting(NamedTuple):
    """An event in its queue: ``place`` is where it stands there."""

    place: bytes
    name: str
    id: str
    body: bytes


class Batch(NamedTuple):
    """Messages: those after ``before``, up to ``newest``.

    ``last`` is the last entry that was read for it.
    """

    before: int
    newest: int
    last: bytes
    messages: list[codec.Message]


class Turn(NamedTuple):
    """What is to be told next of a group.

    When another daemon tells it, ``held_for`` is for how many seconds at least, and nothing else is
    known. ``waiting`` is how much does, ``age`` the seconds since the first of it happened.
    ``dropped`` are the types of events that were too old, ``is_gap`` says that messages were
    trimmed. With neither ``event`` nor ``batch`` all was told, unless there is ``more``.
    """

    held_for: float = 0.0
    waiting: int = 0
    age: float = 0.0
    dropped: Sequence[str] = ()
    is_gap: bool = False
    event: Waiting | None = None
    batch: Batch | None = None
    more: bool = False


class Found(NamedTuple):
    """A group that may have something to tell; ``idle`` is the seconds since it was noted."""

    group: str
    noted: bytes
    idle: float


class Queues:
    """What is to be told of all groups.

    Args:
        config: which events there are, how old one may be and how long a queue.
    """

    def __init__(self, keys: Keyspace, config: Config) -> None:
        self._keys = keys
        self._config = config
        self._tells_messages = "message" in config.hooks.webhook_events
        self._oldest_ms = int(config.hooks.webhook_keep_seconds * 1000)
        self._kept_ms = self._oldest_ms + _KEPT_LONGER_MS

    async def register(self, groups: Iterable[str]) -> None:
        """Note that groups may have something to tell: others find it, if this daemon is killed.

        Raises:
            StoreUnavailable, KeyUnusable: it may not have been noted.
        """
        parts: dict[int, list[str]] = {}
        for group in groups:
            parts.setdefault(part_of(group), []).append(group)
        calls = [
            self._keys.send(scripts.REGISTER, (_part_key(part),), self._kept_ms, *some)
            for part, some in parts.items()
        ]
        for call in calls:
            await self._keys.reply(call)

    async def note(self, group: str, known: int | None) -> int:
        """Note from where on a group's messages are to be told; returns the ts before that.

        Args:
            known: up to where this daemon knows that they were told, in case that Redis lost it.

        Raises:
            StoreUnavailable, KeyUnusable: it may not have been noted.
        """
        told = await self._keys.run(
            scripts.NOTE,
            (*list_keys(group), told_key(group)),
            self._keys.believed(group),
            "" if known is None else known,
            self._kept_ms,
        )
        return int(told)

    async def push(self, group: str, name: str, number: str, body: bytes) -> list[str]:
        """Put an event into its group's queue; returns the types of those that found no place.

        Raises:
            StoreUnavailable, KeyUnusable: it may not be there.
        """
        dropped = await self._keys.reply(
            self._keys.send(
                scripts.PUSH,
                (*list_keys(group), out_key(group)),
                self._keys.believed(group),
                self._config.hooks.webhook_queue,
                self._kept_ms,
                *(name, number, body),
            ),
            out_key(group),
        )
        return [each.decode(errors="replace") for each in dropped]

    async def take(
        self,
        group: str,
        holder: str,
        lease: float,
        known: int | None = None,
        told: Waiting | Batch | None = None,
    ) -> Turn:
        """Hold what is to be told of a group, and take what comes next.

        Args:
            known: as for ``note``.
            told: what was taken before, and was told now.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be told now.
        """
        done: tuple[str | bytes | int, ...] = ("",)
        if isinstance(told, Waiting):
            done = "event", told.place
        elif told is not None:
            done = "messages", told.newest, told.last
        reply = await self._keys.reply(
            self._keys.send(
                scripts.TAKE,
                (*list_keys(group), told_key(group), out_key(group)),
                holder,
                int(lease * 1000),
                self._kept_ms,
                self._oldest_ms,
                int(self._tells_messages),
                self._keys.believed(group),
                "" if known is None else known,
                self._config.group_message.max_length,
                BATCH_MESSAGES,
                BATCH_BYTES,
                *done,
            ),
            told_key(group),
        )
        if reply[0] == -1:
            return Turn(held_for=max(0.001, int(reply[1]) / 1000))
        waiting, age, dropped, is_gap, kind, *rest = reply
        return Turn(
            waiting=waiting,
            age=age / 1000,
            dropped=[each.decode(errors="replace") for each in dropped],
            is_gap=is_gap == 1,
            event=_event(rest) if kind == b"event" else None,
            batch=self._batch(group, rest) if kind == b"messages" else None,
            more=kind == b"again",
        )

    async def give(self, group: str, holder: str) -> None:
        """Give back what is to be told of a group, if it is held.

        Raises:
            StoreUnavailable, KeyUnusable: it may still be held, for the rest of the lease.
        """
        # With the list before it, beside which it lies.
        await self._keys.run(scripts.GIVE, (list_keys(group)[0], told_key(group)), holder)

    async def sweep(self, part: int, pause: float, dice: int) -> list[Found]:
        """The groups of a part that may have something to tell.

        Args:
            pause: the seconds in which no other daemon looks through the same part.
            dice: a number by which some are chosen when there are too many.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be told now.
        """
        key = _part_key(part)
        reply: list[bytes] = await self._keys.run(
            scripts.SWEEP, (key,), int(pause * 1000), SWEPT, dice
        )
        now, pairs = reply[0] if reply else b"0", iter(reply[1:])
        found = []
        for group, noted in zip(pairs, pairs, strict=True):
            try:
                idle = (int(now) - int(noted)) / 1000
                found.append(Found(group.decode(), noted, idle))
            except ValueError as exc:  # somebody else has written there
                self._keys.corrupt(key, exc)
        return found

    async def unregister(self, found: Found) -> None:
        """Note that a group has nothing to tell, unless it was noted again.

        Raises:
            StoreUnavailable, KeyUnusable: it may still be noted.
        """
        key = _part_key(part_of(found.group))
        await self._keys.run(scripts.UNREGISTER, (key,), found.group, found.noted)

    def _batch(self, group: str, rest: Sequence[bytes | list[bytes]]) -> Batch:
        before, newest, entries = rest
        assert isinstance(entries, list)
        assert isinstance(before, bytes)
        assert isinstance(newest, bytes)
        messages = []
        for entry in entries:
            try:
                messages.append(codec.decode_message(entry))
            except codec.CorruptEntry as exc:
                self._keys.corrupt(messages_key(group), exc)
        return Batch(int(before), int(newest), entries[-1], messages)


def part_of(group: str) -> int:
    """The part in which a group is noted."""
    return crc32(group.encode()) % PARTS


def _part_key(part: int) -> str:
    return f"fastimd:outgroups:{part}"


def _event(rest: Sequence[bytes]) -> Waiting:
    place, name, number, body = rest
    shown = re.sub(rb"[^!-~]", b"?", number or place).decode()  # others may have written there
    return Waiting(place, name.decode(errors="replace"), shown, body)
