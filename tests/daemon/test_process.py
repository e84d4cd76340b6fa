"""The daemon as a process: how it starts, drains, crashes and ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from conftest import (
    Daemon,
    Launch,
    StartDaemon,
    connect,
    receive,
    run_fastimd,
    run_redis,
    wait_for,
)
from redis import Redis
from trio_websocket import ConnectionClosed, WebSocketConnection

from fastimd.redis.embedded import find_server

EXIT_CONFIG = 78


def said_plainly(daemon: Daemon) -> list[str]:
    """The lines on standard error that are no log lines."""
    return [line for line in daemon.log_path.read_text().splitlines() if line[:1] != "{"]


async def stop(daemon: Daemon, number: int = signal.SIGTERM) -> tuple[int, float]:
    """Exit status after the signal, and how many seconds it took."""
    began = time.monotonic()
    status = await trio.to_thread.run_sync(daemon.stop, number)
    return status, time.monotonic() - began


def open_raw(daemon: Daemon, path: str = "/group/chat/1/raw/t") -> socket.socket:
    """A socket whose client has shaken hands and never does anything again."""
    host, _, port = daemon.address.rpartition(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(10)
    raw.connect((host, int(port)))
    raw.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


async def close_code(connection: WebSocketConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.get_message()
    assert connection.closed is not None
    return int(connection.closed.code)


# Draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_every_socket(start_daemon: StartDaemon, number: int) -> None:
    """Twenty sockets get 1001 each, and the daemon ends with status 0 in time."""
    daemon = start_daemon(server__drain_seconds="5")
    codes: list[int] = []

    async def note_close(connection: WebSocketConnection) -> None:
        codes.append(await close_code(connection))

    async with AsyncExitStack() as stack:
        urls = [daemon.chat_url(user=str(user)) for user in range(15)]
        urls += [daemon.list_url(user=str(user)) for user in range(5)]
        sockets = [await stack.enter_async_context(connect(url)) for url in urls]
        async with trio.open_nursery() as nursery:
            for connection in sockets:
                nursery.start_soon(note_close, connection)
            status, seconds = await stop(daemon, number)
    assert status == 0
    assert codes == [1001] * 20
    assert seconds < 7
    assert [line["code"] for line in daemon.events("socket.closed")] == [1001] * 20
    assert daemon.lines[-1]["event"] == "daemon.stopped"


async def test_what_was_said_before_the_signal_is_stored(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """Messages on their way when the signal comes are in Redis, as far as they were echoed."""
    daemon = start_daemon(server__drain_seconds="5")
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        for number in range(200):
            await member.send_message(str(number))
        echoed = [(await receive(member))["info"]]
        daemon.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionClosed):
            while True:
                echoed.append(json.loads(await member.get_message())["info"])
    assert (await stop(daemon))[0] == 0
    entries: Any = redis.lrange("gml:1", 0, -1)
    stored = [json.loads(entry)["info"] for entry in entries]
    assert stored[: len(echoed)] == echoed


async def test_clients_that_do_nothing_hold_nothing_up(start_daemon: StartDaemon) -> None:
    """Neither who never answers the close, nor who never reads, nor half a request."""
    daemon = start_daemon(server__drain_seconds="2", socket__outbox_bytes="100000000")
    host, _, port = daemon.address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(open_raw(daemon))
            half = socket.create_connection((host, int(port)))
            stack.enter_context(half)
            half.sendall(b"GET /test/webs")
        async with connect(daemon.chat_url()) as talker:
            await receive(talker)
            for _ in range(200):
                await talker.send_message("x" * 60_000)
                await receive(talker)
            status, seconds = await stop(daemon)
    assert status == 0
    assert seconds < 3.5
    closes = daemon.events("socket.closed")
    assert sorted(line["user"] for line in closes) == ["1", "raw", "raw", "raw"]
    assert {line["code"] for line in closes} == {1001}


async def test_a_second_signal_ends_the_drain(launch: Launch, redis_url: str) -> None:
    """Who cannot wait asks twice."""
    daemon = launch(redis_url, server__drain_seconds="60")
    with open_raw(daemon):
        wait_for(lambda: daemon.events("socket.opened"), daemon)
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: daemon.events("daemon.draining"), daemon)
        status, seconds = await stop(daemon)
    assert status == 0
    assert seconds < 3


def test_signals_to_the_very_end_change_nothing(launch: Launch, data_dir: Path) -> None:
    """Whoever asks again and again, also while Redis ends, gets status 0 and stored data."""
    daemon = launch_on(launch, data_dir)
    deadline = time.monotonic() + 20
    while daemon.process.poll() is None and time.monotonic() < deadline:
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert daemon.process.wait(timeout=1) == 0
    assert daemon.lines[-1]["event"] == "daemon.stopped"
    assert not (data_dir / "redis.sock").exists(), "Redis did not end in good order"


def test_no_new_connections_while_draining(launch: Launch, redis_url: str) -> None:
    """The port is closed and readiness says why, while the last sockets are waited for."""
    daemon = launch(redis_url, server__drain_seconds="3")
    host, _, port = daemon.address.rpartition(":")
    with open_raw(daemon):
        wait_for(lambda: daemon.events("socket.opened"), daemon)
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: daemon.events("daemon.draining"), daemon)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5).close()
        assert get(f"{daemon.admin}/health/live")[0] == 200
        status, body = get(f"{daemon.admin}/health/ready")
        assert (status, json.loads(body)["reasons"]) == (503, ["draining"])
    assert daemon.stop() == 0


# The embedded Redis


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_messages_outlive_the_daemon(launch: Launch, data_dir: Path, number: int) -> None:
    """What was said is there after a restart with the embedded Redis, a hard end included."""
    first = launch("embedded", redis__data_dir=str(data_dir))
    said = []
    async with connect(first.chat_url()) as member:
        await receive(member)
        for text in ("one", "two", "three"):
            await member.send_message(text)
            said.append(await receive(member))
        status, _ = await stop(first, number)
    assert status == (0 if number == signal.SIGTERM else -number)
    second = await trio.to_thread.run_sync(launch_on, launch, data_dir)
    async with connect(second.chat_url()) as member:
        assert await receive(member) == {"list": said, "total": 3}
    assert (await stop(second))[0] == 0


def launch_on(launch: Launch, data_dir: Path) -> Daemon:
    return launch("embedded", redis__data_dir=str(data_dir))


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_redis_is_left_behind(launch: Launch, data_dir: Path, number: int) -> None:
    """However the daemon ends, its redis-server ends too."""
    daemon = launch("embedded", redis__data_dir=str(data_dir))
    with closing(Redis(unix_socket_path=str(data_dir / "redis.sock"))) as client:
        pid = int(client.info("server")["process_id"])
    assert lives(pid)
    daemon.stop(number)
    wait_for(lambda: not lives(pid))


def test_two_daemons_do_not_share_a_data_dir(launch: Launch, data_dir: Path) -> None:
    """The second ends with 78 and one line that names the first; the first goes on."""
    first = launch_on(launch, data_dir)
    second = launch("embedded", wait_serving=False, redis__data_dir=str(data_dir))
    assert second.process.wait(timeout=20) == EXIT_CONFIG
    (line,) = said_plainly(second)
    assert line.startswith("fastimd: ")
    assert f"in use by another fastimd (pid {first.process.pid})" in line
    assert get(f"{first.admin}/health/ready")[0] == 200


# Settings


@pytest.mark.parametrize("command", [("serve",), ("check",), ()])
def test_every_mistake_is_told_at_once(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Wrong settings end with 78 and a line for each, wherever it stands."""
    (tmp_path / "fastimd.toml").write_text("[server]\nbnid = 'x'\ndrain_seconds = -1\n")
    ended = run_fastimd(*command, folder=tmp_path, group__login_auth="maybe", nonsense__key="1")
    assert ended.returncode == EXIT_CONFIG
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert all(line.startswith("fastimd: ") for line in lines)
    for mistake in ("server.bnid", "server.drain_seconds", "group.login_auth", "nonsense"):
        assert sum(mistake in line for line in lines) == 1
    assert len(lines) == 4


def test_a_right_configuration_passes_the_check(tmp_path: Path) -> None:
    """Status 0, and the file that was read."""
    assert run_fastimd("check", folder=tmp_path).returncode == 0
    path = tmp_path / "other.toml"
    path.write_text("[server]\ndrain_seconds = 1\n")
    for arguments in (("check", "--config", str(path)), ("--config", str(path), "check")):
        ended = run_fastimd(*arguments, folder=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert str(path) in ended.stdout


@pytest.mark.parametrize("setting", ["server.bind", "admin.bind"])
def test_a_port_in_use_is_told(launch: Launch, redis_url: str, setting: str) -> None:
    """One line that names the setting, the address and the reason; status 78."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = launch(redis_url, wait_serving=False, **{setting.replace(".", "__"): bind})
        assert daemon.process.wait(timeout=20) == EXIT_CONFIG
    assert said_plainly(daemon) == [
        f"fastimd: {setting}: cannot listen on {bind}: Address already in use"
    ]


def test_a_login_hook_that_is_not_there_is_told(launch: Launch, redis_url: str) -> None:
    """Status 78 and one line that names the setting."""
    daemon = launch(redis_url, wait_serving=False, login__hook="no_such_module:check")
    assert daemon.process.wait(timeout=20) == EXIT_CONFIG
    (line,) = said_plainly(daemon)
    assert line.startswith("fastimd: login.hook: ")


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"server__bind": "0.0.0.0:0"}, True),
        ({"server__bind": "0.0.0.0:0", "login__hook": "operator:eq"}, True),
        (
            {
                "server__bind": "0.0.0.0:0",
                "login__hook": "operator:eq",
                "group__login_auth": "true",
            },
            False,
        ),
        ({"server__bind": "127.0.0.1:0"}, False),
    ],
)
def test_an_open_login_on_a_public_address_is_warned_of(
    launch: Launch, redis_url: str, settings: dict[str, str], warned: bool
) -> None:
    """Only a daemon that others can reach and that lets everybody in says so."""
    daemon = launch(redis_url, **settings)
    assert [line["level"] for line in daemon.events("login.open")] == ["warning"] * warned
    port = daemon.address.rpartition(":")[2]
    assert get(f"http://127.0.0.1:{port}/test/websocket")[0] == 200


# Redis elsewhere


@contextmanager
def redis_on(port: int, folder: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [str(find_server()), "--port", str(port), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_daemon_waits_for_redis(launch: Launch, tmp_path: Path) -> None:
    """Without Redis it does not serve, says why, and serves once Redis comes."""
    port = free_port()
    daemon = launch(f"redis://127.0.0.1:{port}/0", wait_serving=False)
    line = wait_for(lambda: daemon.events("redis.unavailable"), daemon)[0]
    assert line["address"] == f"127.0.0.1:{port}"
    assert not daemon.events("daemon.serving")
    with redis_on(port, tmp_path):
        wait_for(lambda: daemon.events("daemon.serving"), daemon)
        assert daemon.stop() == 0


def test_a_daemon_that_waits_for_redis_can_be_stopped(launch: Launch) -> None:
    """A signal before it serves ends it at once."""
    daemon = launch(f"redis://127.0.0.1:{free_port()}/0", wait_serving=False)
    wait_for(lambda: daemon.events("redis.unavailable"), daemon)
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("password", ["", ":wr0ng@", "nobody:wr0ng@"])
def test_a_refused_login_to_redis_ends_the_daemon(
    launch: Launch, tmp_path: Path, password: str
) -> None:
    """A wrong or missing password will not get better: 78 and one line, without the password."""
    with run_redis(str(find_server()), tmp_path) as url:
        with Redis.from_url(url) as client:
            client.config_set("requirepass", "r1ght")
        daemon = launch(url.replace("//", f"//{password}"), wait_serving=False)
        assert daemon.process.wait(timeout=20) == EXIT_CONFIG
        (line,) = said_plainly(daemon)
        assert line.startswith("fastimd: redis.url: ")
        assert "wr0ng" not in daemon.log_path.read_text()
        served = launch(url.replace("//", "//:r1ght@"))
        assert served.stop() == 0
        assert "r1ght" not in served.log_path.read_text()


def test_readiness_follows_redis(launch: Launch, tmp_path: Path) -> None:
    """While Redis is away the daemon lives and is not ready, and says why."""
    port = free_port()
    with redis_on(port, tmp_path):
        daemon = launch(f"redis://127.0.0.1:{port}/0")
        assert get(f"{daemon.admin}/health/ready") == (200, b'{"ready":true,"reasons":[]}')
    wait_for(lambda: get(f"{daemon.admin}/health/ready")[0] == 503, daemon)
    reasons = json.loads(get(f"{daemon.admin}/health/ready")[1])["reasons"]
    assert any(reason.startswith("redis: ") for reason in reasons)
    assert get(f"{daemon.admin}/health/live")[0] == 200
    with redis_on(port, tmp_path):
        wait_for(lambda: get(f"{daemon.admin}/health/ready")[0] == 200, daemon)
        assert daemon.stop() == 0


# The admin address


def get(url: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_metrics_and_health_are_on_the_admin_address_only(daemon: Daemon) -> None:
    """The operator's routes count what happens, and the public port does not know them."""
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("hi")
        await receive(member)
        status, body = await trio.to_thread.run_sync(get, f"{daemon.admin}/metrics")
    assert status == 200
    text = body.decode()
    for line in ("sockets_opened_total 1.0", "messages_received_total 1.0", "groups 1.0"):
        assert f"\nfastimd_{line}\n" in text
    for path in ("/metrics", "/health/live", "/health/ready"):
        assert (await trio.to_thread.run_sync(get, daemon.admin + path))[0] == 200
        assert (await trio.to_thread.run_sync(get, daemon.http + path))[0] == 404
    for path in ("/test/websocket", "/user/login"):
        assert (await trio.to_thread.run_sync(get, daemon.admin + path))[0] == 404


def test_the_admin_address_can_be_off(launch: Launch, redis_url: str) -> None:
    """An empty admin.bind serves no admin address."""
    daemon = launch(redis_url, admin__bind="")
    assert daemon.admin == "off"
    assert daemon.stop() == 0


# Crashes


CRASHING_POLLER = """
    from pathlib import Path
    import trio
    from fastimd.groups.lists.poller import Poller

    async def run(self):
        while not Path("crash").exists():
            await trio.sleep(0.01)
        raise RuntimeError("planted")

    Poller.run = run
"""


async def test_a_crashed_task_ends_the_daemon(
    launch: Launch, redis_url: str, plant: Callable[[str], None]
) -> None:
    """Open sockets or not, with status 1, and the log names the task and the reason."""
    plant(CRASHING_POLLER)
    daemon = launch(redis_url)
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        (daemon.log_path.parent / "crash").touch()
        status = await trio.to_thread.run_sync(daemon.process.wait, 20)
    assert status == 1
    (line,) = daemon.events("task.crashed")
    assert (line["task"], line["level"]) == ("poller", "critical")
    assert "planted" in line["error"]
    assert "Traceback" in line["exception"]
    assert said_plainly(daemon) == []


def test_a_task_that_just_ends_ends_the_daemon(
    launch: Launch, redis_url: str, plant: Callable[[str], None]
) -> None:
    """No task of the daemon may end by itself, not even without an error."""
    plant(CRASHING_POLLER.replace('raise RuntimeError("planted")', "return"))
    daemon = launch(redis_url)
    (daemon.log_path.parent / "crash").touch()
    assert daemon.process.wait(timeout=20) == 1
    assert [line["task"] for line in daemon.events("task.crashed")] == ["poller"]


async def test_a_crash_in_a_socket_ends_that_socket_alone(
    launch: Launch, redis_url: str, plant: Callable[[str], None]
) -> None:
    """Its neighbour in the same group talks on, and the log has the traceback once."""
    plant("""
        from fastimd.classic.chat import _Speaker

        say = _Speaker.say

        def say_or_crash(self, info):
            if info == "crash":
                raise RuntimeError("planted")
            say(self, info)

        _Speaker.say = say_or_crash
    """)
    daemon = launch(redis_url)
    async with (
        connect(daemon.chat_url(user="a")) as neighbour,
        connect(daemon.chat_url(user="b")) as victim,
    ):
        await receive(neighbour)
        await receive(victim)
        await victim.send_message("crash")
        with trio.fail_after(5):
            assert await close_code(victim) in (1006, 1011)
        await neighbour.send_message("still here")
        assert (await receive(neighbour))["info"] == "still here"
    assert (await stop(daemon))[0] == 0
    (line,) = daemon.events("connection.crashed")
    assert "planted" in line["exception"]


async def test_nothing_follows_a_close_frame(start_daemon: StartDaemon) -> None:
    """A socket that was told to go hears no more of the group, though it has not answered yet."""
    going, staying = start_daemon(), start_daemon()
    with open_raw(going) as raw:
        async with connect(staying.chat_url(user="2")) as other:
            await receive(other)
            going.process.send_signal(signal.SIGTERM)
            received = b""
            while b"restart " not in received:
                received += await trio.to_thread.run_sync(raw.recv, 65536)
            for number in range(5):
                await other.send_message(str(number))
                await receive(other)
        raw.settimeout(0.3)
        with pytest.raises(TimeoutError):
            raw.recv(1)


async def test_a_request_under_way_is_answered_in_the_drain(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM lets an HTTP request that is being served come to its answer."""
    begun, may_end = tmp_path / "begun", tmp_path / "may_end"
    (tmp_path / "slow_hook.py").write_text(
        "import pathlib\nimport trio\n\n\nasync def log_in(user, password):\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        f"    while not pathlib.Path({str(may_end)!r}).exists():\n"
        "        await trio.sleep(0.01)\n    return {'slow': True}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    daemon = start_daemon(login__hook="slow_hook:log_in")

    def log_in() -> bytes:
        request = urllib.request.Request(f"{daemon.http}/user/login", b"userId=1&password=x")
        with urllib.request.urlopen(request, timeout=10) as answer:
            body: bytes = answer.read()
            return body

    async with trio.open_nursery() as nursery:

        async def check() -> None:
            assert b'"data":{"slow":true}' in await trio.to_thread.run_sync(log_in)

        nursery.start_soon(check)
        await trio.to_thread.run_sync(wait_for, begun.exists, daemon)
        daemon.process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(wait_for, lambda: daemon.events("daemon.draining"), daemon)
        may_end.touch()
        assert await trio.to_thread.run_sync(daemon.process.wait) == 0
