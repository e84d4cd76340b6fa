"""What the daemon said, as text for a terminal: one screen, nothing in it that a terminal obeys."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from ..base.codec import CorruptEntry, decode_message
from ..base.recent import Trouble
from ..http.forms import GroupView, Status, WorkerState

SHOWN_MEMBERS = 20

RATES = {
    "messages": "messages in",
    "deliveries": "deliveries",
    "opened": "opened",
    "closed": "closed",
}
"""The counters of which the rates are told, and how a screen names them."""
_TROUBLE_COUNTERS = (
    "slow_closes",
    "flood_closes",
    "appends_failed",
    "connections_refused",
    "connections_crashed",
)


class Report(Status, frozen=True):
    """A status with its ``rates``: by how much the counters grew, a second."""

    rates: dict[str, float] = msgspec.field(default_factory=dict)


def report(before: Status, now: Status) -> Report:
    """A status with the rates since an earlier one; none when the daemon began anew between."""
    seconds = now.uptime_seconds - before.uptime_seconds
    rates = {}
    if now.pid == before.pid and seconds > 0:
        rates = {
            name: round((getattr(now.counters, name) - getattr(before.counters, name)) / seconds, 1)
            for name in RATES
        }
    return Report(**msgspec.structs.asdict(now), rates=rates)


def show_status(status: Report) -> str:
    """One screen."""
    sockets = sum(status.sockets.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in status.sockets.items())
    redis = status.redis
    lines = {
        "fastimd": f"{status.version}, pid {status.pid}, up {_duration(status.uptime_seconds)}",
        "settings": status.settings,
        "ready": "yes" if status.ready else f"no: {'; '.join(status.reasons)}",
        "sockets": f"{sockets} ({kinds}), {status.groups} groups",
        "rates": ", ".join(f"{status.rates[name]:g} {text}" for name, text in RATES.items())
        + " a second"
        if status.rates
        else "not known yet",
        "redis": f"{redis.address}: commands {redis.commands or 'up'},"
        f" messages {redis.messages or 'up'}, {redis.held} held",
        "outboxes": f"{status.outbox_bytes} bytes wait for slow readers",
        "troubles": ", ".join(
            f"{getattr(status.counters, name)} {name.replace('_', ' ')}"
            for name in _TROUBLE_COUNTERS
        ),
    }
    lines |= {f"worker {worker.worker}": _worker(worker) for worker in status.workers}
    shown = [f"{name:<10}{printable(text)}" for name, text in lines.items()]
    return "\n".join([*shown, *_last_troubles(status.troubles)])


def show_group(view: GroupView) -> str:
    """The group's members here, its messages, the last ones at the end."""
    expiry = "" if view.expires_in is None else f", expire in {_duration(view.expires_in)}"
    members = [
        user if sockets == 1 else f"{user} ({sockets} sockets)"
        for user, sockets in view.members.items()
    ]
    more = len(members) - SHOWN_MEMBERS
    listed = ", ".join(members[:SHOWN_MEMBERS]) + (f" and {more} more" if more > 0 else "")
    lines = {
        "group": view.group,
        "members": f"{len(members)} connected here{': ' if members else ''}{listed}",
        "messages": f"{view.messages}{expiry}",
    }
    shown = [f"{name:<10}{printable(text)}" for name, text in lines.items()]
    return "\n".join([*shown, *(_message(bytes(message)) for message in view.last)])


def _worker(worker: WorkerState) -> str:
    how = f"{'; '.join(worker.reasons)}; " if worker.reasons else ""
    began = f", started again {worker.restarts} times" if worker.restarts else ""
    return (
        f"{how}pid {worker.pid}, {worker.connections} connections,"
        f" {worker.sockets} sockets in {worker.groups} groups{began}"
    )


def printable(text: str) -> str:
    """``text`` with what a terminal might obey, or not show, as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _last_troubles(troubles: list[Trouble]) -> Iterator[str]:
    if not troubles:
        yield "no warnings or errors are remembered"
        return
    yield f"last {len(troubles)} different warnings and errors:"
    for trouble in troubles:
        words = [moment(trouble.at), trouble.level, trouble.event]
        if trouble.count > 1:
            words.append(f"({trouble.count} times since {moment(trouble.first_at)})")
        words += (f"{name}={value}" for name, value in trouble.fields.items())
        yield printable(f"  {' '.join(words)}")


def _message(stored: bytes) -> str:
    try:
        message = decode_message(stored)
    except CorruptEntry as exc:
        return f"  ({printable(str(exc))})"
    return printable(f"  {moment(message.ts / 1000)} {message.userId}: {message.info}")


def moment(seconds: float) -> str:
    """Seconds since the epoch as a date and time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g}"  # a ts of any writer


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"
