"""The last different troubles of the process, for whoever asks how it is: the logs tell of them.

Lines that differ only in what an outage does to each of many, their texts or moments, are one
trouble. So an outage is a few of them however long it lasts, and pushes nothing else out.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:  # the operator's commands know a trouble, and write no logs
    from structlog.typing import EventDict

KEPT = 20
"""How many different troubles are remembered."""
KEPT_OF_EVENT = 5
"""How many of them may be of one event: one who harms many keys leaves room for the others."""
_CHARACTERS = 200
"""Of an event or a field."""
_TROUBLES = frozenset(("warning", "error", "exception", "critical"))
_NOT_FIELDS = frozenset(("event", "level", "ts", "exc_info", "stack_info", "suppressed"))
_TELLING = ("purpose", "status", "key", "task", "route", "worker")
"""Fields in which troubles of one event differ; so they do in the name of an exception."""
_TELLING_OF = {"relay.corrupt_message": ("group",)}
_COUNTS = "log.suppressed"
"""It counts lines that were counted here when they were left out."""

_Key: TypeAlias = tuple[str, ...]
"""The event, and what tells troubles of that event apart."""


class Trouble(msgspec.Struct, frozen=True):
    """Log lines at ``warning`` or above that tell of one trouble, written or left out.

    ``at`` and ``first_at`` are when the last and the first of ``count`` came, in seconds since the
    epoch; ``level`` and ``fields`` are those of the last.
    """

    at: float
    first_at: float
    count: int
    level: str
    event: str
    fields: dict[str, str]


_kept: dict[_Key, Trouble] = {}  # the one that came last at the end


def remember(_logger: Any, method: str, event: EventDict) -> EventDict:
    """A processor of structlog: note the line if it tells of trouble, and pass it on."""
    if method in _TROUBLES and event["event"] != _COUNTS:
        fields = _fields(event)
        key = _key(event, fields)
        now = time.time()
        before = _kept.pop(key, None)
        _kept[key] = Trouble(
            now,
            now if before is None else before.first_at,
            1 if before is None else before.count + 1,
            "error" if method == "exception" else method,
            str(event["event"])[:_CHARACTERS],
            fields,
        )
        if before is None:
            _make_room(key[0])
    return event


def troubles() -> list[Trouble]:
    """What is remembered; the one that came last is at the end."""
    return list(_kept.values())


def forget() -> None:
    """Forget everything."""
    _kept.clear()


def _make_room(event: str) -> None:
    alike = [key for key in _kept if key[0] == event]
    if len(alike) > KEPT_OF_EVENT:
        del _kept[alike[0]]
    elif len(_kept) > KEPT:
        del _kept[next(iter(_kept))]


def _key(event: EventDict, fields: dict[str, str]) -> _Key:
    if "logger" in fields:  # a library, whose events are texts of any kind
        return ("", fields["logger"])
    name = str(event["event"])
    telling = [fields.get(each, "") for each in (*_TELLING, *_TELLING_OF.get(name, ()))]
    return (name, *telling, _exception(event))


def _fields(event: EventDict) -> dict[str, str]:
    fields = {
        name: str(value)[:_CHARACTERS]
        for name, value in event.items()
        if name not in _NOT_FIELDS and not name.startswith("_")
    }
    if exception := _exception(event):
        fields["exception"] = exception
    return fields


def _exception(event: EventDict) -> str:
    """The name of the exception that a line has; its text may be a client's."""
    failure = event.get("exc_info")
    if failure is True:
        failure = sys.exc_info()[1]
    elif isinstance(failure, tuple):
        failure = failure[1]
    return type(failure).__name__ if isinstance(failure, BaseException) else ""
