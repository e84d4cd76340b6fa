"""The channels that are no group's: rare events that all daemons hear, and this daemon's inbox."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from redis import exceptions

from ..base.metrics import Metrics
from ..redis.refusal import key_unusable
from ..redis.wire import Wire
from .events import EVENTS_CHANNEL

log = structlog.get_logger("fastimd.relay")


class Announcements:
    """Hands on what comes on them.

    Args:
        inbox: the channel that only this daemon hears.
        on_event: gets what comes for all; returns whether members of a group are to be told.
        on_letter: gets what comes for this daemon.
        on_gap: called after each reconnection, when some may have been missed.
    """

    def __init__(
        self,
        inbox: str,
        *,
        on_event: Callable[[bytes], bool],
        on_letter: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._inbox = inbox.encode()
        self.on_event = on_event
        self.on_letter = on_letter
        self.on_gap = on_gap

    async def open(self, wire: Wire, metrics: Metrics) -> None:
        """Subscribe to both; without the inbox all the rest works.

        Raises:
            redis.exceptions.RedisError, OSError: the connection is useless.
        """
        try:
            # With two commands, what comes on the first channel could stand between the answers.
            await wire.ask(("SUBSCRIBE", EVENTS_CHANNEL, self._inbox))
        except exceptions.NoPermissionError as exc:
            await wire.ask(("SUBSCRIBE", EVENTS_CHANNEL))
            key_unusable(metrics, self._inbox.decode(), exc)

    def is_own(self, channel: bytes) -> bool:
        """A channel is one of these, whose subscription may be confirmed late."""
        return channel in (self._inbox, EVENTS_CHANNEL.encode())

    def receive(self, channel: bytes, payload: bytes) -> bool:
        """Take what came on a channel; whether members of a group are to be told."""
        if channel == self._inbox:
            self.on_letter(payload)
            return False
        return channel == EVENTS_CHANNEL.encode() and self.on_event(payload)
