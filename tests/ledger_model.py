"""What ledger.lua and daemons.lua do, told in Python; times are in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastimd.groups.store.ledgers import KEPT_SECONDS, LEASE_SECONDS, Noted

LEASE, KEPT = LEASE_SECONDS * 1000, KEPT_SECONDS * 1000


@dataclass
class Kept:
    """One ledger."""

    holder: str
    ends: float
    visits: dict[str, Noted] = field(default_factory=dict)


@dataclass
class LedgerModel:
    """All ledgers, and when each daemon was last noted."""

    ledgers: dict[str, Kept] = field(default_factory=dict)
    daemons: dict[str, int] = field(default_factory=dict)

    def lose(self) -> None:
        """FLUSHALL."""
        self.ledgers.clear()
        self.daemons.clear()

    def keep(
        self,
        daemon: str,
        holder: str,
        begun: Sequence[Noted],
        over: Iterable[str],
        now: float,
        *,
        takes: bool,
    ) -> int | None:
        """As the script."""
        kept = self.ledgers.get(daemon)
        if kept is not None and kept.ends + KEPT < now:
            kept = None
        if kept is None:
            kept = self.ledgers[daemon] = Kept(holder, 0)
        elif kept.holder != holder and (not takes or kept.ends >= now):
            return None
        kept.holder, kept.ends = holder, now + LEASE
        for each in begun:
            kept.visits[each.connection_id] = each
        for number in over:
            kept.visits.pop(number, None)
        return len(kept.visits)

    def list(self, living: Iterable[str], now: float) -> dict[str, int]:
        """As the script."""
        for daemon in living:
            self.daemons[daemon] = int(now)
        self.daemons = {each: at for each, at in self.daemons.items() if at > now - KEPT}
        return dict(self.daemons)
