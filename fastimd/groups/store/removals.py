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

    async def delete_all_of(self, group: str, user: str) -> int:
        """Delete all messages of a user that are there now; returns how many there were.

        When it is cut off, some may be deleted: it can be done again.
        """
        stop: int | str = ""
        deleted = 0
        begun = msgspec.json.encode({"group": group, "user": user})[:-1] + b',"ts":'
        while stop != 0:
            if stop:
                await trio.sleep(PAUSE_SECONDS)
            stop, count = await self._keys.run(
                scripts.DELETE_OF,
                self._keys_of(group),
                user,
                stop,
                PART,
                self._keys.believed(group),
                self._keys.removals_channel(group),
                begun,
                self._config.group_message.timeout,
            )
            deleted += count
        return deleted

    async def _delete(self, group: str, ts: int, entry: bytes) -> list[bytes]:
        found: list[bytes] = await self._keys.run(
            scripts.DELETE,
            self._keys_of(group),
            ts,
            entry,
            self._keys.believed(group),
            self._keys.removals_channel(group),
            msgspec.json.encode({"group": group})[:-1] + b',"user":',
            self._config.group_message.timeout,
        )
        return found

    def _keys_of(self, group: str) -> tuple[str, ...]:
        return (*list_keys(group), life_key(group), removals_key(group), reports_key(group))
