"""A Redis Cluster: masters are killed, slots move, nodes come."""

from __future__ import annotations

import random
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import trio
from redis.cluster import RedisCluster
from redis.exceptions import RedisError
from servers import NotStarted, free_port

from fastimd.redis.embedded import find_server

from .harm import Harm
from .people import now_ms
from .redises import Form, RedisServer
from .waiting import wait_until

MASTERS = 3
MOST_NODES = 9
NODE_TIMEOUT_MS = 2000
SETTLE_SECONDS = 60.0
LAG_MS = 1000
"""How far a replica may be behind."""
SLOTS = 16384
BUS = 10_000
"""By how much the port on which nodes speak with each other is higher."""
MOVED_SLOTS = (50, 500, 2000)


class Node(RedisServer):
    """One of the servers of a cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port(BUS)

    @property
    def options(self) -> tuple[str, ...]:
        return (
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--repl-diskless-sync-delay", "0"),
        )

    @property
    def place(self) -> str:
        """For redis-cli."""
        return f"127.0.0.1:{self.port}"

    def id(self) -> str:
        """Its name in the cluster."""
        return str(self._ask("MYID"))

    def is_well(self) -> bool:
        """It answers, and knows who has each slot."""
        try:
            state = str(self._ask("INFO"))
        except RedisError:
            return False
        return "cluster_state:ok" in state and f"cluster_slots_ok:{SLOTS}" in state

    def masters(self) -> list[str]:
        """The ids of the masters that have slots, as this one sees them."""
        lines = [line.split() for line in str(self._ask("NODES")).splitlines()]
        return [
            fields[0]
            for fields in lines
            if "master" in fields[2] and "fail" not in fields[2] and len(fields) > 8
        ]

    def is_linked(self) -> bool:
        """A replica has all that its master has; a master has nothing to wait for."""
        try:
            with self.client() as client:
                found = client.info("replication")
        except RedisError:
            return False
        return bool(found["role"] == "master" or found.get("master_link_status") == "up")

    def _ask(self, what: str) -> Any:
        with self.client() as client:
            # A client of one server reads the answers of a cluster into its own forms.
            client.response_callbacks.clear()
            answer: Any = client.execute_command("CLUSTER", what)
        return answer.decode()


class ClusterRedis(Form):
    """Three masters with a replica each, and what is added to them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nodes: list[Node] = []

    def start(self) -> None:
        for _ in range(2 * MASTERS):
            self.nodes.append(self._stack.enter_context(Node(self.folder)))
        places = [node.place for node in self.nodes]
        done = subprocess.run(
            [_cli(), "--cluster", "create", *places, "--cluster-replicas", "1", "--cluster-yes"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotStarted(f"no cluster: {done.stdout}{done.stderr}")
        for node in self.nodes:
            node.wait_for("sight of the cluster", node.is_well)
            node.wait_for("link to its master", node.is_linked)

    @property
    def url(self) -> str:
        hosts = ",".join(node.place for node in self.nodes[:MASTERS])
        return f"redis-cluster://{hosts}"

    def processes(self) -> dict[str, int]:
        return {f"Redis {number}": node.pid for number, node in enumerate(self.nodes)}

    def client(self) -> Any:
        return RedisCluster(host="127.0.0.1", port=self.nodes[0].port)

    @property
    def harms(self) -> list[Harm]:
        return [
            Harm("master killed", "Redis", self._kill_master),
            Harm("slots moved", "Redis", self._move_slots),
            Harm("node added", "Redis", self._add_node),
            Harm("connections to Redis broken", "Redis", self._break),
        ]

    async def _kill_master(self, rng: random.Random) -> None:
        node = rng.choice(await trio.to_thread.run_sync(self._replicated_masters))
        ident = await trio.to_thread.run_sync(node.id)
        began = now_ms()
        await trio.to_thread.run_sync(node.kill)
        await wait_until(partial(self._has_left, node, ident), "fail-over", SETTLE_SECONDS)
        self.fail_overs.append((began - LAG_MS, now_ms() + LAG_MS))
        await trio.sleep(rng.choice((0.0, 1.0, 5.0)))
        await node.start_again()
        await self._come_to_rest()

    async def _move_slots(self, rng: random.Random) -> None:
        masters = await trio.to_thread.run_sync(self.nodes[0].masters)
        source, target = rng.sample(sorted(masters), 2)
        await self._reshard(source, target, rng.choice(MOVED_SLOTS))

    async def _add_node(self, rng: random.Random) -> None:
        if len(self.nodes) >= MOST_NODES:
            await self._move_slots(rng)
            return
        node = Node(self.folder)
        self._stack.push(node)
        await node.start_again()
        await _run_cli("--cluster", "add-node", node.place, self.nodes[0].place)
        self.nodes.append(node)
        await self._come_to_rest()
        masters = await trio.to_thread.run_sync(self.nodes[0].masters)
        target = await trio.to_thread.run_sync(node.id)
        await self._reshard(rng.choice(sorted(masters)), target, rng.choice(MOVED_SLOTS))

    async def _break(self, rng: random.Random) -> None:
        await rng.choice(self.nodes).break_connections(rng.choice(("normal", "pubsub")))

    async def _reshard(self, source: str, target: str, slots: int) -> None:
        if source == target:
            return
        where = ("--cluster-from", source, "--cluster-to", target, "--cluster-slots", str(slots))
        await _run_cli("--cluster", "reshard", self.nodes[0].place, *where, "--cluster-yes")
        await self._come_to_rest()

    def _replicated_masters(self) -> list[Node]:
        """Those that a replica can follow: the others take their slots with them."""
        found = []
        for node in self.nodes:
            with node.client() as client:
                state = client.info("replication")
            if state["role"] == "master" and state["connected_slaves"]:
                found.append(node)
        return found

    def _has_left(self, killed: Node, ident: str) -> bool:
        others = [node for node in self.nodes if node is not killed]
        return all(node.is_well() and ident not in node.masters() for node in others)

    async def _come_to_rest(self) -> None:
        def is_at_rest() -> bool:
            if not all(node.is_well() and node.is_linked() for node in self.nodes):
                return False
            return len({tuple(sorted(node.masters())) for node in self.nodes}) == 1

        await wait_until(is_at_rest, "rest in the cluster", SETTLE_SECONDS)


def _cli() -> str:
    return str(find_server().with_name("redis-cli"))


async def _run_cli(*arguments: str) -> None:
    """Run redis-cli.

    Raises:
        NotStarted: it failed; with its last words.
    """
    done = await trio.run_process(
        [_cli(), *arguments], capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()[-300:]
        raise NotStarted(f"redis-cli {' '.join(arguments[:2])}: {said}")
