"""The servers under comparison, each a process of its own on loopback, all with one Redis.

with TemporaryDirectory() as folder, BenchRedis(Path(folder)) as redis:
    for kind in KINDS:
        if missing := kind.missing():
            print(f"{kind.name}: {missing}")
            continue
        with kind(Path(folder), redis) as server:
            run(Spec(..., addresses=(server.address,), dialect=server.dialect), server.pids)
        redis.flush()
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from redis import Redis
from redis.exceptions import BusyLoadingError, ConnectionError
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

import fastimd
from fastimd.base.address import Address
from fastimd.base.errors import StartupError
from fastimd.bench.dialect import FASTIMD, TEXT, Dialect, Visit
from fastimd.bench.live import LIVE, LIVE_PROTOBUF
from fastimd.redis.cluster.slots import SLOTS
from fastimd.redis.embedded import find_server

PEERS = Path(__file__).with_name("peers")
START_SECONDS = 20.0
STOP_SECONDS = 10.0
NPM_SECONDS = 300.0
GO_SECONDS = 900.0
LOG_LINES = 15
NODE_MAJOR = 20
GO = "1.26"
CENTRIFUGO = "6.9.1"
"""The version that is measured; its module is built once for each."""
SAYINGS = 10
START = "start"
"""The group, and its only user, in which a server is asked whether it serves."""

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class NotStarted(Exception):
    """A server does not serve; the message says what is missing, with its last words."""


# Processes


class Program:
    """A process that lives as long as the ``with`` block, with a log of all it prints.

    Args:
        folder: where it gets a folder of its own.

    Raises:
        NotStarted: by entering the block.
    """

    name: ClassVar[str]
    """What a table calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-", dir=folder))
        self.port = free_port()
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> None:
        """Start it, again perhaps, in the thread that lives as long as it is to: it ends with it.

        Raises:
            NotStarted: it cannot be started.
        """
        with (self.folder / "log").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self.command(),
                    cwd=self.folder,
                    env=_clean_environment() | dict(self.environment()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_settle_in,
                    pass_fds=self.descriptors(),
                    start_new_session=True,
                )
            except OSError as exc:
                raise NotStarted(f"{self.name}: {exc}") from exc

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and whatever it started."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """SIGKILL, to it alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Variables for it."""
        return {}

    def descriptors(self) -> Sequence[int]:
        """Of files that it gets as they are."""
        return ()

    def wait_ready(self) -> None:
        """Wait until it serves, and find its ``version`` out."""
        raise NotImplementedError

    def log_lines(self) -> list[str]:
        """The whole lines that it has printed."""
        said = (self.folder / "log").read_text(errors="replace")
        return said.rpartition("\n")[0].splitlines()

    def wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        """Look again and again, until there is something, and return it.

        Raises:
            NotStarted: the process has ended, or time is up.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not (found := look()):
            status = self._process.poll()
            if status is not None:
                raise self._not_started(f"it ended with status {status}")
            if time.monotonic() > deadline:
                raise self._not_started(f"no {what} within {START_SECONDS:g} s")
            time.sleep(0.02)
        return found

    def _not_started(self, reason: str) -> NotStarted:
        lines = "\n".join(self.log_lines()[-LOG_LINES:]) or "(nothing)"
        return NotStarted(f"{self.name}: {reason}; its log ends with\n{lines}")


class BenchRedis(Program):
    """The Redis of a run, which keeps nothing on disk."""

    name = "Redis"

    @staticmethod
    def missing() -> str:
        """Why there can be none; empty if there can."""
        try:
            find_server()
        except StartupError as exc:
            return str(exc)
        return ""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [
            str(find_server()),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no"),
        ]

    def wait_ready(self) -> None:
        with self.client() as client:
            info = self.wait_for("answer", lambda: _info(client))
        # Valkey's ``redis_version`` is that of the Redis that it is compatible with.
        valkey = info.get("valkey_version")
        self.version = f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}"

    def client(self) -> Redis:
        """A new connection to it."""
        return Redis(port=self.port)

    def flush(self) -> None:
        """Forget everything, so that the next server finds none of the last one's data."""
        with self.client() as client:
            client.flushall()


class BenchCluster(BenchRedis):
    """A cluster of three masters; this is the first of them."""

    name = "Redis Cluster"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._others: list[_Master] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis-cluster://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [*super().command(), *_clustered()]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.stop)
            super().__enter__()
            self._others = [stack.enter_context(_Master(self.folder)) for _ in range(2)]
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def flush(self) -> None:
        """Forget everything."""
        for master in (self, *self._others):
            with master.client() as client:
                client.flushall()

    def _join(self) -> None:
        masters = [self, *self._others]
        for number, master in enumerate(masters):
            with master.client() as client:
                first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for master in self._others:
            with self.client() as client, master.client() as theirs:
                bus = theirs.config_get("cluster-port")["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", master.port, bus)
        for master in masters:
            with master.client() as client:
                self.wait_for("cluster", partial(_is_whole, client))


class _Master(BenchRedis):
    def command(self) -> list[str]:
        return [*super().command(), *_clustered()]


def _clustered() -> tuple[str, ...]:
    return ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))


def _is_whole(client: Redis) -> bool:
    said: Any = client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
    return b"cluster_state:ok" in said and b"cluster_known_nodes:3" in said


class Store(Protocol):
    """A Redis of any form."""

    @property
    def url(self) -> str:
        """Where servers find it."""


class Server(Program):
    """A server that is measured.

    Args:
        folder: where it gets a folder of its own.
        redis: which runs already.
    """

    dialect: ClassVar[Dialect]

    def __init__(self, folder: Path, redis: Store) -> None:
        super().__init__(folder)
        self.redis = redis
        self.address = Address.read(f"ws://127.0.0.1:{self.port}")

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here, and what to do about it; empty if it can."""
        return ""

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that serve clients."""
        return (self.pid,)

    def wait_ready(self) -> None:
        self.wait_for("WebSocket on which a member hears itself", self._answers)
        self.version = self.find_version()

    def find_version(self) -> str:
        """Its version, and those of what it stands on, as the program says them."""
        said = (line.partition("version: ") for line in self.log_lines())
        return next((version for start, mark, version in said if mark and not start), "")

    def _answers(self) -> bool:
        """Whether a member hears what it says: the server is up, and so is its way to Redis."""
        dialect, text = self.dialect, b"is anybody there"
        visit, is_text = Visit((START,), START), dialect.opcode == TEXT
        url = f"ws://127.0.0.1:{self.port}{dialect.target(visit)}"
        try:
            with connect(
                url, compression=None, proxy=None, open_timeout=2, close_timeout=1
            ) as link:
                greeting = dialect.greeting(visit)
                for hello in greeting.hello:
                    link.send(hello, text=is_text)
                while greeting.awaited > 0:
                    greeting.take(link.recv(timeout=2, decode=False))
                for _ in range(SAYINGS):  # the first may come before Nchan has subscribed
                    link.send(text.join(dialect.around(START, len(text))), text=is_text)
                    with suppress(TimeoutError):
                        while text not in link.recv(timeout=0.2, decode=False):
                            pass  # an answer: the message comes behind it
                        return True
        except (OSError, WebSocketException, EOFError):
            pass
        return False


# Servers


class Fastimd(Server):
    """The daemon of this repository, as one process or as several workers and their parent."""

    name = "fastimd"
    dialect = FASTIMD
    workers = 1

    def command(self) -> list[str]:
        return [sys.executable, "-m", "fastimd"]

    def environment(self) -> Mapping[str, str]:
        # What is measured is what this process has imported, wherever another one is installed.
        here = str(Path(fastimd.__file__).parent.parent)
        return {
            "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
            "FASTIMD_SERVER__BIND": f"127.0.0.1:{self.port}",
            "FASTIMD_SERVER__DRAIN_SECONDS": "0",
            "FASTIMD_ADMIN__BIND": "",
            "FASTIMD_REDIS__URL": self.redis.url,
            "FASTIMD_LOG__FORMAT": "json",
            **({"FASTIMD_SERVER__WORKERS": str(self.workers)} if self.workers > 1 else {}),
        }

    @property
    def pids(self) -> tuple[int, ...]:
        started = (event["pid"] for event in self._events() if event["event"] == "worker.started")
        return (self.pid, *started)

    def wait_ready(self) -> None:
        self.wait_for("event daemon.serving", self._serves)
        super().wait_ready()

    def find_version(self) -> str:
        return f"fastimd {fastimd.__version__}, Python {sys.version.split()[0]}"

    def _serves(self) -> bool:
        return any(
            event["event"] == "daemon.serving" and "worker" not in event for event in self._events()
        )

    def _events(self) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in self.log_lines() if line.startswith("{"))


class FastimdLive(Fastimd):
    """The same daemon, spoken with as Centrifugo is."""

    name = "fastimd, live wire"
    dialect = LIVE


class FastimdProtobuf(Fastimd):
    """The same in Protobuf."""

    name = "fastimd, Protobuf"
    dialect = LIVE_PROTOBUF


class Nchan(Server):
    """nginx with the module Nchan, in one worker process."""

    name = "Nchan"
    dialect = Dialect(greetings=0, has_ts=False)

    @classmethod
    def missing(cls) -> str:
        if _find_nginx() is None:
            return "nginx is not installed: apt install nginx-core libnginx-mod-nchan"
        if _load_nchan() is None:
            return "nginx has no module Nchan: apt install libnginx-mod-nchan"
        return ""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(self._workers())

    def command(self) -> list[str]:
        load = _load_nchan()
        if load is None:
            raise NotStarted(f"{self.name}: {self.missing()}")
        template = (PEERS / "nchan.conf.in").read_text()
        settings = {
            "@LOAD_MODULE@": load,
            "@FILES@": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            "@REDIS_URL@": self.redis.url,
            "@PORT@": str(self.port),
        }
        for mark, value in settings.items():
            template = template.replace(mark, value)
        (self.folder / "nginx.conf").write_text(template)
        # Root's worker would become a user who may not look into the folder.
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        nginx = _find_nginx()
        assert nginx is not None
        return [nginx, "-e", "stderr", "-p", f"{self.folder}/", "-c", "nginx.conf", *user]

    def find_version(self) -> str:
        return f"{_nginx_says('-v').rpartition(': ')[2].strip()}, Nchan {self._ask_version()}"

    def _ask_version(self) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as stream:
            stream.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            with stream.makefile("rb") as answer:
                return answer.read().rpartition(b"\r\n")[2].decode()

    def _workers(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"worker process" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]


class NchanNoDelay(Nchan):
    """Nchan without Nagle's algorithm: sooner, but dearer, for the kernel no longer joins messages.

    Nchan does not set TCP_NODELAY on its WebSockets, whatever ``tcp_nodelay`` says: what it sends
    waits until the client has acknowledged what it sent before, on loopback up to 40 ms. Here it
    gets a listening socket that has the option, which those it accepts inherit, in the way in which
    nginx hands its sockets to its successor. No configuration can do that.
    """

    name = "Nchan, TCP_NODELAY"

    def __init__(self, folder: Path, redis: Store) -> None:
        super().__init__(folder, redis)
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=4096)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener.setblocking(False)

    def environment(self) -> Mapping[str, str]:
        return {"NGINX": f"{self._listener.fileno()};"}

    def descriptors(self) -> Sequence[int]:
        return (self._listener.fileno(),)

    def stop(self) -> None:
        super().stop()
        self._listener.close()


class Centrifugo(Server):
    """Centrifugo, on as many cores as it takes."""

    name = "Centrifugo"
    dialect = LIVE

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here; what is needed of it is built by this, once."""
        if _centrifugo().is_file():
            return ""
        go = shutil.which("go")
        if go is None:
            return f"go is not installed: version {GO} or later is needed to build it"
        return _build_centrifugo(go)

    def command(self) -> list[str]:
        if missing := self.missing():
            raise NotStarted(f"{self.name}: {missing}")
        return [str(_centrifugo()), "-c", str(PEERS / "centrifugo.yaml")]

    def environment(self) -> Mapping[str, str]:
        return {
            "CENTRIFUGO_HTTP_SERVER_PORT": str(self.port),
            "CENTRIFUGO_ENGINE_REDIS_ADDRESS": self.redis.url,
        }

    def find_version(self) -> str:
        events = (json.loads(line) for line in self.log_lines())
        start = next(event for event in events if event["message"] == "starting Centrifugo")
        cores = start["gomaxprocs"]
        return f"Centrifugo {start['version']}, {start['runtime']}, GOMAXPROCS {cores}"


class CentrifugoRecovery(Centrifugo):
    """Centrifugo that does what fastimd does on the live wire, where each client may recover."""

    name = "Centrifugo, recovery"

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_FORCE_RECOVERY": "true",
        }


class CentrifugoProtobuf(CentrifugoRecovery):
    """The same in Protobuf."""

    name = "Centrifugo, Protobuf"
    dialect = LIVE_PROTOBUF


class NodeServer(Server):
    """A server of ``peers/`` on Node."""

    script: ClassVar[str]

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here; the packages it needs are installed by this, once."""
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None:
            return f"node is not installed: version {NODE_MAJOR} or later is needed"
        version = _output([node, "--version"]).strip()
        if int(version.removeprefix("v").partition(".")[0]) < NODE_MAJOR:
            return f"node is {version}: version {NODE_MAJOR} or later is needed"
        if not _are_packages_there():
            if npm is None:
                return "npm is not installed, nor are the packages of bench/peers/package.json"
            return _install_packages(npm)
        return ""

    def command(self) -> list[str]:
        missing = self.missing()
        node = shutil.which("node")
        if missing or node is None:
            raise NotStarted(f"{self.name}: {missing}")
        return [node, str(PEERS / self.script)]

    def environment(self) -> Mapping[str, str]:
        return {
            "NODE_ENV": "production",
            "PORT": str(self.port),
            "REDIS_URL": self.redis.url,
        }


class NodeWs(NodeServer):
    """ws and ioredis, by hand."""

    name = "ws + ioredis"
    script = "ws_ioredis.js"
    dialect = Dialect()


class SocketIo(NodeServer):
    """Socket.IO and its Redis adapter."""

    name = "Socket.IO"
    script = "socketio.js"
    dialect = Dialect(
        path="/socket.io/?EIO=4&transport=websocket&group={group}&user={user}",
        greetings=2,
        hello=(b"40",),
        before=b'42["say","',
        after=b'"]',
        has_ts=False,
    )


class Starlette(Server):
    """Starlette and uvicorn, by hand."""

    name = "Starlette"
    dialect = Dialect()

    @classmethod
    def missing(cls) -> str:
        needed = ("starlette", "uvicorn", "uvloop", "httptools")
        absent = [name for name in needed if find_spec(name) is None]
        if absent:
            return f"{', '.join(absent)} not installed: pip install 'fastimd[bench]'"
        return ""

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", "starlette_app:app", "--app-dir", str(PEERS)),
            *("--host", "127.0.0.1", "--port", str(self.port), "--backlog", "4096"),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
            *("--ws-per-message-deflate", "false", "--ws-max-size", "65536"),
            *("--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "1"),
        ]

    def environment(self) -> Mapping[str, str]:
        return {"REDIS_URL": self.redis.url}


class SendLoop(Server):
    """No server, but the limit of all: a bare loop that sends to each socket."""

    name = "send() loop"
    dialect = Dialect(greetings=0)

    def command(self) -> list[str]:
        return [sys.executable, str(PEERS / "send_loop.py")]

    def environment(self) -> Mapping[str, str]:
        return {"PORT": str(self.port)}


KINDS: tuple[type[Server], ...] = (
    *(Fastimd, Nchan, NchanNoDelay, Centrifugo),
    *(NodeWs, SocketIo, Starlette, SendLoop),
)
LIVE_KINDS: tuple[type[Server], ...] = (FastimdLive, CentrifugoRecovery)
"""Those that speak the live wire, and do the same work."""
PROTOBUF_KINDS: tuple[type[Server], ...] = (FastimdProtobuf, CentrifugoProtobuf)


# What they need


def free_port(further: int = 0) -> int:
    """One that stays free: none that the kernel may give to an outgoing connection.

    Args:
        further: the port that is so much higher is to be such a one, too.
    """
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10000, first_given // 2), first_given - further)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _clean_environment() -> dict[str, str]:
    ours = ("FASTIMD_", "CENTRIFUGO_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _settle_in() -> None:
    """In the child: have as many files open as the machine allows, and end with the parent."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))


def _info(client: Redis) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.info("server")
    except (ConnectionError, BusyLoadingError):
        return {}
    return found


def _output(command: list[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def _find_nginx() -> str | None:
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which("nginx", path=places)


def _nginx_says(option: str) -> str:
    nginx = _find_nginx()
    return "" if nginx is None else _output([nginx, option])


def _load_nchan() -> str | None:
    """The line that loads Nchan; empty if nginx has it built in, None if there is none."""
    arguments = _nginx_says("-V").split()
    folder = next((a.partition("=")[2] for a in arguments if a.startswith("--modules-path=")), "")
    module = Path(folder, "ngx_nchan_module.so")
    if module.is_file():
        return f"load_module {module};"
    is_built_in = any(a.startswith("--add-module=") and "nchan" in a for a in arguments)
    return "" if is_built_in else None


def _are_packages_there() -> bool:
    """Whether node finds just the versions that ``package.json`` names."""
    wanted = json.loads((PEERS / "package.json").read_text())["dependencies"]
    return all(_installed(name) == version for name, version in wanted.items())


def _installed(package: str) -> str:
    try:
        text = (PEERS / "node_modules" / package / "package.json").read_text()
    except OSError:
        return ""
    return str(json.loads(text)["version"])


def _install_packages(npm: str) -> str:
    """Install what ``package.json`` names; returns what went wrong."""
    return _install([npm, "install", "--no-fund", "--no-audit"], NPM_SECONDS)


def _centrifugo() -> Path:
    return PEERS / "bin" / CENTRIFUGO / "centrifugo"


def _build_centrifugo(go: str) -> str:
    """Build the version that is measured from its module; returns what went wrong."""
    module = "github.com/centrifugal/centrifugo/v6"
    flags = f"-s -w -X {module}/internal/build.Version={CENTRIFUGO}"  # as its releases are built
    command = [go, "install", "-ldflags", flags, f"{module}@v{CENTRIFUGO}"]
    print(f"building Centrifugo {CENTRIFUGO}, once; it takes minutes", file=sys.stderr)
    return _install(command, GO_SECONDS, GOBIN=str(_centrifugo().parent))


def _install(command: list[str], seconds: float, **environment: str) -> str:
    """Run a command that installs something under ``peers/``; returns what went wrong."""
    what = f"{Path(command[0]).name} {command[1]}"
    try:
        done = subprocess.run(
            command,
            cwd=PEERS,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{what} in bench/peers took longer than {seconds:g} s"
    if done.returncode != 0:
        return f"{what} failed in bench/peers: {done.stdout.strip()[-500:]}"
    return ""
