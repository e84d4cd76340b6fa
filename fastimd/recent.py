"""The last troubles of the process, for whoever asks how it is: a ring that the logs fill."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec
import structlog

KEPT = 20
"""How many are remembered."""
_FIELD_CHARACTERS = 200
_TROUBLES = frozenset(("warning", "error", "exception", "critical"))
_NOT_FIELDS = frozenset(("event", "level", "ts", "exc_info", "stack_info"))


class Trouble(msgspec.Struct, frozen=True):
    """A log line at ``warning`` or above. ``at`` is seconds since the epoch."""

    at: float
    level: str
    event: str
    fields: dict[str, str]


_ring: deque[Trouble] = deque(maxlen=KEPT)


def remember(
    _logger: Any, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A processor of structlog: keep the line if it tells of trouble, and pass it on."""
    if method in _TROUBLES:
        level = "error" if method == "exception" else method
        _ring.append(Trouble(time.time(), level, str(event["event"]), _fields(event)))
    return event


def troubles() -> list[Trouble]:
    """What is remembered, oldest first."""
    return list(_ring)


def _fields(event: structlog.typing.EventDict) -> dict[str, str]:
    fields = {
        name: str(value)[:_FIELD_CHARACTERS]
        for name, value in event.items()
        if name not in _NOT_FIELDS and not name.startswith("_")
    }
    if isinstance(failure := event.get("exc_info"), BaseException):
        fields["exception"] = type(failure).__name__  # its text may be a client's
    return fields
