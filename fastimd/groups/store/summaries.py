"""What a group list shows of groups, asked of many at once."""

from __future__ import annotations

from typing import NamedTuple

from ...base import codec
from ...base.errors import KeyUnusable, StoreUnavailable
from ...redis import scripts
from ...redis.clients import RedisClient, SentScript
from ...redis.connection import Connection
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
    """Asks about many groups in one pipelined batch.

    A key that cannot be used counts as a list without messages; of a group whose master is away
    nothing is known, and an answer about it is a ``StoreUnavailable`` instance.
    """

    def __init__(self, keys: Keyspace, client: RedisClient) -> None:
        self._keys = keys
        self._client = client

    def connection_of(self, group: str) -> Connection | None:
        """Over which Redis is asked about a group; None while its master is away."""
        return self._client.connection_of(messages_key(group))

    async def states(self, groups: list[str]) -> list[GroupState | StoreUnavailable]:
        """What a group list shows of each of ``groups``.

        Nearly always all of a group is of one moment; a message that comes between is told by the
        relay.
        """
        keys = [messages_key(group) for group in groups]
        replies = await self._keys.call_many(
            [
                command
                for key in keys
                for command in (("LINDEX", key, -1), ("LLEN", key), ("PTTL", key))
            ]
        )
        latest = self._client.clock.latest_shown() + AHEAD
        states: list[GroupState | StoreUnavailable] = []
        peeks: list[tuple[int, GroupState, SentScript]] = []
        for group, key, *answers in zip(
            groups, keys, *(replies[start::3] for start in range(3)), strict=True
        ):
            refusal = next((each for each in answers if isinstance(each, Exception)), None)
            if isinstance(refusal, StoreUnavailable):
                states.append(refusal)
            elif refusal is not None:
                self._keys.refused(key, refusal)
                states.append(NO_MESSAGES)
            else:
                state = self._group_state(group, *answers)
                if state.position.entry and not 0 < state.position.ts <= latest:
                    peeks.append((len(states), state, self._peek(group)))
                states.append(state)
        for number, state, peek in peeks:
            states[number] = await self._with_newest_ts(state, peek)
        return states

    async def totals(self, groups: list[str]) -> list[int | StoreUnavailable]:
        """How many messages each of ``groups`` has."""
        keys = [messages_key(group) for group in groups]
        totals = await self._keys.call_many([("LLEN", key) for key in keys])
        for number, total in enumerate(totals):
            if isinstance(total, Exception) and not isinstance(total, StoreUnavailable):
                self._keys.refused(keys[number], total)
                totals[number] = 0
        return totals

    def _peek(self, group: str) -> SentScript:
        """Ask for the ts of a group's newest message that is not foreign."""
        return self._keys.send(scripts.PEEK, list_keys(group), self._keys.believed(group))

    async def _with_newest_ts(
        self, state: GroupState, peek: SentScript
    ) -> GroupState | StoreUnavailable:
        """A state with that ts, or 0."""
        try:
            *_, ts = await self._keys.reply(peek)
        except KeyUnusable:
            ts = 0
        except StoreUnavailable as exc:
            return exc
        return state._replace(position=state.position._replace(ts=int(ts)))

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
