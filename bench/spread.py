"""How evenly several processes on one port share its connections.

Either each has a queue of its own (``SO_REUSEPORT``), among which the kernel chooses by a hash of
the addresses, or all accept from the queue of one socket that they inherit, or they are the workers
of one daemon (``server.workers``), whose parent accepts for them.

python bench/spread.py --instances 4 --sockets 2000
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import httpx
from servers import BenchRedis, Fastimd

AT_ONCE = 100
"""Clients that connect at the same time, where they come at once."""
LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
os.execv(sys.argv[2], sys.argv[2:])
"""

Listeners = Callable[[int], list[socket.socket]]


class Instance(Fastimd):
    """A daemon with an inherited listening socket; ``port`` is its admin port."""

    listener: socket.socket

    def command(self) -> list[str]:
        return [sys.executable, "-c", LAUNCHER, str(self.listener.fileno()), *super().command()]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "FASTIMD_ADMIN__BIND": f"127.0.0.1:{self.port}"}

    def descriptors(self) -> Sequence[int]:
        return (self.listener.fileno(),)

    def wait_ready(self) -> None:
        self.wait_for("event daemon.serving", self._serves)

    def sockets(self) -> int:
        """How many it has now."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            found = re.search(r"^fastimd_sockets (\S+)$", answer.read().decode(), re.M)
        assert found is not None
        return int(float(found[1]))


class Workers(Fastimd):
    """One daemon of several workers."""

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "FASTIMD_ADMIN__BIND": f"unix:{self.folder}/admin.sock"}

    def sockets(self) -> list[int]:
        """How many each worker has now."""
        transport = httpx.HTTPTransport(uds=f"{self.folder}/admin.sock")
        with httpx.Client(transport=transport, timeout=10) as client:
            scraped = client.get("http://localhost/metrics").text
        found = re.findall(r"^fastimd_worker_connections\{.*\} (\S+)$", scraped, re.M)
        return [int(float(each)) for each in found]


def own_queues(count: int) -> list[socket.socket]:
    """A listening socket for each, all on one port."""
    first = _listen(0)
    return [first, *(_listen(first.getsockname()[1]) for _ in range(count - 1))]


def shared_queue(count: int) -> list[socket.socket]:
    """The same listening socket for all."""
    return [_listen(0)] * count


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    return listener


@contextmanager
def instances(
    folder: Path, redis: BenchRedis, listeners: list[socket.socket]
) -> Iterator[list[Instance]]:
    """A running daemon for each of the sockets."""
    with ExitStack() as stack:
        running = []
        for listener in listeners:
            instance = Instance(folder, redis)
            instance.listener = listener
            running.append(stack.enter_context(instance))
        yield running


def join(port: int, number: int) -> socket.socket:
    """A socket of a chat that has had its greeting."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=30)
    stream.sendall(
        f"GET /group/chat/{number % 100}/u{number}/t HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    answer = b""
    while b'"list"' not in answer:
        data = stream.recv(65536)
        if not data:
            raise ConnectionError(f"the daemon closed: {answer!r}")
        answer += data
    return stream


def spread(
    folder: Path, redis: BenchRedis, listen: Listeners, count: int, sockets: int, at_once: int
) -> list[int]:
    """Sockets of each instance, after so many have come."""
    listeners = listen(count)
    port = listeners[0].getsockname()[1]
    try:
        with instances(folder, redis, listeners) as running:
            return come(
                port, sockets, at_once, lambda: [instance.sockets() for instance in running]
            )
    finally:
        for listener in set(listeners):
            listener.close()


def spread_workers(
    folder: Path, redis: BenchRedis, count: int, sockets: int, at_once: int
) -> list[int]:
    """Sockets of each worker, after so many have come."""
    daemon = Workers(folder, redis)
    daemon.workers = count
    with daemon:
        return come(daemon.port, sockets, at_once, daemon.sockets)


def come(port: int, sockets: int, at_once: int, look: Callable[[], list[int]]) -> list[int]:
    """Open so many sockets; returns what ``look`` finds then."""
    with ThreadPoolExecutor(at_once) as pool:
        clients = list(pool.map(lambda number: join(port, number), range(sockets)))
        found = look()
        for client in clients:
            client.close()
    if sum(found) != sockets:
        raise ConnectionError(f"{sockets} sockets opened, {sum(found)} found")
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--sockets", type=int, default=2000)
    arguments = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("| queue | clients come | sockets of each | the most, of an even share |")
    print("|---|---|---|---|")
    with TemporaryDirectory() as name, BenchRedis(Path(name)) as redis:
        ways: dict[str, Callable[..., list[int]]] = {
            "its own": partial(spread, Path(name), redis, own_queues),
            "shared": partial(spread, Path(name), redis, shared_queue),
            "workers": partial(spread_workers, Path(name), redis),
        }
        for name, way in ways.items():
            for manner, at_once in (("one after another", 1), (f"{AT_ONCE} at a time", AT_ONCE)):
                found = way(arguments.instances, arguments.sockets, at_once)
                share = max(found) * len(found) / sum(found)
                print(
                    f"| {name} | {manner} | {', '.join(map(str, found))} | {share:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
