"""The forms of Redis under a soak: one, one with replicas and sentinels, a cluster.

A form has a ``url`` for daemons, the ``harms`` that can be done to it, and reads the lists at the
end. All its servers write down everything before they answer.
"""

from __future__ import annotations

import json
import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import trio
from redis import Redis
from redis.exceptions import RedisError
from servers import BenchRedis

from .counts import Stored, read_text
from .harm import Harm

PAGE = 1000
AWAY_SECONDS = (0.0, 0.5, 3.0)
STILL_SECONDS = (1.0, 3.0, 6.0)


class RedisServer(BenchRedis):
    """A redis-server that can be harmed."""

    @property
    def options(self) -> tuple[str, ...]:
        """What its form needs."""
        return ()

    def command(self) -> list[str]:
        command = super().command()
        at = command.index("--appendonly")
        return [*command[:at], "--appendonly", "yes", "--appendfsync", "always", *self.options]

    async def start_again(self) -> None:
        """After its end."""
        self.launch()
        await trio.to_thread.run_sync(self.wait_ready)

    async def be_away(self, seconds: float) -> None:
        """SIGKILL, and start again after a while."""
        self.kill()
        await trio.sleep(seconds)
        await self.start_again()

    async def stand_still(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT: connections are taken by the kernel, and nobody answers."""
        self.send_signal(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            self.send_signal(signal.SIGCONT)

    async def break_connections(self, kind: str) -> None:
        """End those of a kind, ``normal`` or ``pubsub``."""
        with self.client() as client:
            await trio.to_thread.run_sync(
                lambda: client.execute_command("CLIENT", "KILL", "TYPE", kind)
            )


class Form(ABC):
    """A form of Redis, which runs as long as the ``with`` block.

    ``fail_overs`` has from when to when, in milliseconds of the wall clock, a master may have lost
    what its replicas had not yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fail_overs: list[tuple[int, int]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def start(self) -> None:
        """Start all of it."""

    @property
    @abstractmethod
    def url(self) -> str:
        """For daemons."""

    @property
    @abstractmethod
    def harms(self) -> list[Harm]:
        """What can be done to it."""

    @abstractmethod
    def processes(self) -> dict[str, int]:
        """Its processes, by what they are."""

    @abstractmethod
    def client(self) -> Any:
        """A client that finds every key."""

    def key(self, group: str) -> str:
        """Where the list of a group is."""
        return f"gml:{group}"

    def read(self, group: str) -> list[Stored]:
        """What is in the list of a group."""
        client = self.client()
        try:
            return list(self._read(client, self.key(group)))
        finally:
            client.close()

    def forget(self, group: str) -> None:
        """Delete the list of a group that nobody judges."""
        client = self.client()
        try:
            client.delete(self.key(group))
        except RedisError:
            pass  # it is away now; the list stays
        finally:
            client.close()

    @staticmethod
    def _read(client: Redis, key: str) -> Iterator[Stored]:
        at = 0
        while page := client.lrange(key, at, at + PAGE - 1):
            for entry in page:
                fields = json.loads(entry)
                yield fields["ts"], read_text(fields["info"])
            at += len(page)


class OneRedis(Form):
    """One redis-server."""

    def start(self) -> None:
        self.server = self._stack.enter_context(RedisServer(self.folder))

    @property
    def url(self) -> str:
        return self.server.url

    def processes(self) -> dict[str, int]:
        return {"Redis": self.server.pid}

    def client(self) -> Redis:
        return self.server.client()

    @property
    def harms(self) -> list[Harm]:
        return [
            Harm("Redis killed", "Redis", self._kill),
            Harm("Redis stopped for seconds", "Redis", self._stop),
            Harm("connections to Redis broken", "Redis", self._break),
        ]

    async def _kill(self, rng: random.Random) -> None:
        await self.server.be_away(rng.choice(AWAY_SECONDS))

    async def _stop(self, rng: random.Random) -> None:
        await self.server.stand_still(rng.choice(STILL_SECONDS))

    async def _break(self, rng: random.Random) -> None:
        for kind in rng.choice((("normal",), ("pubsub",), ("normal", "pubsub"))):
            await self.server.break_connections(kind)
