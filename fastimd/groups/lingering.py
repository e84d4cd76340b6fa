"""Subscriptions that nobody listens to, which are kept for a moment.

A client that comes back at once costs Redis nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import trio

from .subscription import Subscription

LINGER_SECONDS = 5.0
DROPPED_A_TURN = 256
"""Channels that are dropped before other tasks get their turn."""


class Lingering:
    """They stand in the order in which they became idle."""

    def __init__(self) -> None:
        self._idle: dict[bytes, Subscription] = {}

    def add(self, subscription: Subscription) -> None:
        """Nobody listens any more."""
        subscription.idle_since = trio.current_time()
        self._idle[subscription.channel] = subscription

    def remove(self, subscription: Subscription) -> None:
        """Somebody does, or it is gone."""
        self._idle.pop(subscription.channel, None)

    def drop_some(self, drop: Callable[[Subscription], None]) -> bool:
        """Drop some that were idle for long enough; False when there are no more."""
        now = trio.current_time()
        first = list(islice(self._idle.values(), DROPPED_A_TURN))
        for subscription in first:
            if now - subscription.idle_since < LINGER_SECONDS:
                return False
            self.remove(subscription)
            drop(subscription)
        return bool(first)
