"""A Redis Cluster for the tests: three masters, with a replica each or none, by processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import redis_servers, wait_for
from faults import free_port
from redis import Redis, RedisCluster, exceptions
from sentinels import Process

from fastimd.redis.cluster.slots import SLOTS, slot_of

NODE_TIMEOUT = 1000
"""Milliseconds of silence after which a master is held to be down."""


class Cluster:
    """The nodes; ``url`` is for daemons.

    Args:
        password: that of the default user, by which the nodes log in to each other, too.
        tls: a certificate with its key, with which the nodes speak to everybody.
        replicas: of each master, one or none.
        settings: further lines for the file of each node.
    """

    def __init__(
        self,
        executable: str,
        folder: Path,
        *,
        password: str = "",
        tls: Path | None = None,
        replicas: int = 1,
        settings: Sequence[str] = (),
    ) -> None:
        self._executable = executable
        self._folder = folder
        self._password = password
        self._tls = tls
        self._settings = settings
        self.nodes: list[Process] = []
        self._buses: dict[int, int] = {}
        for _ in range(3 + 3 * replicas):
            self.add()
        options = f"?ssl_ca_certs={tls}" if tls is not None else ""
        login = f":{password}@" if password else ""
        scheme = "redis-cluster" if tls is None else "rediss-cluster"
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        self.url = f"{scheme}://{login}{seeds}{options}"

    def add(self) -> Process:
        """One more node, not yet started."""
        folder = self._folder / f"node-{len(self.nodes)}"
        bus = free_port()
        settings = [
            *('save ""', "appendonly no", "repl-diskless-sync-delay 0"),
            *("cluster-enabled yes", f"cluster-port {bus}"),
            f"cluster-node-timeout {NODE_TIMEOUT}",
            *self._settings,
        ]
        if self._password:
            settings.append(f"masterauth {self._password}")
        if self._tls is not None:
            settings.append("tls-cluster yes")
        node = Process(self._executable, folder, "\n".join(settings), self._tls, self._password)
        self.nodes.append(node)
        self._buses[node.port] = bus
        return node

    def start(self) -> None:
        """Start all, the first three as masters, and wait until every slot is served."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes[:3]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", *_share(number))
        for node in self.nodes[1:]:
            self.meet(node)
        for node in self.nodes:
            wait_for(partial(_knows, node, len(self.nodes)), seconds=20)
        for master, replica in zip(self.nodes, self.nodes[3:], strict=False):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        self.wait_well()

    def meet(self, node: Process) -> None:
        """Let a node know of the others."""
        bus = self._buses[node.port]
        self.living[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

    @property
    def living(self) -> list[Process]:
        """The nodes that run."""
        return [
            node for node in self.nodes if node.process is not None and node.process.poll() is None
        ]

    def wait_well(self) -> None:
        """Wait until all that run say that all is served, and masters have their replicas."""
        for node in self.living:
            wait_for(partial(_is_well, node), seconds=30)
        for node in self.living:
            if node.role() == "slave":
                wait_for(partial(_is_linked, node), seconds=30)

    def master_of(self, group: str) -> Process:
        """The master of a group's slot."""
        return self.owner_of(slot_of(f"gml:{group}"))

    def owner_of(self, slot: int) -> Process:
        """The master of a slot."""
        port = next(
            master[1]
            for first, last, master, *_ in self.living[0].ask("CLUSTER", "SLOTS")
            if first <= slot <= last
        )
        return next(node for node in self.nodes if node.port == port)

    def wait_known(self, added: Process) -> None:
        """Wait until all nodes know of another one."""
        for node in self.living:
            wait_for(partial(_knows, node, len(self.living)), seconds=30)
        wait_for(partial(_is_well, added), seconds=30)

    def replica_of(self, master: Process) -> Process:
        """A replica that runs."""
        return next(
            node
            for node in self.living
            if node.client.info("replication").get("master_port") == master.port
        )

    def client_of(self, group: str) -> Redis:
        """A client of the server that has a group."""
        return self.master_of(group).client

    def reshard(self, source: Process, target: Process, slots: int) -> None:
        """Have slots of one master moved to another, as an operator does."""
        done = subprocess.run(
            [
                *(_redis_cli(), "--cluster", "reshard", f"127.0.0.1:{source.port}"),
                *("--cluster-from", source.ask("CLUSTER", "MYID").decode()),
                *("--cluster-to", target.ask("CLUSTER", "MYID").decode()),
                *("--cluster-slots", str(slots), "--cluster-yes"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr

    def give(self, slot: int, target: Process) -> None:
        """Have a slot without keys moved to a master."""
        source = self.owner_of(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        for node in (target, *self.living):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))

    def wait_failed_over(self, old: Process) -> None:
        """Wait until no node that runs gives a slot to it."""
        for node in self.living:
            wait_for(partial(_is_without, node, old.port), seconds=30)

    def client(self) -> RedisCluster:
        """A client of the whole."""
        return RedisCluster(
            host="127.0.0.1",
            port=self.living[0].port,
            password=self._password or None,
            ssl=self._tls is not None,
            ssl_ca_certs=str(self._tls) if self._tls is not None else None,
            decode_responses=False,
        )

    def close(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.close()


def _redis_cli() -> str:
    return shutil.which("redis-cli") or _do_without("redis-cli (Debian's package redis-tools)")


def _do_without(needed: str) -> NoReturn:
    if os.environ.get("FASTIMD_TEST_CLUSTER") == "required":
        pytest.fail(f"FASTIMD_TEST_CLUSTER=required needs {needed}")
    pytest.skip(f"needs {needed}")


def _share(number: int) -> tuple[int, int]:
    """The first and the last slot of one of three masters."""
    return number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1


def _knows(node: Process, count: int) -> bool:
    return len(node.ask("CLUSTER", "NODES").splitlines()) == count


def _is_without(node: Process, port: int) -> bool:
    return port not in ports_of(node)


def ports_of(node: Process) -> set[int]:
    """The ports of the masters that have slots, as a node knows them."""
    with contextlib.suppress(exceptions.RedisError):
        return {master[1] for _, _, master, *_ in node.ask("CLUSTER", "SLOTS")}
    return set()


def _is_well(node: Process) -> bool:
    with contextlib.suppress(exceptions.RedisError):
        said = node.ask("CLUSTER", "INFO")
        return b"cluster_state:ok" in said and b"cluster_slots_ok:16384" in said
    return False


def _is_linked(replica: Process) -> bool:
    return replica.client.info("replication").get("master_link_status") == "up"


def able_server(executables: Sequence[str] = ()) -> str:
    """A redis-server that has sharded channels: the first of some, or of all."""
    for executable in executables or redis_servers():
        said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)
        version = said.stdout.partition("v=")[2]
        if version and int(version.partition(".")[0]) >= 7:
            return executable
    _do_without("redis-server 7 or later")


@contextmanager
def cluster(folder: Path, executable: str = "", **options: Any) -> Iterator[Cluster]:
    """A cluster that runs."""
    folder.mkdir(exist_ok=True)
    made = Cluster(executable or able_server(), folder, **options)
    try:
        made.start()
        yield made
    finally:
        made.close()
