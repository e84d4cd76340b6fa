"""A Redis with sentinels for the tests: a master, two replicas and three sentinels, by processes.

Any of them can be killed, stopped and started again; its port and its folder stay the same.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from conftest import wait_for
from faults import free_port
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

SERVICE = "chat"
DOWN_MILLISECONDS = 1000
"""After so much silence a sentinel holds a server to be down."""


class Process:
    """A redis-server or a sentinel."""

    def __init__(
        self, executable: str, folder: Path, settings: str, tls: Path | None, password: str
    ) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir()
        self._executable = executable
        where = f"port {self.port}"
        if tls is not None:
            where = (
                f"port 0\ntls-port {self.port}\ntls-auth-clients no\ntls-replication yes\n"
                f"tls-cert-file {tls}\ntls-key-file {tls}\ntls-ca-cert-file {tls}"
            )
        login = f"requirepass {password}\n" if password else ""
        self._file = folder / "redis.conf"
        self._file.write_text(f"{where}\nbind 127.0.0.1\ndir {folder}\n{login}{settings}\n")
        self._client_options: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "password": password or None,
            "ssl": tls is not None,
            "socket_timeout": 1,
            "retry": Retry(NoBackoff(), 0),
            **({"ssl_ca_certs": str(tls)} if tls is not None else {}),
        }
        self.client = Redis(**self._client_options)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, again perhaps, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._executable, str(self._file), *options], stdout=log, stderr=log
            )
        wait_for(self.answers, seconds=30)

    def answers(self) -> bool:
        """Whether it answers a ping."""
        with contextlib.suppress(exceptions.RedisError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *command: str | int) -> Any:
        """The reply to any command."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def role(self) -> str:
        """``master``, ``slave``, or nothing when it does not answer."""
        with contextlib.suppress(exceptions.RedisError):
            return str(self.client.info("replication")["role"])
        return ""

    def close(self) -> None:
        """End it for good."""
        self.client.close()
        self.kill()


class Company:
    """The servers and their sentinels.

    ``url`` is for daemons, with the passwords.
    """

    def __init__(
        self,
        executable: str,
        folder: Path,
        *,
        tls: Path | None = None,
        password: str = "",
        sentinel_password: str = "",
        settings: Sequence[str] = (),
        url_options: Mapping[str, str] | None = None,
    ) -> None:
        self._password = password
        auth = f"masterauth {password}\n" if password else ""
        server = partial(Process, executable, tls=tls, password=password)
        common = "\n".join(
            (
                *('save ""', "appendonly yes", "appendfsync no", "repl-diskless-sync-delay 0"),
                *("repl-ping-replica-period 1", *settings),
            )
        )
        self.servers = [
            server(folder / f"server-{number}", settings=auth + common) for number in range(3)
        ]
        self.sentinels: list[Process] = []
        for number in range(3):
            watched = (
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_MILLISECONDS}\n"
                f"sentinel failover-timeout {SERVICE} 10000\n"
            )
            if password:
                watched += f"sentinel auth-pass {SERVICE} {password}\n"
            if sentinel_password:
                watched += f"sentinel sentinel-pass {sentinel_password}\n"
            self.sentinels.append(
                Process(executable, folder / f"sentinel-{number}", watched, tls, sentinel_password)
            )
        options = {**(url_options or {})}
        if sentinel_password:
            options["sentinel_password"] = sentinel_password
        if tls is not None:
            options["ssl_ca_certs"] = str(tls)
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{password}@" if password else ""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        scheme = "redis-sentinel" if tls is None else "rediss-sentinel"
        self.url = f"{scheme}://{login}{hosts}/{SERVICE}/0" + (f"?{query}" if query else "")

    def start(self) -> None:
        """Start all, and wait until every sentinel knows of all the others."""
        master, *replicas = self.servers
        master.start()
        for replica in replicas:
            replica.start("--replicaof", "127.0.0.1", str(master.port))
        for replica in replicas:
            wait_for(partial(_is_linked, replica), seconds=40)
        for sentinel in self.sentinels:
            sentinel.start("--sentinel")
        for sentinel in self.sentinels:
            wait_for(partial(_knows_all, sentinel), seconds=40)

    @property
    def master(self) -> Process:
        """The server that most sentinels name."""
        ports = [port for port in map(named_by, self.sentinels) if port]
        most = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == most)

    def client_of(self, _group: str) -> Redis:
        """A client of the server that has a group."""
        return self.master.client

    def wait_failed_over(self, old: Process, seconds: float = 30) -> Process:
        """Wait until all sentinels that run name another master, which is one; returns it."""
        living = [each for each in self.sentinels if each.answers()]

        def is_over() -> bool:
            ports = {named_by(sentinel) for sentinel in living}
            return len(ports) == 1 and old.port not in ports and self.master.role() == "master"

        wait_for(is_over, seconds=seconds)
        return self.master

    def close(self) -> None:
        """End everything."""
        for process in (*self.sentinels, *self.servers):
            process.close()


def named_by(sentinel: Process) -> int:
    """The port of the master that a sentinel names, or 0."""
    with contextlib.suppress(exceptions.RedisError):
        found: Any = sentinel.client.sentinel_get_master_addr_by_name(SERVICE)
        return int(found[1]) if found else 0
    return 0


def _is_linked(replica: Process) -> bool:
    return replica.client.info("replication").get("master_link_status") == "up"


def _knows_all(sentinel: Process) -> bool:
    state: Any = sentinel.client.sentinel_master(SERVICE)
    return (state["num-other-sentinels"], state["num-slaves"]) == (2, 2)


@contextmanager
def company(executable: str, folder: Path, **options: Any) -> Iterator[Company]:
    """Servers and sentinels that run."""
    folder.mkdir(exist_ok=True)
    made = Company(executable, folder, **options)
    try:
        made.start()
        yield made
    finally:
        made.close()
