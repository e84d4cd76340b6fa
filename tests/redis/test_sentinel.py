"""Sentinels that are dead, late, wrong or locked: the chat goes on, or the log says why not.

Fail-overs under load are in ``tests/live/test_fail_over.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
import structlog.testing
import trio
import trio.testing
from conftest import (
    Daemon,
    redis_servers,
    run_daemon,
    run_fastimd,
    server_with_tls,
    wait_for,
)
from faults import Talk, free_port, list_messages, ready, unavailable
from redis import Redis, exceptions
from sentinels import SERVICE, Process, company

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.redis import sentinel as sentinel_module
from fastimd.redis.address import Address
from fastimd.redis.appender import Appender
from fastimd.redis.client import Client
from fastimd.redis.clock import RedisClock
from fastimd.redis.connection import Connection
from fastimd.redis.sentinel import Master, NoMaster, Service
from fastimd.redis.wire import Wire


@contextmanager
def daemon_on(folder: Path, url: str, **options: Any) -> Iterator[Daemon]:
    """A daemon that must end well."""
    daemon = run_daemon(folder, url, **options)
    try:
        yield daemon
        assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
        assert not [line for line in daemon.lines if "exception" in line]
    finally:
        daemon.process.kill()
        daemon.process.wait()


# Sentinels that are there no more


@pytest.mark.timeout(90)
def test_the_chat_goes_on_whatever_becomes_of_the_sentinels(tmp_path: Path) -> None:
    """One is dead, two, all: nothing breaks. A broken connection waits for one that is back."""
    with (
        company(redis_servers()[0], tmp_path / "redis") as redis,
        daemon_on(tmp_path, redis.url) as daemon,
        Talk([daemon], each=2) as talk,
    ):
        master = redis.master
        for number, sentinel in enumerate(redis.sentinels, start=1):
            talk.go_on(20)
            sentinel.kill()
            wait_for(partial(fail, daemon, number), daemon, 20)
            talk.go_on(20)
        assert not unavailable(daemon, "commands")
        assert not ready(daemon)
        for kind in ("normal", "pubsub"):
            master.ask("CLIENT", "KILL", "TYPE", kind)
        last = redis.sentinels[-1]
        why = f"sentinel 127.0.0.1:{last.port}: connection refused"
        wait_for(lambda: [why in reason for reason in ready(daemon)] == [True, True], daemon, 20)
        last.start("--sentinel")
        talk.wait_further(seconds=10)
        wait_for(partial(fail, daemon, 2), daemon, 20)
        talk.settle(master.client)


def fail(daemon: Daemon, count: int) -> bool:
    """Whether so many sentinels are of no use to a daemon."""
    return len(failing(daemon)) == count


def status(daemon: Daemon) -> Any:
    """What the daemon tells its operator."""
    bind = daemon.admin.removeprefix("http://")
    return json.loads(run_fastimd("status", "--json", admin__bind=bind).stdout)


def failing(daemon: Daemon) -> list[str]:
    """The sentinels that a daemon holds to be of no use."""
    told = [line for line in daemon.lines if line["event"].startswith("sentinels.")]
    if not told or told[-1]["event"] == "sentinels.available":
        return []
    return str(told[-1]["error"]).split("; ")


# Sentinels that do not say


@contextmanager
def lone_sentinel(folder: Path, password: str = "") -> Iterator[Process]:
    """A server, and one sentinel that watches it."""
    executable = redis_servers()[0]
    with contextlib.ExitStack() as stack:
        server = Process(executable, folder / "server", 'save ""', None, "")
        watched = f"sentinel monitor {SERVICE} 127.0.0.1 {server.port} 1"
        sentinel = Process(executable, folder / "sentinel", watched, None, password)
        for process, options in ((server, ()), (sentinel, ("--sentinel",))):
            process.start(*options)
            stack.callback(process.close)
        yield sentinel


WRONG = {
    f"127.0.0.1:PORT/{SERVICE}": "authentication required",
    f"127.0.0.1:PORT/{SERVICE}?sentinel_password=wrong": "invalid username-password pair",
    "127.0.0.1:PORT/other?sentinel_password=right": f"knows no service other, but {SERVICE}",
    f"127.0.0.1:REDIS/{SERVICE}": "unknown command 'sentinel'",
    f"127.0.0.1:NOBODY/{SERVICE}": "127.0.0.1:NOBODY: connection refused",
    f"127.0.0.1:SILENT/{SERVICE}": "no answer",
    f"no-such-host.invalid/{SERVICE}": "no-such-host.invalid:26379: ",
}
"""Where sentinels are asked for, and what the log says of it."""


async def test_what_is_wrong_with_the_sentinels_is_told(tmp_path: Path, redis_url: str) -> None:
    """To whoever connects, and in the log; with no password."""
    with (
        lone_sentinel(tmp_path, "right") as sentinel,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        ports = {
            "PORT": sentinel.port,
            "REDIS": urlsplit(redis_url).port,
            "NOBODY": free_port(),
            "SILENT": silent.getsockname()[1],
        }
        for place, why in WRONG.items():
            for name, port in ports.items():
                place, why = place.replace(name, str(port)), why.replace(name, str(port))
            service = Service(f"redis-sentinel://{place}")
            with contextlib.closing(service), structlog.testing.capture_logs() as lines:
                for _ in range(2):
                    with pytest.raises(NoMaster) as caught:
                        await service.connect()
                    assert why in str(caught.value).lower()
                    assert "right" not in str(caught.value)
            [told] = lines
            assert (told["event"], told["service"]) == ("sentinels.unavailable", service.name)
            assert why in told["error"].lower()


def test_a_daemon_begins_when_a_sentinel_answers(tmp_path: Path) -> None:
    """And says where it has found Redis, without a password."""
    with lone_sentinel(tmp_path) as sentinel:
        sentinel.kill()
        url = f"redis-sentinel://127.0.0.1:{sentinel.port}/{SERVICE}/2"
        with daemon_on(tmp_path, url, wait_serving=False) as daemon:
            wait_for(partial(unavailable, daemon, "commands"), daemon, 30)
            sentinel.start("--sentinel")
            serving = wait_for(partial(daemon.events, "daemon.serving"), daemon, 30)[0]
            daemon.admin = serving["admin"]
            daemon.address = serving["page"].removeprefix("http://").partition("/")[0]
            for line in daemon.events("redis.connected"):
                assert line["address"].endswith(f", master of {SERVICE}")
            shown = status(daemon)["redis"]["address"]
            assert shown == url


# Locked


@pytest.mark.timeout(90)
def test_passwords_of_both_and_tls_for_both(tmp_path: Path, certificate: Path) -> None:
    """A fail-over is followed all the same; nothing secret is logged."""
    secrets = {"password": "pass-of-redis", "sentinel_password": "pass-of-sentinels"}
    with (
        company(server_with_tls(), tmp_path / "redis", tls=certificate, **secrets) as redis,
        daemon_on(tmp_path, redis.url) as daemon,
        Talk([daemon], each=2) as talk,
    ):
        talk.go_on(20)
        old = redis.master
        talk.pause()
        talk.wait_seen()
        old.ask("SET", "last", "word")
        assert old.ask("WAIT", 2, 5000) == 2
        old.kill()
        talk.resume()
        talk.wait_further(seconds=20)
        talk.settle(redis.wait_failed_over(old).client)
        assert list_messages(redis.master.client)
        for secret in secrets.values():
            assert secret not in daemon.log_path.read_text()


# What the answers are worth


class Told:
    """Sentinels that say what they are told to say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 3) -> None:
        hosts = ",".join(f"sentinel-{number}" for number in range(count))
        self.service = Service(f"redis-sentinel://{hosts}/{SERVICE}")
        self.answers: Mapping[str, Master] = {}
        self.seconds: dict[str, float] = {}  # what each takes
        told = self

        async def ask(self: object, service: str) -> Master:
            await trio.sleep(told.seconds.get(str(self), 0))
            answer = told.answers.get(str(self))
            if answer is None:
                raise sentinel_module._NoAnswer("connection refused")
            return answer

        monkeypatch.setattr(sentinel_module._Sentinel, "ask", ask)

    async def find(self, *answers: Master | None) -> Master:
        """The master, when the sentinels answer so; None for one that does not."""
        named = {
            f"sentinel-{number}:26379": answer
            for number, answer in enumerate(answers)
            if answer is not None
        }
        self.answers = named
        return await self.service.find()


OLD, NEW, ANEW = Master("old", 1, 1), Master("new", 2, 2), Master("old", 1, 0)


async def test_the_newest_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentinel may know more than the others; one that knows less leads nobody back."""
    told = Told(monkeypatch)
    assert await told.find(OLD, OLD, OLD) == OLD
    assert await told.find(OLD, NEW, OLD) == NEW
    with pytest.raises(NoMaster, match="name old:1, master before new:2"):
        await told.find(OLD, None, None)
    assert await told.find(None, NEW, OLD) == NEW
    with pytest.raises(NoMaster, match="connection refused"):
        await told.find(None, None, None)


async def test_sentinels_that_are_set_up_anew_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their epochs begin again: most of them must say so."""
    told = Told(monkeypatch)
    assert await told.find(NEW, NEW, NEW) == NEW
    with pytest.raises(NoMaster):
        await told.find(ANEW, None, None)
    assert await told.find(ANEW, ANEW, None) == ANEW


async def test_a_hung_sentinel_delays_nobody(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """When most have answered it has a moment more; else all are waited for, but not for long."""
    told = Told(monkeypatch)
    told.seconds = {"sentinel-0:26379": 60}
    assert await told.find(None, OLD, OLD) == OLD
    assert trio.current_time() <= sentinel_module.GRACE_SECONDS
    began = trio.current_time()
    told.seconds["sentinel-1:26379"] = 60
    assert await told.find(None, None, OLD) == OLD
    assert trio.current_time() - began <= sentinel_module.PATIENCE_SECONDS


async def test_the_log_tells_once_of_each_change(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A sentinel that is late for once is no news, and one that is away is news once."""
    told = Told(monkeypatch)
    with structlog.testing.capture_logs() as lines:
        for answers in [(OLD, OLD, OLD), (OLD, OLD, None)] * 5:
            await told.find(*answers)
            await trio.sleep(1)
        assert not lines
        for _ in range(10):
            await told.find(OLD, OLD, None)
            await trio.sleep(1)
        for _ in range(10):
            await told.find(OLD, OLD, OLD)
            await trio.sleep(1)
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("sentinels.unavailable", "sentinel-2:26379: connection refused"),
        ("sentinels.available", None),
    ]


def test_each_reign_has_a_name_of_its_own() -> None:
    """Another master, or the same for the second time; the name is the same on every daemon."""
    reigns = {master.reign for master in (OLD, NEW, ANEW)}
    assert len(reigns) == 3
    assert Master("old", 1, 1).reign in reigns


async def test_a_server_must_say_itself_that_it_is_the_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentinels may be late: an old master that is a replica by now is not written to."""
    server = Process(redis_servers()[0], tmp_path / "server", 'save ""', None, "")
    server.start()
    try:
        told = Told(monkeypatch, 1)
        told.answers = {"sentinel-0:26379": Master("127.0.0.1", server.port, 1)}
        wire = await told.service.connect()
        assert wire.reign == Master("127.0.0.1", server.port, 1).reign
        await wire.aclose()
        server.ask("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(NoMaster, match="it is a replica itself"):
            await told.service.connect()
    finally:
        server.close()


# What one Redis costs


def test_one_redis_costs_what_it_did(daemon: Daemon, redis: Redis) -> None:
    """No thread, and no command that is for sentinels."""
    assert len(os.listdir(f"/proc/{daemon.process.pid}/task")) == 1
    asked = {str(name).split("|")[0] for name in redis.info("commandstats")}
    assert "cmdstat_script" in asked
    assert not {"cmdstat_role", "cmdstat_sentinel"} & asked


# Last words


class Dying(trio.abc.Stream):
    """It takes nothing more, but what was said before comes yet."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    async def send_all(self, data: object) -> None:
        raise trio.BrokenResourceError("broken pipe")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep(0.05)
        said, self._said = self._said, b""
        return said

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_what_was_said_before_the_end_is_read(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A server is killed with commands unread: its reply to the one before still counts.

    A replica that takes over may not know what was answered, so it would be said twice.
    """
    connection = Connection(Wire(Dying(b"+OK\r\n")), 5, RedisClock())
    first = connection.send("SET", "key", "value")
    later = connection.send("SET", "key", "value")
    nursery.start_soon(run_to_its_end, connection)
    assert await first.reply() == b"OK"
    with pytest.raises(exceptions.ConnectionError, match="closed by Redis"):
        await later.reply()


async def run_to_its_end(connection: Connection) -> None:
    with contextlib.suppress(exceptions.ConnectionError):
        await connection.run()


async def test_a_server_that_is_left_hears_nothing_more(redis_url: str, redis: Redis) -> None:
    """What is said meanwhile waits for the next one; what was said before is answered."""
    clock = RedisClock()
    config = Config()
    client = Client(Address(redis_url), Appender(config, Metrics(), clock), clock, Metrics())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_connected()
        assert not client.is_beside("")
        assert client.is_beside("another")
        nursery.start_soon(client.leave, 0.5)
        await trio.sleep(0.1)
        before = redis.info("commandstats").get("cmdstat_echo", {}).get("calls", 0)
        began = trio.current_time()
        assert await client.call("ECHO", "x") == b"x"
        assert trio.current_time() - began > 0.3
        assert redis.info("commandstats")["cmdstat_echo"]["calls"] == before + 1
        nursery.cancel_scope.cancel()
