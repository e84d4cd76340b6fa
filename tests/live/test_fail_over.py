"""A fail-over by sentinels under four talkers: see ``four_talkers.py`` for what must hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from conftest import Daemon, redis_servers
from four_talkers import house
from resuming import until
from sentinels import SERVICE, Company, Process, company


def kill(redis: Company, old: Process) -> None:
    """SIGKILL, and of a sentinel too, when the replicas have lacked the last half second."""
    old.ask("CONFIG", "SET", "requirepass", "unknown to them")  # who is logged in stays so
    old.ask("CLIENT", "KILL", "TYPE", "replica")
    time.sleep(0.5)
    redis.sentinels[0].kill()
    old.kill()


def command(redis: Company, old: Process) -> None:
    """SENTINEL FAILOVER."""
    redis.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)


def plan(redis: Company, old: Process) -> None:
    """The same as OPERATION.md has it."""
    old.ask("CLIENT", "PAUSE", 5_000, "WRITE")
    command(redis, old)


def pause(redis: Company, old: Process) -> None:
    """SIGSTOP, and of a sentinel too: it will still think that the old master is the master."""
    redis.sentinels[0].pause()
    old.pause()


def are_at(daemons: list[Daemon], server: Process) -> bool:
    """Whether both connections of each daemon are to a server, as their logs say."""
    connected = [
        [line for line in daemon.events("redis.connected") if line["purpose"] == purpose][-1]
        for daemon in daemons
        for purpose in ("commands", "messages")
    ]
    place = f"127.0.0.1:{server.port}, master of {SERVICE}"
    return all(line["address"] == place for line in connected)


@pytest.fixture
def with_sentinels(tmp_path: Path) -> Iterator[Company]:
    """A master, two replicas and three sentinels."""
    with company(redis_servers()[0], tmp_path / "redis") as made:
        yield made


@pytest.mark.parametrize("change", [kill, command, plan, pause])
@pytest.mark.timeout(120)
async def test_a_fail_over_under_four_talkers(
    change: Callable[[Company, Process], None],
    with_sentinels: Company,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A master is killed; sent off by an operator; or stopped, and back as a master of its own.

    Only a planned one loses nothing; of the others the messages that are lost were heard.
    """
    redis = with_sentinels
    async with house(tmp_path, redis) as rooms:
        old = redis.master
        began = time.monotonic()
        await trio.to_thread.run_sync(change, redis, old)
        await rooms.wait_further()
        new = await trio.to_thread.run_sync(redis.wait_failed_over, old)
        await until(partial(are_at, rooms.daemons, new), lambda: "the daemons are elsewhere")
        if change is pause:
            await trio.sleep(max(0, began + 10 - time.monotonic()))
            old.resume()
            redis.sentinels[0].resume()
            await until(lambda: old.role() == "master", old.role)
            await trio.sleep(1)
        await rooms.wait_further()
    assert new is not old
    assert are_at(rooms.daemons, new)
    assert rooms.lost or change is not kill, "the replicas lacked nothing"
    assert not rooms.lost or change in (kill, command)
    with capsys.disabled():
        print(f"\n{change.__name__}: {'; '.join(rooms.report)}")
