"""Rare events that one daemon announces to all: recalls, purges, joins, leaves, kicks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

EVENTS_CHANNEL = "fastimd:events"
"""Carries what other daemons must know and ``mq:`` channels cannot say."""

EVENT_BEGINS = b'{"group":'
"""How an event begins, and no message."""

log = structlog.get_logger("fastimd.poller")


class Event(msgspec.Struct, omit_defaults=True):
    """What travels on ``EVENTS_CHANNEL``.

    A recall has a ``ts``, a join has none; a purge is like a recall, of nobody and with the ts 0,
    and says ``until`` which ts it deleted. With ``kick`` the user's sockets are closed: those in
    ``group``, or all when it is "". With ``leave`` the user has left the group.
    """

    group: str
    user: str
    ts: int | None = None
    until: int = 0
    kick: bool = False
    leave: bool = False


class Events:
    """Hands on what is announced.

    Args:
        on_change: gets each recall, purge, join and leave.
        on_removal: gets the group and the event of each recall and purge; returns whether somebody
            here is to be told.
        on_leave: gets the user and the group of each leave.
        on_kick: gets each kick.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[Event], None],
        on_removal: Callable[[str, bytes], bool],
        on_leave: Callable[[str, str], None],
        on_kick: Callable[[Event], None],
    ) -> None:
        self._on_change = on_change
        self._on_removal = on_removal
        self._on_leave = on_leave
        self._on_kick = on_kick

    def receive(self, payload: bytes) -> bool:
        """Take what came on the channel; returns whether members of a group are to be told."""
        try:
            event = msgspec.json.decode(payload, type=Event)
        except msgspec.MsgspecError as exc:
            log.warning("poller.unknown_event", error=str(exc))
            return False
        if event.kick:
            self._on_kick(event)
            return False
        if event.leave:
            self._on_leave(event.user, event.group)
        self._on_change(event)
        return event.ts is not None and self._on_removal(event.group, payload)
