"""The keys, and how they are asked: what Redis refuses for one key names that key.

``StoreUnavailable`` is raised when Redis is away, and ``KeyUnusable`` when Redis refuses what
concerns the key of one group or one user: it has another type, or must not be touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import structlog
from redis import exceptions

from ...base import codec
from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.metrics import Metrics
from ...redis.batch import Place
from ...redis.clients import RedisClient, SentScript
from ...redis.refusal import key_unusable
from ...redis.replies import Reply
from ...redis.scripts import Script
from ...redis.wire import Argument
from ..events import EVENTS_CHANNEL

AHEAD = 60_000
STEP = 2_000
"""Milliseconds by which a ``ts`` may be ahead of the clock of Redis, and of the newest that is
known in its group: a burst runs ahead of the clock, one by one. Whatever is later is *foreign*:
somebody else wrote it. It is shown, and never taken for the measure of what is new."""

NONCE_SECONDS = 300
NONCES = 1024
"""How long a nonce is remembered, and how many of a user in a group: what three messages a second
need in that time."""

log = structlog.get_logger("fastimd.store")


def channel_of(group: str) -> str:
    """The pub/sub channel of a group's new messages."""
    return f"mq:{group}"


class Keyspace:
    """Commands and scripts on keys, each on those of one group or one user."""

    def __init__(self, client: RedisClient, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics

    async def call(self, command: str, key: str, *arguments: Argument) -> Reply:
        """A command on a key of one group or one user."""
        try:
            return await self._client.call(command, key, *arguments)
        except exceptions.ResponseError as exc:
            raise key_unusable(self._metrics, key, exc) from exc

    async def call_many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Commands on keys of many groups or users, asked in one pipelined batch.

        Returns:
            The reply to each, in order, or Redis's refusal of it, or a ``StoreUnavailable``.
        """
        try:
            return await self._client.call_many(commands)
        except StoreUnavailable as exc:
            return [exc] * len(commands)

    async def run(self, script: Script, keys: tuple[str, ...], *arguments: Argument) -> Reply:
        """A script on keys of one group or one user; the first is the one that is named."""
        return await self.reply(self.send(script, keys, *arguments))

    def send(self, script: Script, keys: tuple[str, ...], *arguments: Argument) -> SentScript:
        """Send a script on such keys; ``reply`` waits for its reply."""
        return self._client.send_script(script, keys, *arguments)

    async def reply(self, call: SentScript, key: str = "") -> Reply:
        """Wait for the reply to a script that was sent; ``key`` is named instead of the first."""
        try:
            return await call.reply()
        except exceptions.ResponseError as exc:
            raise key_unusable(self._metrics, key or str(call.keys[0]), exc) from exc

    def removals_channel(self, group: str) -> str:
        """Where it is told what became of messages of a group."""
        return self._client.channel_beside(messages_key(group), channel_of(group)) or EVENTS_CHANNEL

    def beside(self, group: str, key: str) -> str:
        """What a key is called that scripts have beside a group's list."""
        return self._client.channel_beside(messages_key(group), key) or key

    async def count_listeners(self, channel: str, told: int) -> int:
        """How many listen to a channel, when Redis has told so many."""
        return await self._client.count_listeners(channel, told)

    def refused(self, key: str, refusal: Exception) -> KeyUnusable:
        """Log and count what Redis refuses for a key; returns it as an error of ours."""
        return key_unusable(self._metrics, key, refusal)

    def readable(self, group: str, entries: list[bytes]) -> list[tuple[int, bytes]]:
        """Entries of a list as messages with their ts, without those that are none."""
        messages = []
        for entry in entries:
            try:
                messages.append(codec.read_entry(entry))
            except codec.CorruptEntry as exc:
                self.corrupt(messages_key(group), exc)
        return messages

    def believed(self, group: str) -> int:
        """The latest ts that is not foreign in a group, by all that is known here."""
        heard = self._client.appender.heard(place(group).channel)
        return max(self._client.clock.latest_shown() + AHEAD, heard + STEP)

    def corrupt(self, key: str, failure: Exception) -> None:
        """Log and count an entry that cannot be read."""
        self._metrics.corrupt_entries += 1
        log.warning("store.corrupt_entry", key=key, error=str(failure))


def messages_key(group: str) -> str:
    """The list of a group's messages."""
    return f"gml:{group}"


def floor_key(group: str) -> str:
    """What the next ``ts`` of a group must be above."""
    return f"fastimd:floor:{group}"


def life_key(group: str) -> str:
    """The life of a group's list, by which clients that come back know whether all is there."""
    return f"fastimd:life:{group}"


def removals_key(group: str) -> str:
    """What was deleted from a group, for clients that are away."""
    return f"fastimd:removals:{group}"


def policy_key(group: str) -> str:
    """What the moderators of a group have decided."""
    return f"fastimd:policy:{group}"


def endings_key(group: str) -> str:
    """Those of the decisions that end, by their end."""
    return f"fastimd:endings:{group}"


def reports_key(group: str) -> str:
    """Messages of a group that members have reported, by the ts of each."""
    return f"fastimd:reports:{group}"


def told_key(group: str) -> str:
    """Up to where the backend was told a group's messages, and which daemon tells it now."""
    return f"fastimd:told:{group}"


def out_key(group: str) -> str:
    """The events of a group that the backend is still to be told."""
    return f"fastimd:out:{group}"


def turn_key(group: str, user: str) -> str:
    """When a user last spoke in a group in slow mode; see ``nonces_key``."""
    return f"fastimd:turn:{len(group)}:{group}:{user}"


def nonces_key(group: str, user: str) -> str:
    """What a user's messages in a group were called lately.

    An id may have any sign that could part two ids, so the length of the first stands before it.
    """
    return f"fastimd:nonces:{len(group)}:{group}:{user}"


@lru_cache(maxsize=16_384)
def place(group: str) -> Place:
    """Where a group's appends go."""
    return Place(messages_key(group), floor_key(group), life_key(group), channel_of(group).encode())


def list_keys(group: str) -> tuple[str, str]:
    """What a script about a group's messages takes: the list and its floor."""
    here = place(group)
    return here.list_key, here.floor_key


def groups_key(user: str) -> str:
    """The set of a user's groups."""
    return f"ugs:{user}"


def marks_key(user: str) -> str:
    """Up to where a user has read groups, by group; it lies beside ``groups_key``."""
    return f"fastimd:read:{user}"


def login_key(user: str) -> str:
    """A user's token."""
    return f"login:{user}"
