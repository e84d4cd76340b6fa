"""Messages as they are written: said, recalled, purged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from ...base import codec
from ...base.errors import BadParameter
from ...base.settings import Config
from ...redis import scripts
from ...redis.batch import Nonce, OnAppended, OnTold, Place, Told
from ...redis.clients import RedisClient
from ..events import Event
from .keyspace import NONCES, Keyspace, life_key, list_keys, nonces_key, place, removals_key
from .seek import seek

NONCE_BYTES = 64
"""The longest nonce: Redis keeps many of them."""


SERVER_NONCES = 100_000
"""How many a group remembers of backends: what 300 messages a second need."""


class Appends(Protocol):
    """Takes appends; as ``Appender``."""

    def append(
        self, place: Place, prefix: bytes, on_appended: OnAppended | Told, within: float = math.inf
    ) -> None:
        """Queue one append."""
        ...


class Messages:
    """Writes the messages of groups. ``appends`` takes them."""

    def __init__(self, keys: Keyspace, client: RedisClient, config: Config) -> None:
        self.appends: Appends = client.appender
        self._keys = keys
        self._client = client
        self._config = config

    def append(
        self,
        group: str,
        user: str,
        info: str,
        on_appended: OnAppended,
        *,
        tags: Mapping[str, str] | None = None,
        within: float = math.inf,
    ) -> None:
        """Send a message; ``on_appended`` is called with None when it is in Redis, else why not.

        Args:
            within: seconds in which it must have left for Redis; else it is taken back.
        """
        prefix = codec.message_prefix(group, user, info, tags)
        self.appends.append(place(group), prefix, on_appended, within)

    def append_told(
        self,
        group: str,
        user: str,
        info: str,
        on_told: OnTold,
        *,
        nonce: str = "",
        of_server: bool = False,
        tags: Mapping[str, str] | None = None,
        within: float = math.inf,
    ) -> None:
        """Send a message whose ``ts`` is to be told.

        Args:
            on_told: called with None and the ``ts`` when the message is in Redis, else with why not
                and None. Where Redis's reply was lost only a nonce leads to the ``ts``: without one
                it is None.
            nonce: what the user calls the message. With the same one in the same group, on any
                daemon and within five minutes, it is the same message: it is stored once, and its
                ``ts`` is told each time, even if it was recalled or purged meanwhile. The last
                1,024 of a user in a group are remembered.
            of_server: the nonce is a backend's, in whosever name it speaks; 100,000 are remembered.
            within: as for ``append``.

        Raises:
            BadParameter: the nonce is too long.
        """
        text = nonce.encode(errors="surrogatepass")
        if len(text) > NONCE_BYTES:
            raise BadParameter("nonce", f"must be at most {NONCE_BYTES} bytes of UTF-8")
        prefix = codec.message_prefix(group, user, info, tags)
        told = Told(on_told, _nonce(group, "" if of_server else user, text) if text else None)
        self.appends.append(place(group), prefix, told, within)

    @property
    def unanswered(self) -> int:
        """How many appends have no answer of Redis yet."""
        appender = self._client.appender
        return appender.unanswered + appender.room.kept

    async def wait_all_answered(self) -> None:
        """Wait until the fate of every append is known."""
        while self.unanswered:
            await self._client.appender.room.wait_answer()

    @property
    def has_room(self) -> bool:
        """Not too many appends are under way."""
        return self._client.appender.has_room

    async def wait_room(self) -> None:
        """Wait while more appends are under way than may wait."""
        await self._client.appender.wait_room()

    async def recall(self, group: str, user: str, ts: int) -> Literal["done", "old", "missing"]:
        """Delete the user's own message, if it is not older than ``recall_time_limit``."""
        outcome = await self._recall(group, user, ts, b"")
        if outcome == "elsewhere":
            entry = await seek(self._keys, group, user, ts)
            outcome = "missing" if entry is None else await self._recall(group, user, ts, entry)
        return outcome  # type: ignore[return-value]

    async def _recall(self, group: str, user: str, ts: int, entry: bytes) -> str:
        outcome: bytes = await self._keys.run(
            scripts.RECALL,
            (*list_keys(group), life_key(group), removals_key(group)),
            user,
            ts,
            entry,
            self._keys.believed(group),
            self._config.group_message.recall_time_limit * 1000,
            self._keys.removals_channel(group),
            msgspec.json.encode(Event(group, user, ts)),
            self._config.group_message.timeout,
        )
        return outcome.decode()

    async def purge(self, group: str) -> int:
        """Delete all messages of a group; returns how many there were. What is no list stays."""
        deleted: int = await self._keys.run(
            scripts.PURGE,
            (*list_keys(group), life_key(group), removals_key(group)),
            self._keys.believed(group),
            self._keys.removals_channel(group),
            msgspec.json.encode(Event(group, "", 0))[:-1] + b',"until":',
            self._config.group_message.timeout,
        )
        return deleted


def _nonce(group: str, user: str, text: bytes) -> Nonce:
    """What a user, or with "" a backend, calls a message."""
    return Nonce(nonces_key(group, user), text, NONCES if user else SERVER_NONCES)
