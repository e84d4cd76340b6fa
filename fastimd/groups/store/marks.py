"""Read marks: up to where a user has read each group, and how much is behind that.

The marks of a user are one sorted set, which lies beside the set of the user's groups: each group
with the ``ts`` up to which it was read. What is behind that is counted in the group's list, by
bisection.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...base import codec
from ...base.errors import KeyUnusable
from ...base.settings import Config
from ...redis import scripts
from ...redis.clients import SentScript
from .keyspace import Keyspace, groups_key, list_keys, marks_key, messages_key
from .summaries import GroupState

MOST_MARKS = 10_000
"""How many marks of a user are kept: those with the latest ``ts``."""


class Marks:
    """Moves read marks, and counts what is unread."""

    def __init__(self, keys: Keyspace, config: Config) -> None:
        self._keys = keys
        self._config = config

    async def move(self, group: str, user: str, ts: int) -> None:
        """Note that a user has read a group up to ``ts``, or up to its end if that is earlier.

        A mark does not go back. All of a user's are forgotten when none was moved or asked for in
        the time for which messages are kept.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be noted.
        """
        *_, newest = await self._keys.run(
            scripts.PEEK, list_keys(group), self._keys.believed(group)
        )
        mark = min(ts, newest)
        if mark > 0:  # else nothing is there to be read
            await self._keys.run(
                scripts.MARK,
                (groups_key(user), marks_key(user)),
                codec.plain_unless_quoted(group),
                mark,
                self._config.group_message.timeout,
                MOST_MARKS,
            )

    async def of(self, user: str, groups: Sequence[str]) -> dict[str, int]:
        """A user's marks in at most some thousand groups, without those that have none."""
        if not groups:
            return {}
        found: list[int] = await self._keys.run(
            scripts.MARKS,
            (groups_key(user), marks_key(user)),
            self._config.group_message.timeout,
            *map(codec.plain_unless_quoted, groups),
        )
        return {group: mark for group, mark in zip(groups, found, strict=True) if mark}

    def count_unread(self, group: str, state: GroupState, mark: int) -> Unread:
        """Have counted how many messages of a group are behind a mark; without one, 0, all are."""
        newest = state.position.ts
        if not 0 < mark < newest:
            return Unread(self._keys, 0 if mark >= newest else state.total)
        believed = max(self._keys.believed(group), newest)
        call = self._keys.send(scripts.UNREAD, (messages_key(group),), mark, believed)
        return Unread(self._keys, state.total, call)


class Unread:
    """A count of what is unread, which is there or has been asked for.

    What has no ``ts`` that can be believed counts as read with the message before it.
    """

    __slots__ = ("_call", "_count", "_keys")

    def __init__(self, keys: Keyspace, count: int, call: SentScript | None = None) -> None:
        self._keys = keys
        self._count = count
        self._call = call

    async def count(self) -> int:
        """Wait for it, once; it is of a later moment than the state, and never more than all.

        Raises:
            StoreUnavailable: Redis is away.
        """
        if self._call is None:
            return self._count
        try:
            found: int = await self._keys.reply(self._call)
        except KeyUnusable:  # it was a list a moment ago
            return 0
        return min(self._count, found)
