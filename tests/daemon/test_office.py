"""The counters of several workers, asked of workers that restart just then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from fastimd.base.metrics import Metrics
from fastimd.daemon.workers.link import Report
from fastimd.daemon.workers.office import Office
from fastimd.daemon.workers.worker import Worker


class Process:
    """A worker as its parent knows it, and what it says.

    ``counted`` is how many messages its process has received; ``then`` is called when it has
    answered.
    """

    number = 1
    restarts = load = 0
    report = Report(True, [], 0, 0, 0, 0, 0)

    def __init__(self, folder: Path) -> None:
        self.admin = folder / "1.sock"
        self.pid: int | None = 1
        self.counted = 0
        self.then: Callable[[], None] = lambda: None

    async def serve(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        """Answer whoever asks."""
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(str(self.admin))
            listening.listen()
            listener = trio.SocketListener(listening)
            await trio.serve_listeners(self._answer, [listener], task_status=task_status)

    async def _answer(self, stream: trio.SocketStream) -> None:
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            asked += await stream.receive_some()
        metrics = Metrics()
        metrics.messages_received = self.counted
        registry = CollectorRegistry()
        registry.register(metrics)
        told = generate_latest(registry)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(told)
        await stream.send_all(head + told)
        self.then()

    def restart(self, counted: int) -> None:
        """Be another process, which has counted so much already."""
        self.then = lambda: None
        assert self.pid is not None
        self.pid += 1
        self.counted = counted


@pytest.fixture
async def process(tmp_path: Path, nursery: trio.Nursery) -> Process:
    process = Process(tmp_path)
    await nursery.start(process.serve)
    return process


@pytest.fixture
async def office(process: Process) -> Office:
    return Office([cast(Worker, process)], Metrics(), "built-in defaults", list)


async def messages(office: Office) -> int:
    """How many messages the whole has received."""
    families = await office._count()
    return int(sum(families["fastimd_messages_received"].samples.values()))


async def test_a_worker_that_restarts_while_it_is_asked_counts_on(
    office: Office, process: Process
) -> None:
    """What its old process says last is the old one's: it is added to the new one's, and once."""
    process.counted = 7
    assert await messages(office) == 7
    process.counted = 10
    process.then = partial(process.restart, 2)
    assert await messages(office) == 10
    assert await messages(office) == 12
    process.counted = 3
    assert await messages(office) == 13
