"""Which groups each user is in."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
import trio

from ...base import codec
from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.settings import Config
from ...redis import scripts
from ...redis.clients import RedisClient, SentScript
from ...redis.connection import Connection
from ..events import EVENTS_CHANNEL, Event
from ..whispers import may_enter
from .keyspace import Keyspace, groups_key, marks_key

Joined: TypeAlias = Literal["joined", "member", "full"]

GROUPS_A_TURN = 2048
"""Ids of a user's groups that are read before other tasks get their turn."""


class Members:
    """Who is in which group."""

    def __init__(self, keys: Keyspace, client: RedisClient, config: Config) -> None:
        self._keys = keys
        self._client = client
        self._config = config

    async def join(self, group: str, user: str) -> Joined:
        """Put a user into a group; ``full`` when the user is in ``max_joined`` already."""
        return await self.joined(self.send_join(group, user))

    def send_join(self, group: str, user: str) -> SentScript:
        """Have a user put into a group before anything that is asked of Redis later."""
        return self._keys.send(
            scripts.JOIN,
            (groups_key(user),),
            codec.plain_unless_quoted(group),
            codec.wrap(group),
            EVENTS_CHANNEL,
            msgspec.json.encode(Event(group, user)),
            self._config.group.max_joined,
        )

    async def joined(self, call: SentScript) -> Joined:
        """Wait for the outcome of ``send_join``."""
        joined: int = await self._keys.reply(call)
        return "full" if joined < 0 else "joined" if joined else "member"

    async def leave(self, group: str, user: str) -> bool:
        """Take a user out of a group; False when it was in none such."""
        left: int = await self._keys.run(
            scripts.LEAVE,
            (groups_key(user), marks_key(user)),
            codec.plain_unless_quoted(group),
            codec.wrap(group),
            EVENTS_CHANNEL,
            msgspec.json.encode(Event(group, user, leave=True)),
        )
        return left == 1

    async def is_member(self, group: str, user: str) -> bool:
        """Tell whether a user is in a group."""
        forms = codec.plain_unless_quoted(group), codec.wrap(group)
        return any(await self._keys.call("SMISMEMBER", groups_key(user), *forms))

    async def groups_of(self, user: str) -> list[str]:
        """The groups a user is in, in no order, without those whose id does not let them in."""
        members = await self._keys.call("SMEMBERS", groups_key(user))
        return await self._read_groups(user, members)

    def connection_of(self, user: str) -> Connection | None:
        """Over which Redis is asked about a user's groups; None while its master is away."""
        return self._client.connection_of(groups_key(user))

    async def groups_of_each(
        self, users: list[str]
    ) -> list[list[str] | KeyUnusable | StoreUnavailable]:
        """The groups of each of ``users``, or why there are none, asked in one pipelined batch."""
        replies = await self._keys.call_many([("SMEMBERS", groups_key(user)) for user in users])
        groups: list[list[str] | KeyUnusable | StoreUnavailable] = []
        for user, members in zip(users, replies, strict=True):
            if isinstance(members, StoreUnavailable):
                groups.append(members)
            elif isinstance(members, Exception):
                groups.append(self._keys.refused(groups_key(user), members))
            else:
                groups.append(await self._read_groups(user, members))
        return groups

    async def _read_groups(self, user: str, members: list[bytes]) -> list[str]:
        """Members of a user's set as ids, without those that are none."""
        groups: dict[str, None] = {}
        for start in range(0, len(members), GROUPS_A_TURN):
            if start:
                await trio.lowlevel.checkpoint()
            for member in members[start : start + GROUPS_A_TURN]:
                try:
                    group = codec.read_group(member)
                except codec.CorruptEntry as exc:
                    self._keys.corrupt(groups_key(user), exc)
                    continue
                if may_enter(group, user):  # joined elsewhere, or before ids named their users
                    groups[group] = None
        return list(groups)
