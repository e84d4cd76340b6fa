"""A worker as its parent sees it: one life after the other, each a process of its own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
import trio

from ...base.child import tied_command, wait_exit
from ...base.settings import BUILT_IN, Config
from ...door.listeners import Hatch, hand_over
from .link import LINK, LinkData, Report

PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before a worker is started again, by how many short lives it has had in a row."""
STEADY_SECONDS = 60.0
"""A worker that lived so long was well."""
SILENT_SECONDS = 30.0
"""A worker that gives no sign of life for so long is ended, and started again."""
LATE_SECONDS = 3.0
"""One that gives none for so long gets connections only if all the others do so too."""
LAST_WORDS_SECONDS = 1.0
"""From SIGABRT, at which a worker says where it stands, to SIGKILL."""

_OF_SYSTEMD = frozenset(("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
_NOT_NOW = frozenset((errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))
_NO_REPORT = Report(False, ["starting"], 0, 0, 0, 0, 0)
_REPORT_BYTES = 65536

log = structlog.get_logger("fastimd.worker")


@dataclass(slots=True, eq=False)
class _Life:
    """One process of a worker, with the parent's end of their channel, and its own.

    What waits there can be taken back when the worker has died, or takes no more.
    """

    process: subprocess.Popen[bytes]
    channel: socket.socket
    waiting: Hatch
    report: Report = _NO_REPORT
    heard_at: float = field(default_factory=trio.current_time)
    handed: int = 0
    owes_reload: bool = False
    """It is to read the settings again once it serves: at first the signal would end it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all workers have in common.

    Args:
        address: where their connections are accepted.
        folder: a private one, for the unix sockets of their admin addresses.
        environment: of their processes, beside what is each one's own.
        on_change: called when one has begun or ceased to take connections.
        on_returned: gets the connections that were handed to one and that it has not taken.
    """

    config: Config
    count: int
    address: str
    folder: Path
    environment: Mapping[str, str]
    on_change: Callable[[], None]
    on_returned: Callable[[socket.socket, str], None]


class Worker:
    """One of the workers; ``number`` is from 1 on."""

    def __init__(self, number: int, setting: Setting) -> None:
        self.number = number
        self.admin = setting.folder / f"{number}.sock"
        self.restarts = 0
        self.has_served = False
        self._setting = setting
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one."""
        return None if self._life is None else self._life.process.pid

    @property
    def report(self) -> Report:
        """How it is, as it said itself."""
        return _NO_REPORT if self._life is None else self._life.report

    @property
    def load(self) -> int:
        """How many connections it has, those under way to it included."""
        life = self._life
        return 0 if life is None else life.report.connections + life.handed - life.report.accepted

    @property
    def is_late(self) -> bool:
        """It has given no sign of life for longer than it should."""
        life = self._life
        return life is not None and trio.current_time() > life.heard_at + LATE_SECONDS

    @property
    def reasons(self) -> list[str]:
        """Why it cannot serve; empty if it can."""
        return [*self.report.reasons, *(["gives no sign of life"] if self.is_late else [])]

    def hand_over(self, connection: socket.socket, name: str) -> bool:
        """Hand it a connection; False when it can take none now."""
        life = self._life
        if life is None:
            return False
        try:
            hand_over(life.channel, connection, name)
        except OSError as exc:
            if exc.errno not in _NOT_NOW:
                raise
            return False
        life.handed += 1
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; a SIGHUP once it takes connections: before, it could end it."""
        life = self._life
        if life is None:
            return
        if number is signal.SIGHUP and not life.report.takes:
            life.owes_reload = True
        else:
            life.process.send_signal(number)

    async def run(self, stopping: trio.Event, *, is_trial: bool = False) -> int:
        """Keep it alive until it ends when it is to; returns the status of its last process.

        Args:
            is_trial: it is not started again before it has served once.
        """
        short_lives = status = 0
        while not stopping.is_set():
            began = trio.current_time()
            status = await self._live()
            seconds = round(trio.current_time() - began, 3)
            if stopping.is_set() or (is_trial and not self.has_served):
                log.info("worker.ended", worker=self.number, status=status, seconds=seconds)
                return status
            short_lives = 0 if seconds >= STEADY_SECONDS else short_lives + 1
            pause = PAUSES[min(max(short_lives - 1, 0), len(PAUSES) - 1)]
            self.restarts += 1
            log.error(
                "worker.died",
                worker=self.number,
                status=status,
                seconds=seconds,
                short_lives=short_lives,
                restart_in=pause,
            )
            with trio.move_on_after(pause):
                await stopping.wait()
        return status

    async def _live(self) -> int:
        """Start a process and wait for its end; returns its exit status, of a signal negative."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            process = self._start(theirs.fileno())
            life = self._life = _Life(process, ours, Hatch(theirs, self._setting.address))
            log.info("worker.started", worker=self.number, pid=process.pid)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear, life)
                    nursery.start_soon(self._watch, life)
                    await wait_exit(process)
                    nursery.cancel_scope.cancel()
            finally:
                if process.poll() is None:
                    log.error("worker.killed", worker=self.number, pid=process.pid)
                    process.kill()
                self._note(life, msgspec.structs.replace(life.report, takes=False))
                self._life = None
        return process.wait()

    def _start(self, channel: int) -> subprocess.Popen[bytes]:
        setting = self._setting
        data = LinkData(self.number, setting.count, channel, setting.address)
        environment = {
            **setting.environment,
            LINK: msgspec.json.encode(data).decode(),
            "FASTIMD_ADMIN__BIND": f"unix:{self.admin}",
        }
        return subprocess.Popen(  # noqa: S603  # our own words, no shell
            _command(setting.config),
            stdin=subprocess.DEVNULL,
            pass_fds=(channel,),
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which hands it on once
        )

    async def _hear(self, life: _Life) -> None:
        while True:
            await trio.lowlevel.wait_readable(life.channel)
            try:
                said = life.channel.recv(_REPORT_BYTES)
            except BlockingIOError:
                continue
            life.heard_at = trio.current_time()
            self._note(life, msgspec.json.decode(said, type=Report))
            if life.owes_reload and life.report.takes:
                life.owes_reload = False
                life.process.send_signal(signal.SIGHUP)

    def _note(self, life: _Life, report: Report) -> None:
        before, life.report = life.report, report
        self.has_served = self.has_served or report.takes
        if before.takes == report.takes:
            return
        self._setting.on_change()
        if not report.takes:
            with suppress(OSError):  # there is no other, or no descriptor left
                while True:
                    connection, (name,) = life.waiting.accept()
                    self._setting.on_returned(connection, name)

    async def _watch(self, life: _Life) -> None:
        while True:
            await trio.sleep_until(life.heard_at + SILENT_SECONDS)
            if trio.current_time() < life.heard_at + SILENT_SECONDS:
                continue
            log.error("worker.silent", worker=self.number, pid=life.process.pid)
            life.process.send_signal(signal.SIGABRT)
            await trio.sleep(LAST_WORDS_SECONDS)
            life.process.kill()
            await trio.sleep_forever()


def _command(config: Config) -> list[str]:
    """The same code with the same settings; the kernel ends it with its parent."""
    here = Path(__file__).parents[3]
    # What else the working directory may hold is not ours.
    code = ["-m", "fastimd"] if here == Path.cwd() else ["-P", "-m", "fastimd"]
    source = [] if config.source == BUILT_IN else ["--config", config.source]
    return tied_command([sys.executable, *code, "serve", *source], signal.SIGKILL)


def worker_environment(redis_url: str) -> dict[str, str]:
    """What each worker's begins with: Redis and systemd are the parent's to speak with."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD}
    return {**kept, "FASTIMD_REDIS__URL": redis_url}
