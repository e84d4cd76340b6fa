"""Where a group stands, by which clients of the live wire go on where they were.

A position is a ``ts`` and the *epoch*, which names a life of the group's list: when Redis has lost
it, the next one has another. Where one master follows another, an epoch is of one reign: a replica
that takes over may lack what the last master had told.
"""

from __future__ import annotations

import secrets
from itertools import count
from typing import NamedTuple

from ...base.codec import CorruptEntry
from ...base.settings import Config
from ...redis import scripts
from ...redis.clients import RedisClient
from ...redis.replies import Reply
from ...redis.scripts import Script
from ...redis.wire import Argument
from .history import Position
from .keyspace import Keyspace, life_key, list_keys, messages_key, removals_key

LEAST_LIFE_SECONDS = 86_400
"""How long an epoch is kept at least after somebody has asked for it."""


_NO_LIFE = "-"
"""What is the id of no life."""


class Stand(NamedTuple):
    """Where a group stands.

    ``foreign`` are the foreign messages of ``messages``. When ``is_recovered``, ``messages`` are
    those after what the client knew, each with its ts and as plain JSON, oldest first; and
    ``removals`` are the deletions since, as events.
    """

    epoch: str
    position: Position
    is_recovered: bool
    messages: list[tuple[int, bytes]]
    removals: list[bytes]
    foreign: frozenset[bytes]


class HistoryPage(NamedTuple):
    """Some of a group's messages, each with its ts, or 0 if that is foreign, and as plain JSON.

    ``is_of_epoch`` is False when the position that was asked for is of another life.
    """

    epoch: str
    offset: int
    is_of_epoch: bool
    messages: list[tuple[int, bytes]]


class Stands:
    """Reads where groups stand."""

    def __init__(self, keys: Keyspace, client: RedisClient, config: Config) -> None:
        self._keys = keys
        self._client = client
        self._config = config
        # Ids of new lives: of this daemon, and each another.
        self._run = secrets.token_hex(6)
        self._numbers = count(1)

    async def read(self, group: str, epoch: str = "", offset: int | None = None) -> Stand:
        """Where a group stands, and, with an offset, what was missed since."""
        key, floor = list_keys(group)
        settings = self._config
        told, found = await self._ask(
            scripts.STAND,
            (key, floor, life_key(group), removals_key(group)),
            group,
            epoch,
            "" if offset is None else offset,
            settings.live.recover_limit,
            settings.socket.outbox_bytes,
        )
        id_, ts, latest, tail, is_recovered, entries, removals = found
        messages = self._told(group, entries, latest)
        foreign = frozenset(message for ts, message in messages if not ts)
        return Stand(
            told,
            Position(ts, tail, id_.decode()),
            is_recovered == 1,
            messages,
            removals,
            foreign,
        )

    async def history(
        self, group: str, epoch: str, since: int | None, limit: int, *, reverse: bool
    ) -> HistoryPage:
        """Messages after a ts, or before it, newest first, when it is ``reverse``.

        A page of more than ``socket.outbox_bytes`` ends before ``limit``.
        """
        key, floor = list_keys(group)
        told, found = await self._ask(
            scripts.HISTORY,
            (key, floor, life_key(group)),
            group,
            epoch,
            "" if since is None else since,
            int(reverse),
            limit,
            self._config.socket.outbox_bytes,
        )
        _, ts, latest, is_of_epoch, entries = found
        messages = self._told(group, entries, latest)
        return HistoryPage(told, ts, is_of_epoch == 1, messages)

    def note_corrupt(self, group: str, failure: CorruptEntry) -> None:
        """Log and count a message that looked like one, and cannot be read."""
        self._keys.corrupt(messages_key(group), failure)

    async def _ask(
        self, script: Script, keys: tuple[str, ...], group: str, epoch: str, *arguments: Argument
    ) -> tuple[str, Reply]:
        """Run a script; returns the epoch as clients are told it, and the reply."""
        while True:
            reign = self._client.reign_of(keys[0])
            of_reign = f"-{reign}" if reign else ""
            is_of_reign = not epoch or epoch.endswith(of_reign)
            life = epoch.removesuffix(of_reign) if is_of_reign else _NO_LIFE
            found = await self._keys.run(script, keys, *self._common(group), life, *arguments)
            if self._client.reign_of(keys[0]) == reign:  # else the reply may be of either
                return f"{found[0].decode()}{of_reign}", found

    def _common(self, group: str) -> tuple[int, str, int]:
        kept = max(2 * self._config.group_message.timeout, LEAST_LIFE_SECONDS)
        return self._keys.believed(group), f"{self._run}{next(self._numbers):x}", kept

    def _told(self, group: str, entries: list[bytes], latest: int) -> list[tuple[int, bytes]]:
        return [
            (0 if ts > latest else ts, message)
            for ts, message in self._keys.readable(group, entries)
        ]
