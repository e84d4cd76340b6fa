"""One life of the server: the process, what it prints, and its end.

It gets SIGTERM, time to flush the append-only file, and at last SIGKILL. Everything it prints is
read until the end of the pipe, for a server that fills the pipe stands still. The last lines are
kept: they hold its own reason when it does not start.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from ...base.child import wait_exit
from . import answer

STOP_SECONDS = 10.0
"""From SIGTERM to SIGKILL: the time a server has to flush its append-only file."""

KILL_SECONDS = 5.0
"""From SIGKILL to giving up on a process that the kernel does not let go (a hung disk)."""

REST_SECONDS = 1.0
"""How long to read what an ended server left in the pipe, should a child of it hold it open."""

LINES_KEPT = 20

_READ_SIZE = 65536
_PRIVATE_UMASK = 0o077  # the append-only file holds login tokens

# "8734:M 23 Nov 2026 10:54:49.197 * Ready": pid, role, time, level (. - * are not warnings).
_LINE_START = re.compile(r"\d+:[A-Z] \d.*?\d (?P<level>[.\-*#]) ")

log: FilteringBoundLogger = structlog.get_logger("fastimd.redis")


@dataclass(frozen=True, slots=True)
class Life:
    """How the life of one server went, for whoever decides what comes next.

    ``lines`` are the last that it printed; ``last_words`` of them came after it had answered, or,
    when it never did, all.
    """

    answered: bool
    seconds: float
    end: str
    lines: tuple[str, ...] = ()
    last_words: int = 0

    @property
    def reason(self) -> str:
        """How it ended, and the last of its last words that is not mere progress.

        Warnings from its start do not explain a later end.
        """
        for line in reversed(self.lines[len(self.lines) - self.last_words :]):
            start = _LINE_START.match(line)
            if start is None or start["level"] == "#":
                return f"{self.end}: {line[start.end() if start else 0 :]}"
        return self.end


@dataclass(slots=True, eq=False)
class _Server:
    """A started redis-server and the last lines it printed."""

    process: subprocess.Popen[bytes]
    output: trio.lowlevel.FdStream
    answered: bool = False
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    unfinished: bytes = b""
    last_words: int = 0

    async def read_output(self) -> None:
        """Log and keep every line, until nobody holds the other end of the pipe."""
        while chunk := await self.output.receive_some(_READ_SIZE):
            *lines, self.unfinished = (self.unfinished + chunk).split(b"\n")
            for line in lines:
                self.keep_line(line)

    def keep_line(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").rstrip()
        if text:
            self.lines.append(text)
            self.last_words = min(self.last_words + 1, LINES_KEPT)
            log.debug("redis.server", line=text)

    async def wait_end(self) -> None:
        """Wait until the process has ended and what it printed is read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read_output)
            await wait_exit(self.process)
            nursery.cancel_scope.deadline = trio.current_time() + REST_SECONDS

    async def watch_answer(
        self, socket_path: Path, announce: Callable[[], None], scope: trio.CancelScope
    ) -> None:
        """Call ``announce`` when the server answers, or cancel ``scope`` when it does not."""
        self.answered = await answer.wait_answering(socket_path)
        if self.answered:
            self.last_words = 0
            announce()
        else:
            scope.cancel()

    async def aclose(self) -> None:
        """End the process if it lives, in good order or at last by force; close the pipe."""
        try:
            if self.process.returncode is None:
                await self.stop()
        finally:
            self.output.close()
            self.keep_line(self.unfinished)

    async def stop(self) -> None:
        with trio.move_on_after(STOP_SECONDS, shield=True):
            self.process.terminate()
            await self.wait_end()
        if self.process.poll() is not None:
            return
        log.error("redis.killed", pid=self.process.pid, after_seconds=STOP_SECONDS)
        self.process.kill()
        with trio.move_on_after(KILL_SECONDS, shield=True):
            await self.wait_end()
        if self.process.poll() is None:
            log.error("redis.stuck", pid=self.process.pid, after_seconds=KILL_SECONDS)

    def describe_end(self) -> str:
        code = self.process.returncode
        if code is None:
            return f"no answer in {answer.ANSWER_SECONDS:g} s"
        if code < 0:
            return f"killed by signal {-code} ({signal.strsignal(-code)})"
        return f"exit status {code}"


def _start(command: list[str], lock: int) -> _Server:
    """Fork from this thread, for the signal at the parent's death is bound to it.

    Raises:
        OSError: the system has no process, memory or descriptor to give.
    """
    readable, writable = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  # our own words, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=writable,
            stderr=writable,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for the daemon, which drains before Redis may go
            umask=_PRIVATE_UMASK,
        )
    except OSError:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    return _Server(process, trio.lowlevel.FdStream(readable))


async def live(
    command: list[str], lock: int, socket_path: Path, announce: Callable[[], None]
) -> Life:
    """Run one server until it ends by itself or does not answer; stop it when cancelled."""
    began = trio.current_time()
    try:
        server = _start(command, lock)
    except OSError as error:
        return Life(answered=False, seconds=0, end=f"cannot be started ({error.strerror})")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.watch_answer, socket_path, announce, nursery.cancel_scope)
            await server.wait_end()
            nursery.cancel_scope.cancel()
        end = server.describe_end()
    finally:
        await server.aclose()
    seconds = trio.current_time() - began
    return Life(server.answered, seconds, end, tuple(server.lines), server.last_words)
