"""What the moderators of groups have decided, as Redis has it.

A policy is one hash: ``slow`` has the seconds between two messages, ``all`` is there while only
moderators may write, ``mod:USER`` names each moderator; ``b:USER`` and ``m:USER`` are bans and
mutes. ``v`` is its version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import msgspec

from ...base.codec import MAX_TS
from ...base.errors import BadParameter
from ...redis import scripts
from ...redis.clients import RedisClient, SentScript
from ..events import PolicyChange
from .keyspace import Keyspace, endings_key, messages_key, policy_key, turn_key

MOST_FIELDS = 10_000
"""The most bans, mutes and moderators of a group together: a daemon reads them at once."""

BAN, MUTE, MODERATOR = "b:", "m:", "mod:"
"""How those fields begin; the user follows."""
SLOW, MUTE_ALL, _VERSION = "slow", "all", "v"


class Sentence(msgspec.Struct, frozen=True):
    """A ban or a mute.

    ``until`` is its end in milliseconds since the epoch, by the clock of Redis, 0 for none; ``by``
    is the moderator, "" for an operator.
    """

    until: Annotated[int, msgspec.Meta(ge=0, le=MAX_TS)]
    reason: str = ""
    by: str = ""


class Change(NamedTuple):
    """A field of a policy that is to be written, or, with the value "", dropped.

    ``seconds`` are those of a ban or a mute, whose value lacks its beginning.
    """

    field: str
    value: str = ""
    seconds: int | None = None


def sentence(field: str, seconds: int, reason: str, by: str) -> Change:
    """A ban or a mute, from now on; 0 seconds for no end."""
    rest = msgspec.json.encode({"reason": reason, "by": by})[1:]
    return Change(field, rest.decode(), seconds)


class Policies:
    """Reads and changes the policies of groups."""

    def __init__(self, keys: Keyspace, client: RedisClient) -> None:
        self._keys = keys
        self._client = client

    def has_passed(self, ts: int) -> bool:
        """Whether a moment is over, by the clock of Redis."""
        return self._client.clock.age(ts) > 0

    def send(self, group: str) -> SentScript:
        """Have a policy read before anything that is asked of Redis later."""
        return self._keys.send(scripts.POLICY, (messages_key(group), policy_key(group)))

    async def take(self, group: str, sent: SentScript) -> dict[str, str]:
        """Wait for the fields of a policy that was sent for."""
        reply = iter(await self._keys.reply(sent, policy_key(group)))
        fields = {}
        for field, value in zip(reply, reply, strict=True):
            try:
                fields[field.decode()] = value.decode()
            except UnicodeDecodeError as exc:
                self._keys.corrupt(policy_key(group), exc)
        return fields

    async def read(self, group: str) -> dict[str, str]:
        """The fields of a policy."""
        return await self.take(group, self.send(group))

    async def change(self, act: PolicyChange, changes: Iterable[Change]) -> None:
        """Change a policy, and tell every daemon.

        Raises:
            BadParameter: the group has too many bans, mutes and moderators.
        """
        event = msgspec.json.encode(act)[:-1]
        given = [
            each
            for change in changes
            for each in (
                change.field,
                "" if change.seconds is None else change.seconds,
                change.value,
            )
        ]
        sent = self._keys.send(
            scripts.MODERATE,
            (messages_key(act.group), policy_key(act.group), endings_key(act.group)),
            self._keys.removals_channel(act.group),
            event,
            MOST_FIELDS,
            *given,
        )
        if await self._keys.reply(sent, policy_key(act.group)) == -1:
            accepted = f"the group has {MOST_FIELDS} bans, mutes and moderators already"
            raise BadParameter("user" if act.user else "add", accepted)

    async def take_turn(self, group: str, user: str, seconds: int, nonce: str) -> int:
        """Take a user's turn in slow mode; returns milliseconds until it comes, 0 if it has."""
        keys = (turn_key(group, user),)
        wait: int = await self._keys.run(scripts.SLOW, keys, seconds, nonce)
        return wait

    def note_corrupt(self, group: str, failure: Exception) -> None:
        """Log and count a field that cannot be read."""
        self._keys.corrupt(policy_key(group), failure)


def version_of(fields: dict[str, str]) -> int:
    """The version of a policy, 0 without one."""
    text = fields.get(_VERSION, "")
    return int(text) if text.isdecimal() else 0
