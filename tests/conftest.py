"""Real daemons for the tests: each a process of its own on a free port, with a real Redis."""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
import structlog
import trio
import warm
from redis import Redis
from trio_websocket import WebSocketConnection, open_websocket_url

from fastimd.base.errors import StartupError
from fastimd.http.forms import Status
from fastimd.operate.client import Daemon as OperatedDaemon
from fastimd.redis.embedded.executable import find_servers

START_SECONDS = 20.0
RUN_SECONDS = 30.0
CHOSEN_SERVER = "FASTIMD_TEST_SERVER"
"""The variable that tells workers, and modules while they are collected, ``--redis-server``."""


@dataclass
class Daemon:
    """A running daemon.

    ``address`` is HOST:PORT of the public port, ``admin`` the URL of the admin address.
    """

    process: subprocess.Popen[bytes]
    log_path: Path
    address: str = ""
    admin: str = ""
    expected_status: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    log_start: int = 0
    """Where the log of this test begins, of a daemon that tests share."""

    @property
    def http(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> str:
        """The log so far, as it is."""
        return self.log_path.read_bytes()[self.log_start :].decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        whole, _, _being_written = self.log.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    def chat_url(self, group: str = "1", user: str = "1", token: str = "t") -> str:
        return f"ws://{self.address}/group/chat/{group}/{user}/{token}"

    def list_url(self, user: str = "1", token: str = "t") -> str:
        return f"ws://{self.address}/group/list/{user}/{token}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=20)


def run_daemon(
    tmp_path: Path,
    redis_url: str,
    *,
    wait_serving: bool = True,
    config: Path | str | None = None,
    launcher: Sequence[str] = (),
    **settings: str,
) -> Daemon:
    """Start a daemon; settings are ``section__key=value``, and those of a file.

    Args:
        launcher: a command that gets that of the daemon, and all inheritable descriptors.
    """
    folder = Path(os.path.realpath(tmp_path)) / f"daemon-{time.monotonic_ns()}"
    folder.mkdir()
    given = {
        "server__bind": "127.0.0.1:0",
        "admin__bind": "127.0.0.1:0",
        "redis__url": redis_url,
        "log__format": "json",
        **settings,
    }
    log_path = folder / "log"
    arguments = ["serve", *(() if config is None else ("--config", str(config)))]
    env = environment_of(given) | {"PYTHONWARNINGS": "error"}
    with log_path.open("wb") as log_file:
        process: subprocess.Popen[bytes] | None = None
        if not launcher:
            process = warm.start(arguments, folder, env, log_file.fileno())
        if process is None:
            process = subprocess.Popen(
                [*launcher, sys.executable, "-m", "fastimd", *arguments],
                cwd=folder,
                env=env,
                stderr=log_file,
                stdin=subprocess.DEVNULL,
                close_fds=not launcher,
            )
    daemon = Daemon(process, log_path)
    if wait_serving:
        # Of several workers each serves, and then the whole.
        serving = wait_for(
            lambda: [line for line in daemon.events("daemon.serving") if "worker" not in line],
            daemon,
            START_SECONDS,
        )[0]
        daemon.address = serving["page"].removeprefix("http://").partition("/")[0]
        daemon.admin = serving["admin"]
    return daemon


def run_fastimd(
    *arguments: str, folder: Path | None = None, typed: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; settings are ``section__key=value``.

    Args:
        folder: where it runs; else in the tests' own working directory.
        typed: what it finds on standard input.
    """
    env = environment_of(settings)
    ended = warm.run(arguments, folder or Path.cwd(), env, typed, RUN_SECONDS)
    if ended is not None:
        return ended
    return subprocess.run(
        [sys.executable, "-m", "fastimd", *arguments],
        cwd=folder,
        env=env,
        input=typed,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """The tests' environment with these settings, ``section__key``, and no other."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("FASTIMD_")},
        **{f"FASTIMD_{name.upper()}": value for name, value in settings.items()},
    }


def wait_for(
    condition: Callable[[], Any], daemon: Daemon | None = None, seconds: float = 10.0
) -> Any:
    """Wait until ``condition()`` is true, and return it; fail with the daemon's log."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        ended = daemon is not None and daemon.process.poll() is not None
        if ended or time.monotonic() > deadline:
            said = daemon.log if daemon is not None else ""
            pytest.fail(f"not within {seconds} s (daemon ended: {ended})\n{said[-4000:]}")
        time.sleep(0.01)
    return value


@contextmanager
def run_redis(executable: str, folder: Path, *options: str) -> Iterator[str]:
    """A redis-server of the test's own; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            executable,
            *("--port", str(port), "--bind", "127.0.0.1"),
            *("--save", "", "--dir", str(folder), *options),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        with Redis(port=port) as client:
            wait_for(lambda: _answers(client))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except OSError:
        return False
    except Exception as exc:
        if type(exc).__name__ in ("ConnectionError", "BusyLoadingError"):
            return False
        raise


def redis_servers() -> list[str]:
    """Every redis-server and valkey-server of the machine, the one that a daemon takes first.

    With ``--redis-server`` it is that one alone.
    """
    if (chosen := os.environ.get(CHOSEN_SERVER)) is not None:
        return [chosen]
    try:
        servers = find_servers()
    except StartupError as exc:
        pytest.exit(f"the tests need a server: {exc}", 1)
    return list({os.path.realpath(server): str(server) for server in servers}.values())


@cache
def server_with_tls() -> str:
    """A redis-server that knows TLS: the one of a wheel is built without."""
    others = (Path(folder) / "redis-server" for folder in os.get_exec_path())
    for executable in [*redis_servers(), *map(str, filter(Path.exists, others))]:
        # Without a certificate each ends, for one reason or the other: the settings alone do not
        # tell, for Valkey knows them without TLS, too.
        asked = subprocess.run(
            [executable, "--tls-port", "1", "--port", "0", "--save", ""],
            capture_output=True,
            text=True,
            check=False,
        )
        if "Failed to configure TLS" in asked.stdout + asked.stderr:
            return executable
    if os.environ.get("FASTIMD_TEST_TLS") == "required":
        pytest.fail("no redis-server of this machine knows TLS, and FASTIMD_TEST_TLS=required")
    pytest.skip("needs a redis-server that knows TLS (Debian's package redis-server)")


def redis_and_valkey() -> list[str]:
    """The first server of each product, for what takes too long to run on every one."""
    first: dict[str, str] = {}
    for server in redis_servers():
        first.setdefault(name_of_server(server).partition("-")[0], server)
    return list(first.values())


@cache
def name_of_server(executable: str) -> str:
    """Such as ``redis-7.0.15``, for a test's name."""
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"(\w+) server v=(\S+)", said.stdout)
    assert found is not None, said.stdout
    return f"{found[1].lower()}-{found[2]}"


# Under nohup the first is ignored, and in the background of a script the others: so they would be
# by the programs that the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--alone",
        choices=["aside", "only"],
        help="what to do with tests that are marked `alone`: leave them aside, or run no others",
    )
    parser.addoption(
        "--redis-server",
        metavar="PATH",
        help="run all tests on this redis-server or valkey-server, and on no other",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Put the chosen server first on PATH, too: daemons with an embedded Redis look there."""
    chosen = config.getoption("--redis-server")
    if chosen is None or CHOSEN_SERVER in os.environ:
        return
    executable = shutil.which(chosen)
    if executable is None:
        raise pytest.UsageError(f"--redis-server: {chosen} cannot be run")
    folder = TemporaryDirectory(prefix="fastimd-redis-server-")
    config.add_cleanup(folder.cleanup)
    Path(folder.name, "redis-server").symlink_to(Path(executable).absolute())
    os.environ["PATH"] = f"{folder.name}{os.pathsep}{os.environ['PATH']}"
    os.environ[CHOSEN_SERVER] = str(Path(executable).absolute())


SET_ASIDE = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave for the other of the two runs of ``make test`` what is selected and belongs there.

    A test on a clock of Trio must name it: one that only a fixture names is not used.
    """
    for item in items:
        if not isinstance(item, pytest.Function) or "autojump_clock" not in item.fixturenames:
            continue
        if "autojump_clock" not in inspect.signature(item.function).parameters:
            raise pytest.UsageError(f"{item.nodeid} must have the argument autojump_clock")
    choice = config.getoption("--alone")
    if choice is None:
        return
    kept: list[pytest.Item] = []
    aside: list[pytest.Item] = []
    for item in items:
        is_kept = ("alone" in item.keywords) == (choice == "only")
        (kept if is_kept else aside).append(item)
    config.stash[SET_ASIDE] = len(aside)
    if aside:
        config.hook.pytest_deselected(items=aside)
        items[:] = kept


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run without tests is no failure if the other run has some; a worker tells its parent."""
    aside = session.config.stash.get(SET_ASIDE, 0)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["set_aside"] = aside
    elif exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and aside:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """A worker of pytest-xdist has ended, and only it knows what it collected."""
    if error is None:
        node.config.stash[SET_ASIDE] = node.workeroutput["set_aside"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with ``EVERY_REDIS`` runs on every server of the machine, others on one.

    One with ``REDIS_AND_VALKEY`` runs on the first of each product.
    """
    if "redis_server" in metafunc.fixturenames:
        if getattr(metafunc.module, "EVERY_REDIS", False):
            servers = redis_servers()
        elif getattr(metafunc.module, "REDIS_AND_VALKEY", False):
            servers = redis_and_valkey()
        else:
            servers = redis_servers()[:1]
        metafunc.parametrize(
            "redis_server", servers, indirect=True, scope="session", ids=name_of_server
        )


@pytest.fixture(scope="session")
def redis_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a running Redis, one for each server that the module runs on."""
    with run_redis(request.param, tmp_path_factory.mktemp("redis")) as url:
        yield url


_Key: TypeAlias = tuple[int, tuple[tuple[str, str], ...]]
_shared: dict[_Key, Daemon] = {}
"""The daemons that the tests of a module share, by their number and their settings."""


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis: there is only what a shared daemon keeps there of itself."""
    for daemon in _shared.values():
        wait_for(lambda daemon=daemon: is_left(daemon), daemon)  # type: ignore[misc]
    with Redis.from_url(redis_server) as client:
        if not _shared:
            client.flushall()
        elif forgotten := set(client.keys()) - set(client.keys("fastimd:applied:*")):
            client.delete(*forgotten)
    return redis_server


def is_left(daemon: Daemon) -> bool:
    """Whether nobody of an earlier test is at a daemon, and nothing of theirs is under way."""
    operated = OperatedDaemon(daemon.admin.removeprefix("http://"))
    status = operated.read("status", Status)
    return status.ready and not (sum(status.sockets.values()) or status.redis.held)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of the Redis that the daemons use."""
    with Redis.from_url(redis_url) as client:
        yield client


StartDaemon = Callable[..., Daemon]


@pytest.fixture
def start_daemon(tmp_path: Path, redis_url: str) -> Iterator[StartDaemon]:
    """Start daemons on one Redis; at the end each must stop cleanly, with no crash in its log."""
    daemons: list[Daemon] = []

    def start(config: Path | None = None, launcher: Sequence[str] = (), **settings: str) -> Daemon:
        daemons.append(
            run_daemon(
                tmp_path,
                redis_url,
                wait_serving=True,
                config=config,
                launcher=launcher,
                **settings,
            )
        )
        return daemons[-1]

    yield start
    _end_well(daemons)


def _end_well(daemons: Sequence[Daemon]) -> None:
    """Each must stop cleanly, with no crash in its log; none is left behind."""
    try:
        for daemon in daemons:
            assert daemon.stop() == daemon.expected_status, daemon.log[-4000:]
            assert not daemon.events("connection.crashed")
    finally:
        for daemon in daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """One daemon with default settings."""
    return start_daemon()


@pytest.fixture(scope="module")
def shared_folder(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What daemons that the tests of a module share need; at its end each must stop cleanly."""
    yield tmp_path_factory.mktemp("shared")
    daemons = list(_shared.values())
    _shared.clear()
    _end_well(daemons)


ShareDaemon = Callable[..., Daemon]


@pytest.fixture
def share_daemon(shared_folder: Path, redis_url: str) -> Iterator[ShareDaemon]:
    """A daemon that the tests of a module share, for those that leave it as it was.

    There is one for each set of settings, or as many as are asked for by number. Each test sees its
    own part of the log, and Redis empty.
    """
    used: dict[_Key, Daemon] = {}

    def share(number: int = 1, **settings: str) -> Daemon:
        key = (number, tuple(sorted(settings.items())))
        if key not in _shared:
            _shared[key] = run_daemon(
                shared_folder, redis_url, wait_serving=True, config=None, launcher=(), **settings
            )
        if key not in used:
            size = _shared[key].log_path.stat().st_size
            used[key] = replace(_shared[key], log_start=size)
        return used[key]

    yield share
    for key, daemon in used.items():
        if daemon.process.poll() is not None:
            del _shared[key]
            pytest.fail(f"a shared daemon has ended\n{daemon.log[-4000:]}")
        assert not daemon.events("connection.crashed")


Launch = Callable[..., Daemon]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start daemons that may end as they like; none is left behind."""
    daemons: list[Daemon] = []

    def start(redis_url: str, *, wait_serving: bool = True, **settings: str) -> Daemon:
        daemon = run_daemon(tmp_path, redis_url, wait_serving=wait_serving, **settings)
        daemons.append(daemon)
        return daemon

    yield start
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let Python code run at the start of every daemon of the test."""

    def plant_code(code: str) -> None:
        folder = tmp_path / "planted"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return plant_code


@pytest.fixture
def notify_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of $NOTIFY_SOCKET."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield receiver


def make_certificate(path: Path, subject: str) -> Path:
    """A certificate of nobody for ``IP:…`` or ``DNS:…``, with its key."""
    chain = path.with_suffix(".chain")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", f"/CN={subject.partition(':')[2]}", "-addext", f"subjectAltName={subject}"),
            *("-keyout", str(path), "-out", str(chain)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + chain.read_text())
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of nobody for 127.0.0.1, with its key."""
    return make_certificate(tmp_path / "certificate.pem", "IP:127.0.0.1")


@pytest.fixture(autouse=True)
def default_logs() -> Iterator[None]:
    """Forget what a test made of the logs: its stream may be closed by the next one."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let the test, and the daemons it starts, have as many files open as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="session")
def two_browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Real browsers, each started when it is asked for first: that takes seconds."""
    from browser import Started  # most tests do without

    with ExitStack() as stack:
        yield [
            stack.enter_context(Started(tmp_path_factory.mktemp(each))) for each in ("ada", "bob")
        ]


@pytest.fixture(scope="module")
def browser(two_browsers: list[Any]) -> Iterator[Any]:
    """A real browser that knows nothing; without one not even a daemon is started."""
    with two_browsers[0].anew() as driver:
        yield driver


@pytest.fixture(scope="module")
def browsers(two_browsers: list[Any]) -> Iterator[list[Any]]:
    """Two real browsers, as two people have; without them not even a daemon is started."""
    first, second = two_browsers
    with first.anew() as ada, second.anew() as bob:
        yield [ada, bob]


@pytest.fixture
def leaving(browsers: list[Any], start_daemon: StartDaemon) -> Iterator[None]:
    """Pages are left before their daemons end: none tries to come back in the next test."""
    yield
    for driver in browsers:
        driver.get("about:blank")


@asynccontextmanager
async def connect(url: str, **options: Any) -> AsyncIterator[WebSocketConnection]:
    """An independent client's socket, with a deadline on everything."""
    with trio.fail_after(20):
        async with open_websocket_url(url, **options) as connection:
            stream = connection._stream
            try:
                yield connection
            finally:
                if connection.closed:  # trio-websocket leaves the stream open in that case
                    await trio.aclose_forcefully(stream)


async def receive(connection: WebSocketConnection) -> Any:
    """The next text frame, parsed; the failed-token frame ``440`` comes as the number 440."""
    with trio.fail_after(10):
        return json.loads(await connection.get_message())
