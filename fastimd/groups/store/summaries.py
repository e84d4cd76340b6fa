"""What a group list shows of groups, asked of many at once."""

from __future__ import annotations

from typing import NamedTuple

from ...base import codec
from ...base.errors import KeyUnusable
from ...redis import scripts
from ...redis.clients import RedisClient
from .history import Position
from .keyspace import AHEAD, Keyspace, list_keys, messages_key


class GroupState(NamedTuple):
    """What a group list shows of a group.

    ``summary`` is its JSON, ``expires_in`` the seconds until the list expires, None when it does
    not. The ``ts`` of ``position`` is that of its newest message that is not foreign, or 0.
    ``total`` and ``newest`` are what ``summary`` is made of.
    """

    summary: bytes
    position: Position
    expires_in: float | None
    total: int = 0
    newest: bytes | None = None


NO_MESSAGES = GroupState(codec.group_summary(None, 0), Position(), None)


class Summaries:
    """Asks about many groups in one pipelined batch."""

    def __init__(self, keys: Keyspace, client: RedisClient) -> None:
        self._keys = keys
        self._client = client

    async def states(self, groups: list[str]) -> list[GroupState]:
        """What a group list shows of each of ``groups``, asked in one pipelined batch.

        A key that cannot be used counts as a list without messages. Nearly always all of a group
        is of one moment; a message that comes between is told by the relay.
        """
        keys = [messages_key(group) for group in groups]
        replies = await self._client.call_many(
            [
                command
                for key in keys
                for command in (("LINDEX", key, -1), ("LLEN", key), ("PTTL", key))
            ]
        )
        latest = self._client.clock.latest_shown() + AHEAD
        states = []
        for group, key, *answers in zip(
            groups, keys, *(replies[start::3] for start in range(3)), strict=True
        ):
            refusal = next((each for each in answers if isinstance(each, Exception)), None)
            if refusal is not None:
                self._keys.refused(key, refusal)
                states.append(NO_MESSAGES)
                continue
            state = self._group_state(group, *answers)
            newest = state.position
            if newest.entry and not 0 < newest.ts <= latest:
                newest = newest._replace(ts=await self._newest_ts(group))
                state = state._replace(position=newest)
            states.append(state)
        return states

    async def totals(self, groups: list[str]) -> list[int]:
        """How many messages each of ``groups`` has, asked in one pipelined batch.

        A key that cannot be used counts as a list without messages.
        """
        keys = [messages_key(group) for group in groups]
        totals = []
        for key, total in zip(
            keys, await self._client.call_many([("LLEN", key) for key in keys]), strict=True
        ):
            if isinstance(total, Exception):
                self._keys.refused(key, total)
            totals.append(0 if isinstance(total, Exception) else total)
        return totals

    async def _newest_ts(self, group: str) -> int:
        """The ts of a group's newest message that is not foreign, or 0."""
        try:
            *_, ts = await self._keys.run(
                scripts.PEEK, list_keys(group), self._keys.believed(group)
            )
        except KeyUnusable:
            return 0
        return int(ts)

    def _group_state(
        self, group: str, newest: bytes | None, total: int, expires_in: int
    ) -> GroupState:
        readable = self._keys.readable(group, [newest]) if newest and total else []
        ts, message = readable[0] if readable else (0, None)
        return GroupState(
            codec.group_summary(message, total),
            Position(ts, newest or b""),
            expires_in / 1000 if expires_in >= 0 else None,
            total,
            message,
        )
