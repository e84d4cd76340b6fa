"""Where a cluster is: some of its nodes, one of which must answer, and how to log in to all."""

from __future__ import annotations

from typing import Any, TypeAlias

from redis import exceptions

from ...base.settings import read_cluster_url
from ..address import Address
from ..cause import cause_of
from ..keeping import connected_wire
from ..wire import Wire

Slots: TypeAlias = list[tuple[int, int, str, int]]
"""The first and the last slot of a range, and the host and port of its master."""


class Seeds:
    """The nodes that the URL names; as a text they are for logs.

    Raises:
        StartupError: a certificate or key that the URL names cannot be used.
    """

    def __init__(self, url: str) -> None:
        found = read_cluster_url(url)
        self.shown_url = found.shown
        self._any = Address(found.server)
        self.host = found.nodes[0][0]
        self._seeds = [self.at(host, port) for host, port in found.nodes]

    def __str__(self) -> str:
        return ",".join(map(str, self._seeds))

    def at(self, host: str, port: int) -> Address:
        """A node of the cluster."""
        return self._any.moved_to(host, port)

    async def connect(self) -> Wire:
        """A connection to the first that can be reached.

        Raises:
            redis.exceptions.ConnectionError: none can; says why of each. It is an
                ``AuthenticationError`` if one refuses the login.
        """
        kind, failures = exceptions.ConnectionError, []
        for seed in self._seeds:
            try:
                return await seed.connect()
            except (exceptions.RedisError, OSError) as exc:
                failures.append(f"{seed}: {cause_of(exc)}")
                if isinstance(exc, exceptions.AuthenticationError):
                    kind = exceptions.AuthenticationError
        raise kind("; ".join(failures))

    async def ask_slots(self) -> Slots:
        """Who has which slots; raises as ``connect`` does, or what the node refuses."""
        async with connected_wire(self) as wire:
            [reply] = await wire.ask(("CLUSTER", "SLOTS"))
            return read_slots(reply, self._seeds[0])


def read_slots(reply: Any, asked: Address) -> Slots:
    """The reply to CLUSTER SLOTS; a node that does not know its own host is ``asked``."""
    return [
        (first, last, (master[0] or b"").decode() or asked.host, master[1])
        for first, last, master, *_ in reply
    ]
