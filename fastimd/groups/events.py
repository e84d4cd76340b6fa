"""Rare events that one daemon announces to all: recalls, purges, joins, leaves, kicks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from ..base.codec import read_json

EVENTS_CHANNEL = "fastimd:events"
"""Carries what other daemons must know and ``mq:`` channels cannot say."""

EVENT_BEGINS = b'{"group":'
"""How an event begins, and no message."""

log = structlog.get_logger("fastimd.poller")


class Event(msgspec.Struct, omit_defaults=True):
    """What travels on ``EVENTS_CHANNEL``.

    A recall has a ``ts``, a join has none; a purge is like a recall, of nobody and with the ts 0,
    and says ``until`` which ts it deleted. Where it is of a user it has deleted that user's
    messages, those from ``since`` ``until`` then. With ``kick`` the user's sockets are closed:
    those in ``group``, or all when it is ""; ``client``, ``keep``, ``code`` and ``reason`` are as
    in ``Kick``. With ``leave`` the user has left the group. An event of another ``kind`` than "" is
    another struct: ``MODERATION`` is a ``PolicyChange``, ``SURVEY`` a ``Question``.
    """

    group: str
    user: str
    ts: int | None = None
    until: int = 0
    kick: bool = False
    leave: bool = False
    since: int = 0
    kind: str = ""
    client: str = ""
    keep: list[str] = []
    code: int = 0
    reason: str = ""


class PolicyChange(msgspec.Struct, omit_defaults=True):
    """A moderator's act, and what it has changed in the group's policy.

    ``act`` is the name of the method, ``user`` whom it concerns, "" for all; ``by`` is the
    moderator, "" for an operator. ``seconds`` are those of the act, ``until`` is its end in
    milliseconds since the epoch, 0 for none. The policy had the version ``was`` before and has
    ``version`` now. ``changes`` are its fields that are different, with "" for those that are gone.
    """

    group: str
    kind: str
    act: str
    user: str
    seconds: int = 0
    reason: str = ""
    by: str = ""
    until: int = 0
    was: int = 0
    version: int = 0
    changes: list[tuple[str, str]] = []


MODERATION = "moderation"
"""The ``kind`` of a ``PolicyChange``."""
SURVEY = "survey"
"""The ``kind`` of a question to all daemons."""


class Events:
    """Hands on what is announced.

    Args:
        on_change: gets each recall, purge, join and leave.
        on_removal: gets the group and the event of each recall and purge; returns whether somebody
            here is to be told.
        on_leave: gets the user and the group of each leave.
        on_kick: gets each kick.
        on_policy: gets each change of a group's policy; returns whether its members are to be told.
        on_question: gets each question to all daemons, as it came.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[Event], None],
        on_removal: Callable[[str, bytes], bool],
        on_leave: Callable[[str, str], None],
        on_kick: Callable[[Event], None],
        on_policy: Callable[[PolicyChange, bytes], bool],
        on_question: Callable[[bytes], None],
    ) -> None:
        self._on_change = on_change
        self._on_removal = on_removal
        self._on_leave = on_leave
        self._on_kick = on_kick
        self._on_policy = on_policy
        self._on_question = on_question

    def receive(self, payload: bytes) -> bool:
        """Take what came on the channel; returns whether members of a group are to be told."""
        try:
            event = read_json(payload, Event)
            change = read_json(payload, PolicyChange) if event.kind == MODERATION else None
            if event.kind == SURVEY:
                self._on_question(payload)
        except ValueError as exc:
            log.warning("poller.unknown_event", error=str(exc))
            return False
        if change is not None:
            return self._on_policy(change, payload)
        if event.kind:  # of a newer daemon
            return False
        if event.kick:
            self._on_kick(event)
            return False
        if event.leave:
            self._on_leave(event.user, event.group)
        self._on_change(event)
        return event.ts is not None and self._on_removal(event.group, payload)
