"""The parent of several workers: it accepts for them, looks after them, and reports for the whole.

It serves no client itself. Each connection goes to the worker that has the fewest, which a socket
of each worker's own on the address (SO_REUSEPORT) cannot do: the kernel would divide by chance, and
once only, while connections live long. ``bench/spread.py`` compares the two.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
import trio

from ... import __version__
from ...base import log as logs
from ...base import systemd
from ...base.errors import WorkerFailed
from ...base.metrics import Metrics
from ...base.settings import Config
from ...base.supervise import open_floor, supervise
from ...door.door import ACCEPTS_A_TURN, rest_after
from ...door.listeners import address_of, listen, raise_file_limit
from ...door.receiver import Readiness
from ..admin import open_admin
from ..ground import open_redis, take_listeners
from ..reload import reload
from .office import Office
from .worker import Setting, Worker, worker_environment

LAST_SECONDS = 10.0
"""How much longer than ``server.drain_seconds`` workers may take to end."""
RETRY_SECONDS = 0.01
"""How soon a connection is offered again that no worker could take."""
_STOPPING = frozenset((signal.SIGTERM, signal.SIGINT))

log = structlog.get_logger("fastimd.daemon")


async def serve_workers(config: Config, count: int) -> None:
    """Run so many workers until SIGTERM or SIGINT, then have them drain.

    Raises:
        StartupError: they cannot start.
        WorkerFailed: the first of them cannot.
        TaskCrashed: a task of the parent crashed; the log line says why.
    """
    log.info(
        "daemon.starting",
        version=__version__,
        config=config.source,
        pid=os.getpid(),
        workers=count,
    )
    inherited = take_listeners(os.environ)
    raise_file_limit()  # each connection is open here for a moment
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    with (
        TemporaryDirectory(prefix="fastimd-") as folder,
        Readiness() as readiness,
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals,
    ):
        async with open_floor() as floor:
            floor.start_soon(supervise, "log", logs.keep_telling)
            url = await open_redis(config, floor)
            listeners = inherited["http"] or [listen(config.server.bind, "server.bind")]
            parent = Parent(config, count, listeners, Path(folder), worker_environment(url))
            floor.start_soon(supervise, "signals", parent.wait_signals, signals)
            parent.admin = await _open_office(config, floor, readiness, parent, inherited["admin"])
            if systemd.is_listening():
                tell = partial(systemd.keep_told, parent.state, parent.serving)
                floor.start_soon(supervise, "systemd", tell)
            await parent.run()
    logs.tell_left_out()
    log.info("daemon.stopped")


async def _open_office(
    config: Config,
    floor: trio.Nursery,
    readiness: Readiness,
    parent: Parent,
    inherited: list[socket.socket],
) -> str:
    metrics = Metrics()
    floor.start_soon(supervise, "readiness", readiness.run)
    office = Office(parent.workers, metrics, config.source, parent.reasons_not_ready)
    return await open_admin(config, floor, metrics, readiness, office.create_app, inherited)


class Parent:
    """The workers, and what is asked of all of them."""

    def __init__(
        self,
        config: Config,
        count: int,
        listeners: list[socket.socket],
        folder: Path,
        environment: dict[str, str],
    ) -> None:
        self.serving = trio.Event()
        self.admin = "off"
        self._config = config
        self._listeners = listeners
        self._address = address_of(listeners[0])
        self._stopping = trio.Event()
        self._changed = trio.Event()
        self._accepting: trio.Nursery | None = None
        setting = Setting(
            config,
            count,
            self._address,
            folder,
            environment,
            on_change=self._note_change,
            on_returned=self._take_back,
        )
        self.workers = [Worker(number, setting) for number in range(1, count + 1)]

    async def run(self) -> None:
        """Keep the workers alive, until all have ended after a signal."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_first)
            while not self.workers[0].has_served and not self._stopping.is_set():
                await self._changed.wait()
            for worker in self.workers[1:]:
                nursery.start_soon(worker.run, self._stopping)
            async with open_floor() as self._accepting:
                for listener in self._listeners:
                    self._accepting.start_soon(supervise, "door", partial(self._accept, listener))
                await self._stopping.wait()
            self._accepting = None
            systemd.notify("STOPPING=1")
            nursery.cancel_scope.deadline = (
                trio.current_time() + self._config.server.drain_seconds + LAST_SECONDS
            )

    async def wait_signals(self, signals: AsyncIterator[int]) -> None:
        """Do what each signal asks, until cancelled; a second one to stop ends the workers."""
        async for each in signals:
            number = signal.Signals(each)
            log.info("daemon.signal", signal=number.name)
            if number is signal.SIGHUP:
                if not self._stopping.is_set():
                    reload(self._config, self._hand_on_reload)
                continue
            self._signal(signal.SIGKILL if self._stopping.is_set() else number)
            self._stopping.set()
            self._note_change()

    def reasons_not_ready(self) -> list[str]:
        """Empty while one worker can serve: the others are away for a moment."""
        if self._stopping.is_set():
            return ["draining"]
        if any(worker.report.takes and not worker.reasons for worker in self.workers):
            return []
        return [
            f"worker {worker.number}: {reason}"
            for worker in self.workers
            for reason in worker.reasons
        ]

    def state(self) -> systemd.State:
        """How the whole is, for systemd."""
        reports = [worker.report for worker in self.workers]
        return systemd.State(
            f"{sum(report.takes for report in reports)} of {len(reports)} workers serve,"
            f" {sum(report.sockets for report in reports):,} sockets",
            sum(report.messages for report in reports),
        )

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.signal(number)

    def _hand_on_reload(self) -> None:
        self._signal(signal.SIGHUP)

    async def _run_first(self) -> None:
        first = self.workers[0]
        status = await first.run(self._stopping, is_trial=True)
        if not first.has_served and not self._stopping.is_set():
            raise WorkerFailed(status)

    async def _accept(self, listener: socket.socket) -> None:
        """Accept for the workers until cancelled; while none takes any, connections wait."""
        with listener:
            while True:
                while not any(worker.report.takes for worker in self.workers):
                    await self._changed.wait()
                await trio.lowlevel.wait_readable(listener)
                try:
                    for _ in range(ACCEPTS_A_TURN):
                        connection, peer = listener.accept()
                        await self._hand_over(connection, peer[0] if peer else "unix")
                except BlockingIOError:
                    pass
                except OSError as exc:
                    await rest_after(exc, 0)

    async def _hand_over(self, connection: socket.socket, name: str) -> None:
        """Hand a connection to the worker with the fewest, as soon as one can take it."""
        with connection:
            while True:
                taking = [worker for worker in self.workers if worker.report.takes]
                for worker in sorted(taking, key=_burden):
                    if worker.hand_over(connection, name):
                        return
                await trio.sleep(RETRY_SECONDS)

    def _take_back(self, connection: socket.socket, name: str) -> None:
        """Hand it to another worker, unless all are to end."""
        if self._accepting is None:
            connection.close()
        else:
            self._accepting.start_soon(self._hand_over, connection, name)

    def _note_change(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        if not self.serving.is_set() and all(worker.report.takes for worker in self.workers):
            log.info("daemon.serving", page=f"{self._address}/test/websocket", admin=self.admin)
            systemd.notify("READY=1", f"MAINPID={os.getpid()}")
            self.serving.set()


def _burden(worker: Worker) -> tuple[bool, int]:
    return worker.is_late, worker.load
