"""A Redis with replicas and sentinels: its master is killed or stopped, another takes over."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import trio
from redis import Redis
from redis.exceptions import RedisError
from servers import Program

from fastimd.redis.embedded import find_server

from .harm import Harm
from .people import now_ms
from .redises import STILL_SECONDS, Form, RedisServer
from .waiting import wait_until

SERVICE = "soak"
SERVERS = 3
DOWN_MS = 1000
"""After so much silence a sentinel holds a server to be down."""
FAIL_OVER_SECONDS = 60.0
LAG_MS = 1000
"""How far a replica may be behind."""


class Replica(RedisServer):
    """A server that may be a replica of the one at ``master``."""

    master = 0

    @property
    def options(self) -> tuple[str, ...]:
        follow = ("--replicaof", "127.0.0.1", str(self.master)) if self.master else ()
        return ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *follow)

    def role(self) -> str:
        """``master``, ``slave``, or nothing when it does not answer."""
        try:
            with self.client() as client:
                return str(client.info("replication")["role"])
        except RedisError:
            return ""

    def is_linked(self) -> bool:
        """It has all that its master has."""
        with self.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")


class Sentinel(Program):
    """A sentinel, which writes what it learns into its configuration."""

    name = "Sentinel"

    def __init__(self, folder: Path, master: int) -> None:
        super().__init__(folder)
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}\n"
            f"sentinel failover-timeout {SERVICE} 10000\n"
        )

    def command(self) -> list[str]:
        return [str(find_server()), str(self.folder / "sentinel.conf"), "--sentinel"]

    def wait_ready(self) -> None:
        self.wait_for("answer", self.master_port)

    def master_port(self) -> int:
        """The port of the master that it names, or 0."""
        return int(self._ask(lambda client: client.sentinel_get_master_addr_by_name(SERVICE)[1], 0))

    def knows_all(self) -> bool:
        """It has found the other sentinels and all servers."""

        def look(client: Any) -> bool:
            state = client.sentinel_master(SERVICE)
            others = (state["num-other-sentinels"], state["num-slaves"])
            return others == (SERVERS - 1, SERVERS - 1)

        return bool(self._ask(look, False))

    def _ask(self, look: Any, default: Any) -> Any:
        try:
            with Redis(port=self.port, socket_timeout=5) as client:
                return look(client)
        except (RedisError, TypeError):  # it is away, or names nobody
            return default


class SentinelRedis(Form):
    """Three servers and three sentinels."""

    def start(self) -> None:
        enter = self._stack.enter_context
        self.servers = [Replica(self.folder) for _ in range(SERVERS)]
        for number, server in enumerate(self.servers):
            server.master = self.servers[0].port if number else 0
            enter(server)
        for server in self.servers[1:]:
            server.wait_for("link to the master", server.is_linked)
        master = self.servers[0].port
        self.sentinels = [enter(Sentinel(self.folder, master)) for _ in range(SERVERS)]
        for sentinel in self.sentinels:
            sentinel.wait_for("sight of all others", sentinel.knows_all)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis-sentinel://{hosts}/{SERVICE}/0"

    @property
    def master(self) -> Replica:
        """The server that most sentinels name."""
        ports = [port for port in (each.master_port() for each in self.sentinels) if port]
        most = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == most)

    def processes(self) -> dict[str, int]:
        servers = {f"Redis {number}": each.pid for number, each in enumerate(self.servers)}
        others = {f"Redis Sentinel {n}": each.pid for n, each in enumerate(self.sentinels)}
        return servers | others

    def client(self) -> Redis:
        return self.master.client()

    @property
    def harms(self) -> list[Harm]:
        return [
            Harm("master killed", "Redis", self._kill_master),
            Harm("master stopped for seconds", "Redis", self._stop_master),
            Harm("sentinel killed", "Redis", self._kill_sentinel),
            Harm("connections to Redis broken", "Redis", self._break),
        ]

    async def _kill_master(self, rng: random.Random) -> None:
        old = await trio.to_thread.run_sync(lambda: self.master)
        began = now_ms()
        await trio.to_thread.run_sync(old.kill)
        await wait_until(partial(self._has_left, old), "fail-over", FAIL_OVER_SECONDS)
        self.fail_overs.append((began - LAG_MS, now_ms() + LAG_MS))
        await trio.sleep(rng.choice((0.0, 1.0, 5.0)))
        old.master = (await trio.to_thread.run_sync(lambda: self.master)).port
        await old.start_again()
        await self._come_to_rest()

    async def _stop_master(self, rng: random.Random) -> None:
        old = await trio.to_thread.run_sync(lambda: self.master)
        began = now_ms()
        await old.stand_still(rng.choice(STILL_SECONDS))
        await self._come_to_rest()
        self.fail_overs.append((began - LAG_MS, now_ms() + LAG_MS))

    async def _kill_sentinel(self, rng: random.Random) -> None:
        sentinel = rng.choice(self.sentinels)
        await trio.to_thread.run_sync(sentinel.kill)
        await trio.sleep(rng.choice((0.0, 3.0)))
        sentinel.launch()
        await trio.to_thread.run_sync(sentinel.wait_ready)

    async def _break(self, rng: random.Random) -> None:
        master = await trio.to_thread.run_sync(lambda: self.master)
        await master.break_connections(rng.choice(("normal", "pubsub")))

    def _has_left(self, old: Replica) -> bool:
        """All sentinels name another server, which is a master."""
        ports = {sentinel.master_port() for sentinel in self.sentinels}
        return len(ports) == 1 and old.port not in ports and self.master.role() == "master"

    async def _come_to_rest(self) -> None:
        await wait_until(self._is_at_rest, "replicas behind one master", FAIL_OVER_SECONDS)

    def _is_at_rest(self) -> bool:
        ports = {sentinel.master_port() for sentinel in self.sentinels}
        if len(ports) != 1 or 0 in ports:
            return False
        replicas = [server for server in self.servers if server.port not in ports]
        return self.master.role() == "master" and all(
            server.role() == "slave" and server.is_linked() for server in replicas
        )
