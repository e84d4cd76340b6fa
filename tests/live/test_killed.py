"""The leaves of daemons that are killed, on real ones: others tell them, each once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
import trio
from clients import RawClient, metrics
from clusters import cluster
from conftest import Daemon, StartDaemon, run_daemon, wait_for
from members import member
from redis import Redis

TOLD_SECONDS = 30
"""In which the leaves of a killed daemon are told, as promised."""

pytestmark = pytest.mark.timeout(150)


class Hooks:
    """A handler that notes what it is told, in order: the event, the user, the id."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "told"
        self._notes.touch()
        source = """
            import json, os

            def note(*told):
                line = (json.dumps(told) + "\\n").encode()
                at = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_APPEND)
                os.write(at, line)
                os.close(at)

            async def on_join(group_id, user_id, connection_id):
                note("join", user_id, connection_id)

            async def on_leave(group_id, user_id, connection_id):
                note("leave", user_id, connection_id)
        """
        (folder / "noting.py").write_text(dedent(source))

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """All of it."""
        whole, _, _ = self._notes.read_text().rpartition("\n")
        return [tuple(json.loads(line)) for line in whole.splitlines()]

    def ids(self, event: str) -> Counter[str]:
        """Of whom it was told."""
        return Counter(number for kind, _, number in self.told if kind == event)

    def users(self, event: str) -> list[str]:
        """Of whom it was told, by name."""
        return sorted(user for kind, user, _ in self.told if kind == event)


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """For daemons with the handler ``noting``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    return Hooks(tmp_path)


def join(daemon: Daemon, user: str, group: str = "1") -> RawClient:
    """A member that has had its greeting."""
    client = RawClient(daemon.address, f"/group/chat/{group}/{user}/t")
    assert '"list"' in client.next_text()
    return client


def leave(client: RawClient) -> None:
    """Close its connection."""
    client.stream.close()


def kill(daemon: Daemon) -> None:
    """SIGKILL."""
    daemon.process.kill()
    daemon.process.wait()
    daemon.expected_status = -signal.SIGKILL


async def wait_told(hooks: Hooks, leaves: int) -> None:
    """Wait until so many leaves were told."""
    with trio.fail_after(TOLD_SECONDS):
        while len(hooks.users("leave")) < leaves:  # noqa: ASYNC110
            await trio.sleep(0.1)


async def test_another_daemon_tells_the_leaves(
    start_daemon: StartDaemon, hooks: Hooks, redis: Redis
) -> None:
    """Of both wires, of each connection and subscription; those of the living are not told."""
    first, second = (start_daemon(hooks__handler="noting") for _ in range(2))
    stays = join(first, "stays")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(member(second, "ann", "1", "2"))
        clients = [join(second, user) for user in ("ben", "ben", "carl")]
        leave(clients.pop())
        wait_for(lambda: hooks.users("leave") == ["carl"])
        wait_for(lambda: len(hooks.users("join")) == 6)
        kill(second)
        await wait_told(hooks, 5)
        wait_for(lambda: first.events("presence.buried"))
    (line,) = first.events("presence.buried")
    assert line["connections"] == 4
    assert f":{second.process.pid}:" in line["daemon"]
    assert metrics(first)["fastimd_presence_buried_total"] == 4
    assert hooks.users("leave") == ["ann", "ann", "ben", "ben", "carl"]
    leave(stays)
    assert await trio.to_thread.run_sync(first.stop) == 0
    assert hooks.ids("join") == hooks.ids("leave")
    assert redis.exists("fastimd:daemons") == 0
    for client in clients:
        leave(client)


async def test_the_daemon_that_is_started_again_tells_them(
    start_daemon: StartDaemon, hooks: Hooks, redis: Redis
) -> None:
    """When the only one was killed."""
    only = start_daemon(hooks__handler="noting")
    clients = [join(only, user) for user in ("ann", "ben")]
    wait_for(lambda: hooks.users("join") == ["ann", "ben"])
    kill(only)
    again = await trio.to_thread.run_sync(lambda: start_daemon(hooks__handler="noting"))
    clients.append(join(again, "ann"))
    await wait_told(hooks, 2)
    for client in clients:
        leave(client)
    await wait_told(hooks, 3)
    assert again.stop() == 0
    assert hooks.ids("join") == hooks.ids("leave")
    (left,) = redis.keys("fastimd:visits:*")
    assert redis.hlen(left) == 1  # who has told them, should the daemon not be dead


async def test_a_worker_tells_those_of_another(start_daemon: StartDaemon, hooks: Hooks) -> None:
    """The worker that was killed is started again; one of them tells its leaves."""
    daemon = start_daemon(hooks__handler="noting", server__workers="2")
    clients = [join(daemon, user) for user in ("ann", "ben")]
    wait_for(lambda: hooks.users("join") == ["ann", "ben"])
    (opened,) = [line for line in daemon.events("socket.opened") if line["user"] == "ann"]
    pids = {line["worker"]: line["pid"] for line in daemon.events("worker.started")}
    os.kill(pids[opened["worker"]], signal.SIGKILL)
    await wait_told(hooks, 1)
    assert hooks.users("leave") == ["ann"]
    for client in clients:
        leave(client)
    await wait_told(hooks, 2)
    assert await trio.to_thread.run_sync(daemon.stop) == 0
    assert hooks.ids("join") == hooks.ids("leave")


async def test_who_was_stopped_and_goes_on_begins_anew(
    start_daemon: StartDaemon, hooks: Hooks
) -> None:
    """SIGSTOP: its connections were told as gone; those that are there come again."""
    first, second = (start_daemon(hooks__handler="noting") for _ in range(2))
    clients = [join(second, user) for user in ("ann", "ben")]
    wait_for(lambda: hooks.users("join") == ["ann", "ben"])
    second.process.send_signal(signal.SIGSTOP)
    try:
        await wait_told(hooks, 2)
        wait_for(lambda: first.events("presence.buried"))
        leave(clients.pop())
    finally:
        second.process.send_signal(signal.SIGCONT)
    wait_for(lambda: second.events("presence.was_buried"))
    wait_for(lambda: hooks.users("join")[:2] == ["ann", "ann"])
    leave(clients.pop())
    assert await trio.to_thread.run_sync(second.stop) == 0
    assert hooks.ids("join") == hooks.ids("leave")
    assert max(hooks.ids("leave").values()) == 1


def test_without_on_leave_it_costs_nothing(start_daemon: StartDaemon, redis: Redis) -> None:
    """Not a key."""
    daemon = start_daemon()
    client = join(daemon, "ann")
    assert redis.keys("fastimd:visits:*") == []
    assert not redis.exists("fastimd:daemons")
    leave(client)


# --- a cluster


async def test_on_a_cluster(tmp_path: Path, hooks: Hooks) -> None:
    """Groups and ledgers lie on different masters."""
    with cluster(tmp_path / "redis", replicas=0) as spread:
        first, second = (
            run_daemon(tmp_path, spread.url, hooks__handler="noting") for _ in range(2)
        )
        clients: list[RawClient] = []
        for number in range(6):
            clients += (join(each, f"u{number}", f"{number}") for each in (first, second))
        wait_for(lambda: len(hooks.users("join")) == 12)
        kill(second)
        await wait_told(hooks, 6)
        for client in clients:
            leave(client)
        assert await trio.to_thread.run_sync(first.stop) == 0
        assert hooks.ids("join") == hooks.ids("leave")
        left = [each for node in spread.nodes for each in node.client.keys("*")]
        assert b"fastimd:daemons" not in left


async def test_what_others_write_about_killed_daemons_ends_none(
    start_daemon: StartDaemon, redis: Redis, hooks: Hooks
) -> None:
    """Names and ends that are none, a ledger of another type, visits that cannot be read."""
    redis.zadd("fastimd:daemons", {b"\xff": time.time() * 1000, b"endless": float("inf")})
    redis.zadd("fastimd:daemons", {b"of-another-type": 1e14, b"with-garbage": 1e14})
    redis.set("fastimd:visits:of-another-type", "a string")
    for number, each in enumerate((b"\xff", b"[" * 100_000, b"[1,2]", b"")):
        redis.hset("fastimd:visits:with-garbage", b"%d \xff" % number, each)
        redis.hset("fastimd:visits:with-garbage", b"%d" % number, each)
    daemon = start_daemon(hooks__handler="noting")
    async with member(daemon, "ann", "g") as ann:
        await trio.to_thread.run_sync(
            partial(
                wait_for,
                lambda: not redis.zscore("fastimd:daemons", "with-garbage"),
                daemon,
                TOLD_SECONDS,
            )
        )
        assert await ann.code("publish", channel="g", data="still here") == 0
    await trio.to_thread.run_sync(lambda: wait_for(lambda: hooks.users("leave") == ["ann"], daemon))
    assert {line["key"] for line in daemon.events("store.key_unusable")} == {
        "fastimd:visits:of-another-type"
    }
    assert {line["key"] for line in daemon.events("store.corrupt_entry")} == {
        "fastimd:daemons",
        "fastimd:visits:with-garbage",
    }
