"""The events of this daemon on their way to the backend, and what killed daemons have left."""

from __future__ import annotations

import random
from contextlib import suppress

import structlog
import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.metrics import Metrics
from ...base.settings import Config
from ...hooks.outgoing import MESSAGE, Event
from ...hooks.runner import HookRunner
from ...redis.clients import RedisClient
from ...redis.room import Room
from ..store import Store
from ..store.queues import PARTS, Found, Queues
from .delivery import Delivery, Send
from .noting import Noted, NotingAppends

SWEEP_SECONDS = 16.0
"""In which a daemon looks through all groups that may have something to tell."""
SWEPT_SECONDS = 12.0
"""For how long no other daemon looks through the same part of them."""
IDLE_SECONDS = 120.0
"""How long after it was noted a group with nothing to tell is forgotten; besides, messages may have
been held that long for Redis."""

log = structlog.get_logger("fastimd.events")


class Outgoing:
    """Takes events, and delivers them.

    Args:
        room: where messages are counted that wait for their group to be noted.
        send: as for ``Delivery``.
    """

    def __init__(
        self, store: Store, room: Room, send: Send, config: Config, metrics: Metrics
    ) -> None:
        self._queues: Queues = store.queues
        self._metrics = metrics
        self._delivery = Delivery(store.queues, send, config, metrics)
        self._delivery.on_idle = self._note_idle
        self._noted = Noted()
        self._idle_seconds = IDLE_SECONDS + config.redis.hold_seconds
        self._appends: NotingAppends | None = None
        if MESSAGE in config.hooks.webhook_events:
            self._appends = store.messages.appends = NotingAppends(
                store.messages.appends,
                room,
                store.queues,
                config,
                self._delivery.known,
                self._delivery.look,
            )

    @property
    def waiting(self) -> int:
        """How many events wait for the backend, as far as this daemon knows."""
        return self._delivery.waiting

    @property
    def oldest_seconds(self) -> float:
        """For how long the first of them has."""
        return self._delivery.oldest_seconds

    async def push(self, event: Event) -> None:
        """Put an event into the queue of its group.

        Raises:
            StoreUnavailable: it may be there or not.
        """
        group = event.group
        if not self._noted.is_noted(group):
            began = trio.current_time()
            with suppress(KeyUnusable):  # the log has said why; this daemon tells it all the same
                await self._queues.register([group])
            self._noted.add(group, began)
            self._noted.forget_old()
        try:
            dropped = await self._queues.push(group, event.name, event.id, event.body)
        except KeyUnusable as exc:
            self._drop(event.name, group, str(exc))
            return
        for name in dropped:
            self._drop(name, group, "too many wait")
        self._delivery.look(group)

    async def run(self) -> None:
        """Deliver, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._delivery.run)
            if self._appends is not None:
                nursery.start_soon(self._appends.run)
            await self._sweep()

    async def wait_idle(self) -> None:
        """Wait until nothing can be told now."""
        await self._delivery.wait_idle()

    def _drop(self, name: str, group: str, error: str) -> None:
        self._metrics.count_event("dropped", name)
        log.warning("event.dropped", purpose=name, group=group, count=1, error=error)

    async def _sweep(self) -> None:
        """Look through all groups that are noted, a part at a time, again and again."""
        part = random.randrange(PARTS)  # noqa: S311 - no secret
        while True:
            if not self._delivery.circuit.is_away:  # else those look who can tell something
                try:
                    dice = random.randrange(1 << 30)  # noqa: S311 - no secret
                    for found in await self._queues.sweep(part, SWEPT_SECONDS, dice):
                        self._delivery.look_after(found)
                except (StoreUnavailable, KeyUnusable):  # another time
                    pass
                part = (part + 1) % PARTS
            await trio.sleep(SWEEP_SECONDS / PARTS)

    async def _note_idle(self, found: Found) -> None:
        if found.idle > self._idle_seconds:
            with suppress(StoreUnavailable, KeyUnusable):  # the next sweep finds it again
                await self._queues.unregister(found)


def make_outgoing(
    hooks: HookRunner, store: Store, client: RedisClient, config: Config, metrics: Metrics
) -> Outgoing | None:
    """What takes the events for the backend, if it is told any."""
    outgoing: Outgoing | None = None
    if hooks.webhook is not None and hooks.events:
        outgoing = Outgoing(store, client.appender.room, hooks.webhook.send, config, metrics)
        hooks.outlet = outgoing
    metrics.add_gauge(
        "events_waiting",
        "Events that this daemon knows to wait for the backend.",
        lambda: outgoing.waiting if outgoing else 0,
    )
    metrics.add_gauge(
        "events_oldest_seconds",
        "For how long the first of them has waited.",
        lambda: outgoing.oldest_seconds if outgoing else 0,
    )
    return outgoing
