"""The wall clock moved by an hour, under the daemon and under Redis, while members talk."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from clients import CLOSE, PING, TEXT, RawClient, metrics
from conftest import Daemon, name_of_server, redis_servers, run_daemon, run_redis, wait_for
from faults import WallClock
from redis import Redis

HOUR = 3600
PING_SECONDS = 0.5
UPDATE_SECONDS = 0.5
DRAIN_SECONDS = 3
PATIENCE = 20.0


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock(tmp_path / "clock")
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    return clock


@pytest.fixture(params=redis_servers(), ids=name_of_server)
def redis(clock: WallClock, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A Redis under that clock."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with run_redis(request.param, folder) as url, Redis.from_url(url) as client:
        yield client


@pytest.fixture
def daemon(redis: Redis, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon under that clock."""
    port = redis.connection_pool.connection_kwargs["port"]
    daemon = run_daemon(
        tmp_path,
        f"redis://127.0.0.1:{port}/0",
        group_list__update_rate=str(UPDATE_SECONDS),
        server__drain_seconds=str(DRAIN_SECONDS),
        socket__ping_interval=str(PING_SECONDS),
        socket__ping_timeout="60",
    )
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


class Listener:
    """A client that listens to its end, answers pings and closes, and says nothing."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        self.heard: list[bytes] = []
        self.pings = 0
        self.close: tuple[int, str] | None = None
        self.closed_at = 0.0
        self._client = RawClient(daemon.address, path)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _listen(self) -> None:
        with self._client as client:
            while (frame := client.next_frame()) is not None:
                if frame.opcode == TEXT:
                    self.heard.append(frame.payload)
                else:
                    client.answer(frame)
                self.pings += frame.opcode == PING
                if frame.opcode == CLOSE:
                    self.close, self.closed_at = frame.closing, time.monotonic()


@contextmanager
def listeners(daemon: Daemon, *paths: str) -> Iterator[list[Listener]]:
    """Listeners that are joined at the end, for which the daemon is ended."""
    listening: list[Listener] = []
    try:
        listening.extend(Listener(daemon, path) for path in paths)
        yield listening
    finally:
        daemon.process.kill()
        for listener in listening:
            listener.join()


@pytest.mark.timeout(120)
def test_a_moved_clock_ends_nothing_and_moves_nothing(
    clock: WallClock, redis: Redis, daemon: Daemon
) -> None:
    """An hour ahead or back: no socket ends, and pings, pushes and the order are as ever."""
    began = time.monotonic()
    paths = ("/group/chat/1/a/t", "/group/chat/2/b/t", "/group/list/a/t")
    with (
        listeners(daemon, *paths) as (listener, silent, pushed),
        RawClient(daemon.address, "/group/chat/1/talker/t") as talker,
    ):
        talker.next_text()  # the greeting
        wait_for(lambda: listener.heard, daemon)
        numbers = count()
        for ahead in (0, HOUR, 0, -HOUR, HOUR):
            clock.move(ahead)
            pings, pushes = silent.pings, len(pushed.heard)
            deadline = time.monotonic() + PATIENCE
            while silent.pings < pings + 3 or len(pushed.heard) < pushes + 3:
                assert time.monotonic() < deadline, "no pings, or no pushes"
                say(talker, str(next(numbers)))
            assert abs(redis.time()[0] - time.time() - ahead) < 60, "Redis did not notice"
            with RawClient(daemon.address, f"/group/chat/3/{ahead}/t"):
                wait_for(partial(is_logged, daemon, ahead), daemon)

        said = next(numbers)
        entries: Any = redis.lrange("gml:1", 0, -1)
        moments = [json.loads(entry)["ts"] for entry in entries]
        assert moments == sorted(set(moments))
        assert len(entries) == said
        wait_for(lambda: len(listener.heard) > said, daemon)
        assert listener.heard[1:] == entries

        most = (time.monotonic() - began) / PING_SECONDS + 1
        assert silent.pings <= most
        most = (time.monotonic() - began) / UPDATE_SECONDS + 1
        assert len(pushed.heard) <= most
        assert {line["group"] for line in daemon.events("socket.closed")} <= {"3"}


def say(talker: RawClient, info: str) -> None:
    """Say something and hear it."""
    talker.say(info)
    while (frame := talker.next_frame()) is not None and frame.opcode == PING:
        talker.answer(frame)
    assert frame is not None
    assert json.loads(frame.payload)["info"] == info


def is_logged(daemon: Daemon, ahead: int) -> bool:
    """The daemon's last log line is so many seconds ahead of the true time."""
    logged = datetime.fromisoformat(daemon.lines[-1]["ts"]).timestamp()
    return abs(logged - time.time() - ahead) < 60


def test_latencies_are_by_the_clock_of_redis(
    redis_url: str, clock: WallClock, tmp_path: Path
) -> None:
    """A message is not an hour old for a daemon whose machine is an hour ahead of Redis."""
    clock.move(HOUR)
    daemon = run_daemon(tmp_path, redis_url)
    try:
        with RawClient(daemon.address, "/group/chat/1/talker/t") as talker:
            talker.next_text()  # the greeting
            say(talker, "hi")
        assert is_logged(daemon, HOUR), "the daemon's clock is not ahead"
        numbers = metrics(daemon)
        for name in ("relay", "delivery"):
            assert numbers[f"fastimd_{name}_seconds_count"] == 1
            assert numbers[f"fastimd_{name}_seconds_sum"] < 60
    finally:
        daemon.process.kill()
        daemon.process.wait()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_clock_that_moves_in_the_drain_moves_no_close(
    clock: WallClock, daemon: Daemon, ahead: int
) -> None:
    """The closes are spread over drain_seconds, and the daemon ends within it and two seconds."""
    with listeners(daemon, *(f"/group/chat/1/{user}/t" for user in range(10))) as members:
        wait_for(lambda: all(member.heard for member in members), daemon)
        began = time.monotonic()
        daemon.process.terminate()
        wait_for(lambda: daemon.events("daemon.draining"), daemon)
        clock.move(ahead)
        assert daemon.process.wait(PATIENCE) == 0
        assert time.monotonic() - began <= DRAIN_SECONDS + 2
        for member in members:
            member.join()
        for member in members:
            assert re.fullmatch(r"\(1001, 'restart \d+'\)", str(member.close))
        closed_at = [member.closed_at for member in members]
        assert max(closed_at) - min(closed_at) >= DRAIN_SECONDS / 2
        assert is_logged(daemon, ahead), "the daemon did not notice"
