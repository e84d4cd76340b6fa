"""What a worker has of its parent: a number, connections that are handed over, and a listener.

The two speak over one ``SOCK_SEQPACKET`` pair: connections come, reports of how the worker is go.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import msgspec
import trio

from ...door.listeners import Hatch

LINK = "FASTIMD_WORKER"
"""The variable of the environment that has a ``Link``, as JSON."""
REPORT_SECONDS = 0.1
"""How often a worker looks whether there is something new to report."""
SIGN_SECONDS = 1.0
"""How often it reports even so: a sign of life."""


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How a worker is; ``accepted`` are all connections so far that were handed to it.

    It ``takes`` connections from when it serves until it drains.
    """

    takes: bool
    reasons: list[str]
    connections: int
    accepted: int
    sockets: int
    groups: int
    messages: int


class LinkData(msgspec.Struct, frozen=True):
    """A link as it is written into the environment; ``channel`` is an inherited descriptor."""

    number: int
    count: int
    channel: int
    address: str


@dataclass(slots=True)
class Link:
    """A worker's end.

    Args:
        number: of this worker, from 1 to ``count``.
        channel: to the parent.
        hatch: the connections that come over it. It is closed before the last report.
        connections: how many are open.
    """

    number: int
    count: int
    channel: socket.socket
    hatch: Hatch
    connections: Callable[[], int] = int

    async def keep_told(self, report: Callable[[], Report]) -> None:
        """Tell the parent how this worker is, until cancelled."""
        told, told_at = None, float("-inf")
        while True:
            now = report()
            if now != told or trio.current_time() - told_at >= SIGN_SECONDS:
                try:
                    self.channel.send(msgspec.json.encode(now), socket.MSG_DONTWAIT)
                    told, told_at = now, trio.current_time()
                except BlockingIOError:
                    pass  # it is busy, and gets a newer one
                except OSError:
                    await trio.sleep_forever()  # it has died, and the kernel ends its workers
            await trio.sleep(REPORT_SECONDS)


def take_link(environ: MutableMapping[str, str]) -> Link | None:
    """What this process has of its parent; None when it is no worker. It is taken once."""
    said = environ.pop(LINK, "")
    if not said:
        return None
    data = msgspec.json.decode(said, type=LinkData)
    os.set_inheritable(data.channel, False)
    channel = socket.socket(fileno=data.channel)
    return Link(data.number, data.count, channel, Hatch(channel.dup(), data.address))
