"""What a service and systemd say to each other: sd_notify(3) and sd_listen_fds(3).

Both are a few lines over the environment and a socket, and hold without any library.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import NamedTuple

import structlog
import trio

from .errors import StartupError

STATUS_SECONDS = 5.0
FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START

log = structlog.get_logger("fastimd.systemd")


def notify(*assignments: str) -> bool:
    """Tell systemd assignments such as ``READY=1``; False when nobody asked, or nobody listens.

    That nobody listens is logged: a daemon does not end because its supervisor is deaf.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)
    except OSError as exc:
        log.warning("systemd.not_told", assignments=assignments, error=str(exc))
        return False
    return True


def is_listening() -> bool:
    """Tell whether somebody asked to be told."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


class State(NamedTuple):
    """What the status line is made of: how the daemon is, and its messages so far."""

    text: str
    messages: int


async def keep_told(state: Callable[[], State], serving: trio.Event) -> None:
    """Tell systemd how the daemon is, and that its loop turns, until cancelled.

    Args:
        serving: the moment from which it serves; the state is told then too.
    """
    watchdog = watchdog_seconds()
    pause = STATUS_SECONDS if watchdog is None else min(STATUS_SECONDS, watchdog / 3)
    before, told_at = state(), trio.current_time()
    notify(f"STATUS={before.text}")
    while True:
        with trio.move_on_after(pause):
            if serving.is_set():
                await trio.sleep_forever()
            await serving.wait()
        now, at = state(), trio.current_time()
        rate = (now.messages - before.messages) / (at - told_at)
        alive = () if watchdog is None else ("WATCHDOG=1",)
        notify(f"STATUS={now.text}, {rate:,.0f} messages/s", *alive)
        before, told_at = now, at


def watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life; None when it waits for none of ours."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    ours = str(os.getpid())
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", ours) != ours:
        return None
    return int(microseconds) / 1e6


def take_listeners(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """The listening sockets that systemd has passed on, by their names (``FileDescriptorName=``).

    They are taken once: children must not find the variables.

    Raises:
        StartupError: one of them is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    listeners: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        listener = _adopt(FIRST_DESCRIPTOR + number, name)
        listeners.setdefault(name, []).append(listener)
    return listeners


def _adopt(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise StartupError(f"descriptor {descriptor} ({name}) of systemd: {exc.strerror}") from exc
    if listener.type != socket.SOCK_STREAM or not is_listening:
        raise StartupError(f"descriptor {descriptor} ({name}) of systemd: not a listening socket")
    listener.setblocking(False)
    return listener
