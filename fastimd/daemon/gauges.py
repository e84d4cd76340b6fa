"""What a scrape shows of groups and of Redis as they are now."""

from __future__ import annotations

import trio

from ..base.metrics import Metrics
from ..groups.hub import Hub
from ..groups.presence.presence import Presence
from ..groups.relays import GroupRelay
from ..groups.store import Store
from ..redis.clients import RedisClient


def add_gauges(
    metrics: Metrics,
    client: RedisClient,
    store: Store,
    relay: GroupRelay,
    hub: Hub,
    presence: Presence,
) -> None:
    """Have them shown."""
    metrics.add_gauge("groups", "Groups with members here.", lambda: hub.groups)
    metrics.add_gauge(
        "members", "Connections in groups here, once a group.", lambda: presence.connections
    )
    metrics.add_gauge("subscriptions", "Channels subscribed.", lambda: relay.subscriptions)
    metrics.add_gauge(
        "held_messages", "Appends without an answer.", lambda: store.messages.unanswered
    )
    metrics.add_gauge("tasks", "Living tasks.", _living_tasks)
    metrics.add_divided_gauge(
        "redis_masters",
        "Masters of Redis, by whether they can be spoken with.",
        "state",
        client.count_masters,
    )
    metrics.add_divided_gauge(
        "redis_up",
        "Whether Redis can be used, by what for.",
        "purpose",
        lambda: {"commands": client.last_error is None, "messages": relay.last_error is None},
    )


def _living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living
