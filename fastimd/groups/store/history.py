"""What was said in a group, read in pages."""

from __future__ import annotations

from typing import NamedTuple

from ...base import codec
from ...base.settings import Config
from ...redis import scripts
from ...redis.clients import RedisClient
from .keyspace import AHEAD, Keyspace, life_key, list_keys, messages_key, removals_key
from .seek import seek

PAGE = 200
"""Messages read at once; a longer history is read in pages, so that it holds nobody up."""
GAP_BYTES = 256 * 1024
"""Bytes of messages read at once to repair a gap: they go to every member's outbox together."""


class Position(NamedTuple):
    """Up to where a group is known.

    ``ts`` is that of the newest message that is not foreign, 0 when there is none; ``entry`` is the
    newest entry of the list as it is stored, b"" when there is none. ``life`` is the id of the
    list's life, "" when that was not asked for.
    """

    ts: int = 0
    entry: bytes = b""
    life: str = ""


class Tail(NamedTuple):
    """The newest messages of a group, of one moment.

    ``messages`` are plain JSON, oldest first, ``total`` is how many the list has, ``position`` says
    where it ends; ``foreign`` are the foreign messages of ``messages``.
    """

    messages: list[bytes]
    total: int
    position: Position
    foreign: frozenset[bytes]


class GroupLook(NamedTuple):
    """A group as an operator sees it.

    ``total`` is the list's length, ``messages`` its last ones as plain JSON, oldest first,
    ``expires_in`` as in ``GroupState``.
    """

    total: int
    messages: list[bytes]
    expires_in: float | None


class Gap(NamedTuple):
    """Messages that somebody missed.

    ``messages`` are each one's ts, plain JSON and entry, oldest first; ``end`` is the last entry
    that was read, though it may be no message; ``latest`` is the latest ts that is not foreign;
    ``removals`` are the deletions since, as events. Unless it ``is_certain``, more was missed that
    is gone without such a word: the list was lost, or trimmed. ``life`` is the id of its life.
    """

    messages: list[tuple[int, bytes, bytes]]
    end: bytes
    latest: int
    more: bool
    removals: list[bytes]
    is_certain: bool = True
    life: str = ""


class Pages:
    """A range of a group's messages, oldest first, read in pages of at most ``PAGE``.

    ``messages`` is the page that was read last.
    """

    def __init__(
        self,
        history: History,
        keys: Keyspace,
        group: str,
        first: int,
        last: int,
        entries: list[bytes],
    ) -> None:
        self._history = history
        self._keys = keys
        self._group = group
        self._left = last - first + 1
        self._index = first - 1
        self._entry = b""
        self.messages: list[bytes] = []
        self._take(self._index, entries)

    @property
    def is_complete(self) -> bool:
        """There are no more pages."""
        return self._left <= 0

    async def read_on(self) -> None:
        """Read the next page."""
        index, entries = await self._history.next_page(
            self._group, self._index, self._entry, self._left
        )
        self._take(index, entries)

    def _take(self, index: int, entries: list[bytes]) -> None:
        self.messages = [message for _, message in self._keys.readable(self._group, entries)]
        self._left = self._left - len(entries) if entries else 0
        self._index = index + len(entries)
        self._entry = entries[-1] if entries else b""


class History:
    """Reads the messages of groups."""

    def __init__(self, keys: Keyspace, client: RedisClient, config: Config) -> None:
        self._keys = keys
        self._client = client
        self._config = config

    def age(self, ts: int) -> float:
        """Seconds since a message got its ``ts``, by the clock of Redis; at least 0."""
        return self._client.clock.age(ts)

    def latest(self) -> int:
        """The latest ts that is not foreign in any group, by the clock of Redis."""
        shown = self._client.clock.latest_shown()
        return shown + AHEAD if shown else codec.MAX_TS

    async def tail(self, group: str) -> Tail:
        """The last ``list_num`` messages and the list's length, of one moment."""
        count = self._config.group_message.list_num
        total, ts, latest, entries = await self._keys.run(
            scripts.TAIL, list_keys(group), self._keys.believed(group), count
        )
        position = Position(ts, entries[-1] if entries else b"")
        found = self._keys.readable(group, entries if count else [])
        foreign = frozenset(message for ts, message in found if ts > latest)
        return Tail([message for _, message in found], total, position, foreign)

    async def range(self, group: str, first: int, last: int) -> Pages:
        """Messages by list index as LRANGE takes it: both inclusive, negatives from the end."""
        found = await self._keys.run(scripts.RANGE, (messages_key(group),), first, last, PAGE)
        return Pages(self, self._keys, group, *found)

    async def before(self, group: str, user: str, ts: int, count: int) -> Pages:
        """The ``count`` messages just before the one of ``user`` at ``ts``."""
        keys, believed = list_keys(group), self._keys.believed(group)
        *found, is_there = await self._keys.run(
            scripts.BEFORE, keys, user, ts, b"", believed, count, PAGE
        )
        if not is_there and (entry := await seek(self._keys, group, user, ts)) is not None:
            *found, _ = await self._keys.run(
                scripts.BEFORE, keys, user, ts, entry, believed, count, PAGE
            )
        return Pages(self, self._keys, group, *found)

    async def next_page(
        self, group: str, index: int, entry: bytes, longest: int
    ) -> tuple[int, list[bytes]]:
        """The entries after one that was at ``index``; returns where it is now, and them."""
        try:
            ts = codec.read_entry(entry)[0]
        except codec.CorruptEntry:
            ts = 0
        found = await self._keys.run(
            scripts.NEXT, (messages_key(group),), index, entry, ts, min(longest, PAGE)
        )
        return found[0], found[1]

    async def after(self, group: str, position: Position) -> Gap:
        """The first messages after a position."""
        more, latest, entries, removals, is_certain, life = await self._keys.run(
            scripts.AFTER,
            (*list_keys(group), removals_key(group), life_key(group)),
            position.entry,
            position.ts,
            self._keys.believed(group),
            PAGE,
            GAP_BYTES,
            position.life,
        )
        messages = [
            (ts, message, entry)
            for entry in entries
            for ts, message in self._keys.readable(group, [entry])
        ]
        end = entries[-1] if entries else b""
        return Gap(messages, end, latest, more == 1, removals, is_certain == 1, life.decode())

    async def look(self, group: str, count: int) -> GroupLook:
        """How many messages a group has, the last ``count`` of them, and how long they live."""
        key = messages_key(group)
        total, _, _, entries = await self._keys.run(
            scripts.TAIL, list_keys(group), self._keys.believed(group), count
        )
        expires_in = await self._client.call("PTTL", key)
        shown = entries[-count:] if count else []
        messages = [message for _, message in self._keys.readable(group, shown)]
        return GroupLook(total, messages, expires_in / 1000 if expires_in >= 0 else None)
