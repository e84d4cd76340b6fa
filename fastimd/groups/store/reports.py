"""Messages that members have reported to the moderators of their group."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from ...base.codec import read_json
from ...redis import scripts
from ..moderation.bodies import Report
from .keyspace import Keyspace, list_keys, reports_key
from .seek import seek

MOST_REPORTS = 1000
REPORT_SECONDS = 30 * 86_400
"""How many reports of a group are kept, those of the newest messages, and for how long after the
last."""


class Reported(NamedTuple):
    """What became of a report; ``user`` is whose message it is, when it is new."""

    outcome: Literal["done", "known", "missing"]
    user: str = ""


class Reports:
    """The reports of all groups."""

    def __init__(self, keys: Keyspace) -> None:
        self._keys = keys

    async def add(self, group: str, ts: int, by: str, reason: str) -> Reported:
        """Keep a user's report of a message: the first one that this user makes of it."""
        outcome, *user = await self._add(group, ts, by, reason, b"")
        if outcome == b"elsewhere":
            entry = await seek(self._keys, group, "", ts)
            if entry is None:
                return Reported("missing")
            outcome, *user = await self._add(group, ts, by, reason, entry)
        told = outcome.decode()
        return Reported(told, *(each.decode(errors="replace") for each in user))  # type: ignore[arg-type]

    async def all(self, group: str) -> list[Report]:
        """The reports of a group's messages, by the ts of those."""
        key = self._keys.beside(group, reports_key(group))
        entries = await self._keys.call("ZRANGE", key, 0, -1)
        reports = []
        for entry in entries:
            try:
                reports.append(read_json(entry, Report))
            except ValueError as exc:
                self._keys.corrupt(reports_key(group), exc)
        return reports

    async def dismiss(self, group: str, ts: int) -> int:
        """Forget the reports of a message; returns how many there were."""
        key = self._keys.beside(group, reports_key(group))
        count: int = await self._keys.call("ZREMRANGEBYSCORE", key, ts, ts)
        return count

    async def _add(self, group: str, ts: int, by: str, reason: str, entry: bytes) -> list[bytes]:
        sent = self._keys.send(
            scripts.REPORT,
            (*list_keys(group), reports_key(group)),
            ts,
            entry,
            self._keys.believed(group),
            by,
            msgspec.json.encode({"reason": reason})[1:],
            MOST_REPORTS,
            REPORT_SECONDS,
        )
        found: list[bytes] = await self._keys.reply(sent, reports_key(group))
        return found
