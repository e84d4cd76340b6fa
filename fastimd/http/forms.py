"""What the operator's commands and the desk say to each other: a struct for each form.

The commands import this and nothing else of ``http/``, so that they need not load the server.
"""

from __future__ import annotations

import msgspec

from ..base.recent import Trouble

DESK = "/operate/"
"""Where the desk is."""
COMMAND_HEADER = "Fastimd-Command"
"""What a request to the desk carries, with any value."""


class RedisState(msgspec.Struct, frozen=True):
    """How Redis is: why a connection is not there, None while it is; ``held`` messages wait."""

    address: str
    commands: str | None
    messages: str | None
    held: int


class Counters(msgspec.Struct, frozen=True):
    """What the daemon has counted since it began."""

    opened: int
    closed: int
    messages: int
    deliveries: int
    slow_closes: int
    flood_closes: int
    appends_failed: int
    connections_refused: int
    connections_crashed: int


class WorkerState(msgspec.Struct, frozen=True):
    """One of several workers: its last process, and how often it was started again."""

    worker: int
    pid: int | None
    restarts: int
    reasons: list[str]
    connections: int
    sockets: int
    groups: int


class Status(msgspec.Struct, frozen=True):
    """How the daemon is; ``sockets`` are by kind, ``outbox_bytes`` wait for slow readers.

    With several workers it is of the whole, and ``workers`` has each. A group with members on more
    than one of them counts in each.
    """

    version: str
    pid: int
    uptime_seconds: float
    settings: str
    ready: bool
    reasons: list[str]
    sockets: dict[str, int]
    groups: int
    outbox_bytes: int
    redis: RedisState
    counters: Counters
    troubles: list[Trouble]
    workers: list[WorkerState] = []


class GroupView(msgspec.Struct, frozen=True):
    """A group: its members here with the number of their sockets, its messages in Redis.

    ``expires_in`` is in seconds, None when the messages do not expire or there are none; ``last``
    are the last messages, oldest first.
    """

    group: str
    members: dict[str, int]
    messages: int
    expires_in: float | None
    last: list[msgspec.Raw]


class Said(msgspec.Struct, frozen=True):
    """Something to say in a group in a user's name."""

    group: str
    user: str
    text: str


class Kicked(msgspec.Struct, frozen=True):
    """A user to be disconnected, from one group or, without one, from all."""

    user: str
    group: str | None = None


class Purged(msgspec.Struct, frozen=True):
    """A group whose messages are to be deleted."""

    group: str


class LoggedOut(msgspec.Struct, frozen=True):
    """A login that is to end, if the token is the user's."""

    user: str
    token: str


class Outcome(msgspec.Struct, frozen=True):
    """How many a command reached: daemons told to kick, messages purged, logins ended."""

    count: int
