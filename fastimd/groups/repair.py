"""Repairs what a subscription missed while its connection was away: reads it from the group's list.

A page is read at a time, and behind it a fence is put up, so that what has come live meanwhile is
told from it: see ``subscription.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from ..base.errors import KeyUnusable, StoreUnavailable
from ..base.metrics import Metrics
from .store.history import Gap, History, Position
from .store.keyspace import STEP
from .subscription import Subscription

REPAIRS_AT_ONCE = 32
PAUSE_SECONDS = 0.005
"""Between two pages of a repair; in it the members' connections can take the first."""

log = structlog.get_logger("fastimd.relay")


class Repairs:
    """Repairs subscriptions, a bounded number at a time.

    Args:
        fence: waits until all that was published before was handed on, or the connection broke.
        flush: awaited after each page was handed on.
        is_current: whether a subscription is still that of its group.
        lose: told of a subscription that cannot be repaired, as Redis refuses what concerns it.
    """

    def __init__(
        self,
        history: History,
        metrics: Metrics,
        *,
        fence: Callable[[], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
        is_current: Callable[[Subscription], bool],
        lose: Callable[[Subscription], None],
    ) -> None:
        self._history = history
        self._metrics = metrics
        self._fence = fence
        self._flush = flush
        self._is_current = is_current
        self._lose = lose
        self._limiter = trio.CapacityLimiter(REPAIRS_AT_ONCE)

    async def repair(self, subscription: Subscription) -> None:
        """Hand on what a subscription missed, and then what is held, until nothing is held."""
        repaired = 0
        is_first = True
        async with self._limiter:
            while subscription.held is not None and self._is_current(subscription):
                position = Position(
                    subscription.last_ts, subscription.last_entry, subscription.life
                )
                try:
                    gap = await self._history.after(subscription.group, position)
                except StoreUnavailable:
                    await trio.sleep(0.1)  # the other connection says why
                    continue
                except KeyUnusable:  # the log has said why
                    self._lose(subscription)
                    return
                await self._fence()
                if is_first and not gap.is_certain:
                    log.warning("relay.missed", group=subscription.group)
                    subscription.tell_missed()
                if is_first:
                    subscription.life = gap.life
                repaired += self._fill(subscription, gap, is_first=is_first)
                is_first = False
                await self._flush()
                await trio.sleep(PAUSE_SECONDS)
        self._metrics.gap_repairs += 1
        self._metrics.messages_repaired += repaired
        if repaired:
            log.info("relay.repaired", group=subscription.group, messages=repaired)

    def _fill(self, subscription: Subscription, gap: Gap, *, is_first: bool) -> int:
        """Hand on a page of a gap; returns how many messages it had."""
        messages = []
        for ts, message, entry in gap.messages:
            is_foreign = ts > gap.latest and ts > subscription.newest_ts + STEP
            if is_foreign:
                tell_foreign(self._metrics, subscription.group, ts)
            messages.append((0 if is_foreign else ts, message, entry))
        subscription.overheld, overheld = False, subscription.overheld
        more = gap.more or overheld
        # What is deleted while later pages are read is heard.
        removals = gap.removals if is_first else ()
        subscription.fill(messages, gap.end, more=more, removals=removals)
        return len(messages)


def tell_foreign(metrics: Metrics, group: str, ts: int) -> None:
    """Log and count a message whose ``ts`` is not taken for the measure of what is new."""
    metrics.foreign_ts += 1
    log.warning("relay.foreign_ts", group=group, message_ts=ts)
