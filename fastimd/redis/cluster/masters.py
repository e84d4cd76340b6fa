"""The masters of a cluster, and who has which slots.

They are read from whichever node answers: at the start, when a node says that a slot is elsewhere,
while a master cannot be reached, and now and then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog
import trio
from redis import exceptions

from ...base.metrics import Metrics
from ..address import Address
from ..cause import cause_of
from ..clock import RedisClock
from ..connection import Connection
from ..keeping import Reconnecting, serve_connection
from ..replies import Redirected
from ..scripts import ALL
from ..wire import Wire
from .seeds import Seeds, Slots, read_slots
from .slots import SLOTS

LOOK_SECONDS = 0.5
"""How often the slots are read while a master is away, or a slot is not where it should be."""
CALM_SECONDS = 15.0
"""How often while all is well."""
PAUSE_SECONDS = 0.1
"""From the news that something has changed to the reading of it: much changes at once, and who is
asked in vain says where to ask."""

SHARDED = [script.sharded for script in ALL]

log = structlog.get_logger("fastimd.redis")


class Node:
    """A master, and the connection to it."""

    def __init__(self, place: Address, masters: Masters) -> None:
        self.place = place
        self.connection: Connection | None = None
        self.reign = ""
        self.scope = trio.CancelScope()
        self._masters = masters
        self._reconnecting = Reconnecting("commands", place, masters.metrics)

    @property
    def last_error(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return self._reconnecting.last_error

    async def run(self) -> None:
        """Keep the connection up until the master is none any more."""
        try:
            with self.scope:
                while True:
                    try:
                        await serve_connection(
                            self.place, SHARDED, self._masters.clock, self._put_to_use, self._retire
                        )
                    except (exceptions.RedisError, OSError) as exc:
                        self._masters.look()
                        await self._reconnecting.wait_after(exc)
        finally:
            if self.connection is not None:
                self._retire(self.connection)

    async def _put_to_use(self, connection: Connection, _reign: str) -> None:
        try:
            said = await connection.call("INFO", "replication")
        except (exceptions.RedisError, TimeoutError) as exc:
            connection.fail(f"INFO: {cause_of(exc)}")
            return
        found = dict(line.split(b":", 1) for line in said.splitlines() if b":" in line)
        if found.get(b"role") != b"master":
            connection.fail("it is a replica")
            return
        # It has another one after each fail-over, and each start.
        self.connection, self.reign = connection, found[b"master_replid"][:8].decode()
        self._reconnecting.connected()
        self._masters.note_connection(self)

    def _retire(self, connection: Connection) -> None:
        if self.connection is connection:
            self.connection = None
            self._masters.note_loss(connection)


class AnyMaster:
    """Whichever master can be connected to: what is told everywhere is heard at each."""

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._place: Address | Seeds = masters.seeds

    def __str__(self) -> str:
        return str(self._place)

    @property
    def shown_url(self) -> str:
        """That of the cluster."""
        return self._masters.seeds.shown_url

    async def connect(self) -> Wire:
        """A connection to one; raises as ``Seeds.connect`` does."""
        masters = self._masters.nodes
        for node in random.sample(masters, len(masters)):
            with suppress(exceptions.RedisError, OSError):
                wire = await node.place.connect()
                self._place = node.place
                return wire
        self._place = self._masters.seeds
        return await self._masters.seeds.connect()


class Masters:
    """The table of slots.

    ``on_spread`` is called when slots have other masters, with these slots; ``on_connection`` when
    the masters of some can be spoken with; ``on_loss`` when a connection broke.
    """

    def __init__(self, seeds: Seeds, clock: RedisClock, metrics: Metrics) -> None:
        self.seeds = seeds
        self.clock = clock
        self.metrics = metrics
        self.on_spread: list[Callable[[Iterable[int]], None]] = []
        self.on_connection: Callable[[Iterable[int]], None] = lambda _slots: None
        self.on_loss: Callable[[Connection], None] = lambda _connection: None
        self._of_slot: list[Node | None] = [None] * SLOTS
        self._nodes: dict[tuple[str, int], Node] = {}
        self._nursery: trio.Nursery | None = None
        self._look = trio.Event()
        self._changed = trio.Event()
        self._failure: str | None = "not connected yet"

    @property
    def nodes(self) -> list[Node]:
        """All masters that have slots, as far as is known."""
        return list(self._nodes.values())

    @property
    def last_error(self) -> str | None:
        """Why not all of them can be spoken with; None while they can."""
        if self._failure is not None:
            return self._failure
        failing = (node for node in self._nodes.values() if node.last_error is not None)
        return next((f"{node.place}: {node.last_error}" for node in failing), None)

    def of_slot(self, slot: int) -> Node | None:
        """The master of a slot, as far as is known."""
        return self._of_slot[slot]

    def connection_of(self, slot: int) -> Connection | None:
        """The connection to the master of a slot, if there is one."""
        node = self._of_slot[slot]
        return None if node is None else node.connection

    async def wait_change(self) -> None:
        """Wait until something is otherwise."""
        await self._changed.wait()

    def at(self, where: Redirected) -> Node:
        """The master that an answer names."""
        return self._open(where.host or self.seeds.host, where.port)

    def look(self) -> None:
        """Read the slots soon."""
        self._look.set()

    def note_moved(self, where: Redirected) -> None:
        """A node says that a slot is elsewhere."""
        self._give({where.slot: self.at(where)})
        self._look.set()

    def note_connection(self, node: Node) -> None:
        """A master can be spoken with."""
        self._tell_changed()
        self.on_connection(slot for slot in range(SLOTS) if self._of_slot[slot] is node)

    def note_loss(self, connection: Connection) -> None:
        """The connection to a master broke."""
        self._tell_changed()
        self.on_loss(connection)
        self._look.set()

    async def run(self) -> None:
        """Keep the connections up until cancelled.

        Raises:
            StartupError: a node refuses the login.
        """
        async with trio.open_nursery() as self._nursery:
            for node in self._nodes.values():
                self._nursery.start_soon(node.run)
            while True:
                self._look = trio.Event()
                is_well = await self._read_slots() and self.last_error is None
                with trio.move_on_after(CALM_SECONDS if is_well else LOOK_SECONDS):
                    await self._look.wait()
                    await trio.sleep(PAUSE_SECONDS)

    async def _read_slots(self) -> bool:
        """Learn who has which slots; False when nobody says."""
        try:
            found = await self._ask_slots()
        except (exceptions.RedisError, OSError) as exc:
            self._fail(cause_of(exc))
            return False
        owners: dict[int, Node] = {}
        for first, last, host, port in found:
            node = self._open(host, port)
            owners.update(dict.fromkeys(range(first, last + 1), node))
        masters = set(owners.values())
        for place, node in list(self._nodes.items()):
            if node not in masters:
                del self._nodes[place]
                node.scope.cancel()
        self._give(owners)
        missing = SLOTS - len(owners)
        self._fail(f"{missing} slots have no master" if missing else None)
        return not missing

    async def _ask_slots(self) -> Slots:
        """Ask one that is connected, in no order: whoever is cut off knows no better."""
        nodes = list(self._nodes.values())
        for node in random.sample(nodes, len(nodes)):
            if node.connection is not None:
                with suppress(exceptions.RedisError, TimeoutError):
                    reply = await node.connection.call("CLUSTER", "SLOTS")
                    return read_slots(reply, node.place)
        return await self.seeds.ask_slots()

    def _open(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            node = self._nodes[host, port] = Node(self.seeds.at(host, port), self)
            if self._nursery is not None:
                self._nursery.start_soon(node.run)
        return node

    def _give(self, owners: dict[int, Node]) -> None:
        moved = [slot for slot, node in owners.items() if self._of_slot[slot] is not node]
        if not moved:
            return
        for slot in moved:
            self._of_slot[slot] = owners[slot]
        for tell in self.on_spread:
            tell(moved)
        self._tell_changed()

    def _fail(self, failure: str | None) -> None:
        if failure is not None and failure != self._failure:
            log.warning("redis.cluster_incomplete", address=str(self.seeds), error=failure)
        self._failure = failure
        self._tell_changed()

    def _tell_changed(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
