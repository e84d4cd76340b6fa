"""Messages that moderators delete: anybody's, however old."""

from __future__ import annotations

import msgspec
import trio

from ...base.settings import Config
from ...redis import scripts
from .keyspace import Keyspace, life_key, list_keys, removals_key, reports_key
from .seek import seek

PART = 200
"""Entries of a list that are looked through at once, so that Redis is not held up."""
PAUSE_SECONDS = 0.002
"""Between two parts; in it Redis serves others."""


class Removals:
    """Deletes messages of groups."""

    def __init__(self, keys: Keyspace, config: Config) -> None:
        self._keys = keys
        self._config = config

    async def delete(self, group: str, ts: int) -> str | None:
        """Delete a message; returns whose it was, None when there is none."""
        outcome, *user = await self._delete(group, ts, b"")
        if outcome == b"elsewhere":
            entry = await seek(self._keys, group, "", ts)
            if entry is None:
                return None
            outcome, *user = await self._delete(group, ts, entry)
        return user[0].decode(errors="replace") if outcome == b"done" else None

    def deletion_of(self, group: str, user: str) -> Deletion:
        """Begin to delete all messages of a user that are there now."""
        return Deletion(self._keys, self._config, group, user)

    async def _delete(self, group: str, ts: int, entry: bytes) -> list[bytes]:
        found: list[bytes] = await self._keys.run(
            scripts.DELETE,
            _keys_of(group),
            ts,
            entry,
            self._keys.believed(group),
            self._keys.removals_channel(group),
            msgspec.json.encode({"group": group})[:-1] + b',"user":',
            self._config.group_message.timeout,
        )
        return found


class Deletion:
    """The deletion of all messages of a user in a group, part by part of the list, from its end on.

    ``count`` is how many were deleted so far. When it is cut off, another one deletes the rest.
    """

    def __init__(self, keys: Keyspace, config: Config, group: str, user: str) -> None:
        self._keys = keys
        self._config = config
        self._group = group
        self._user = user
        self._stop: int | str = ""
        self._event = msgspec.json.encode({"group": group, "user": user})[:-1] + b',"ts":'
        self.count = 0

    @property
    def is_over(self) -> bool:
        """Nothing is left to be looked through."""
        return self._stop == 0

    async def run(self) -> None:
        """Delete what is left."""
        while not self.is_over:
            if self._stop:
                await trio.sleep(PAUSE_SECONDS)
            self._stop, count = await self._keys.run(
                scripts.DELETE_OF,
                _keys_of(self._group),
                self._user,
                self._stop,
                PART,
                self._keys.believed(self._group),
                self._keys.removals_channel(self._group),
                self._event,
                self._config.group_message.timeout,
            )
            self.count += count


def _keys_of(group: str) -> tuple[str, ...]:
    return (*list_keys(group), life_key(group), removals_key(group), reports_key(group))
