"""The wall clock moved by an hour, under the daemon and under Redis, while members talk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from clients import PING, TEXT, RawClient
from conftest import Daemon, redis_servers, run_daemon, run_redis, wait_for
from redis import Redis

HOUR = 3600
REQUIRED = os.environ.get("FASTIMD_TEST_FAKETIME") == "required"


def find_library() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        if REQUIRED:
            pytest.fail("libfaketime is not installed")
        pytest.skip("needs libfaketime (Debian package faketime)")
    return str(found[0])


class Clock:
    """The wall clock of the processes that are started while it is there."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = file
        self.move(0)
        monkeypatch.setenv("LD_PRELOAD", find_library())
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        monkeypatch.setenv("FAKETIME_DONT_RESET", "1")

    def move(self, seconds: int) -> None:
        """Set it so many seconds ahead of the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(tmp_path / "clock", monkeypatch)


@pytest.fixture
def moved_redis(clock: Clock, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "redis"
    folder.mkdir()
    # The wheel's: Debian's, which has jemalloc in it, does not start under libfaketime.
    with run_redis(redis_servers()[-1], folder) as url:
        yield url


def is_logged(daemon: Daemon, ahead: int) -> bool:
    """The daemon's last log line is so many seconds ahead of the true time."""
    logged = datetime.fromisoformat(daemon.lines[-1]["ts"]).timestamp()
    return abs(logged - time.time() - ahead) < 60


class Member(RawClient):
    """A client that answers pings and keeps what it hears."""

    def __init__(self, daemon: Daemon, user: str) -> None:
        super().__init__(daemon.address, f"/group/chat/1/{user}/t")
        self.heard: list[str] = []
        self.pinged_at: list[float] = []
        self.next_text()

    def hear(self) -> str:
        """The next message."""
        while (frame := self.next_frame()) is not None and frame.opcode != TEXT:
            assert frame.opcode == PING, frame
            self.pinged_at.append(time.monotonic())
            self.answer(frame)
        assert frame is not None, "the socket ended"
        self.heard.append(frame.payload.decode())
        return str(json.loads(frame.payload)["info"])


@pytest.mark.timeout(90)
@pytest.mark.parametrize("first", [HOUR, -HOUR])
def test_a_moved_clock_ends_nothing_and_moves_nothing(
    clock: Clock, moved_redis: str, tmp_path: Path, first: int
) -> None:
    """An hour ahead or back, and again: sockets, pings, order and the drain are as ever."""
    daemon = run_daemon(
        tmp_path,
        moved_redis,
        socket__ping_interval="0.4",
        socket__ping_timeout="60",
        server__drain_seconds="2",
    )
    try:
        with (
            Member(daemon, "a") as talker,
            Member(daemon, "b") as listener,
            Redis.from_url(moved_redis) as redis,
        ):
            said = 0
            for ahead in (0, first, 0, -first):
                clock.move(ahead)
                assert abs(redis.time()[0] - time.time() - ahead) < 60, "the clock did not move"
                until = time.monotonic() + 2
                while time.monotonic() < until:
                    talker.say(str(said))
                    assert talker.hear() == listener.hear() == str(said)
                    said += 1
                    time.sleep(0.01)
                with RawClient(daemon.address, f"/group/chat/other/{ahead}/t") as visitor:
                    visitor.next_text()
                wait_for(partial(is_logged, daemon, ahead), daemon)
            listed = [entry.decode() for entry in redis.lrange("gml:1", 0, -1)]
            moments = [json.loads(entry)["ts"] for entry in listed]
            assert moments == sorted(set(moments))
            assert len(listed) == said > 100
            assert talker.heard == listener.heard == listed
            silent_for = [later - earlier for earlier, later in pairwise(silence(listener))]
            assert len(silent_for) >= 5
            assert all(0.2 < seconds < 2 for seconds in silent_for), silent_for
            clock.move(first)
            began = time.monotonic()
            daemon.process.terminate()
            for member in (talker, listener):
                _, closing = member.infos_to_the_end()
                assert closing == (1001, "going away")
            assert daemon.process.wait(20) == 0
            assert time.monotonic() - began < 4
        closes = [line for line in daemon.events("socket.closed") if line["group"] == "1"]
        assert [line["code"] for line in closes] == [1001, 1001]
    finally:
        daemon.process.kill()
        daemon.process.wait()


def silence(member: Member) -> list[float]:
    """Let a member only answer pings for some seconds: when each came."""
    member.pinged_at.clear()
    member.stream.settimeout(0.1)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        try:
            member.receive_some()
        except TimeoutError:
            continue
        for frame in member.frames_so_far():
            assert frame.opcode == PING
            member.pinged_at.append(time.monotonic())
            member.answer(frame)
    member.stream.settimeout(20)
    return member.pinged_at
