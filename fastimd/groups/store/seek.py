"""Finds a message that is not where its ``ts`` belongs in the list."""

from __future__ import annotations

from ...redis import scripts
from .keyspace import Keyspace, messages_key

SEEK_PAGE = 1000
SEEK_PAGES = 100
"""How many entries are looked through at once, and how often."""


async def seek(keys: Keyspace, group: str, user: str, ts: int) -> bytes | None:
    """The entry of a message that is not where its ts belongs, if there is one."""
    stop: int | str = ""
    for _ in range(SEEK_PAGES):
        stop, entry = await keys.run(
            scripts.SEEK, (messages_key(group),), user, ts, stop, SEEK_PAGE
        )
        if entry is not None or not stop:
            return entry  # type: ignore[no-any-return]
    return None
