"""What the garbage collector finds and when it looks: sockets leave nothing to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from clients import dial
from conftest import Daemon, StartDaemon
from redis import Redis
from test_leaks import (
    FLOODS,
    VISITS,
    Visit,
    holdings,
    log_in,
    read_to_the_end,
    wait_for_nothing_more,
)
from trio.testing import MockClock

from fastimd.base.metrics import Metrics
from fastimd.daemon import memory
from fastimd.daemon.memory import LOOKS, PATIENCE, QUIET, SPARED, YOUNG, Memory

LOOK = ["unfreeze", "collect", "freeze"]


class Collector:
    """Stands for ``gc``: notes what is asked of it."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.callbacks: list[Callable[[str, dict[str, int]], None]] = []
        self.threshold = 0

    def set_threshold(self, threshold: int) -> None:
        self.threshold = threshold

    def freeze(self) -> None:
        self.did.append("freeze")

    def unfreeze(self) -> None:
        self.did.append("unfreeze")

    def collect(self) -> None:
        self.did.append("collect")
        self.tell(generation=2)

    def look(self, times: int = 1) -> None:
        """Look at what is young, as it does by itself, and find something."""
        for _ in range(times):
            self.tell(found=1)
        self.did.clear()

    def tell(self, generation: int = 0, found: int = 0) -> None:
        """Have a look, and note when it is."""
        for callback in self.callbacks:
            callback("start", {"generation": generation, "collected": 0})
            if not generation:
                self.did.append("look")
            callback("stop", {"generation": generation, "collected": found})


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    collector = Collector()
    monkeypatch.setattr(memory, "gc", collector)
    return collector


@pytest.fixture
async def counts(nursery: trio.Nursery, autojump_clock: MockClock, collector: Collector) -> Metrics:
    counts = Metrics()
    nursery.start_soon(Memory(counts).run)
    await trio.sleep(0.5)
    assert collector.did == ["collect", "freeze"]  # the callback is not there yet
    assert collector.threshold == YOUNG
    collector.did.clear()
    return counts


async def test_what_was_looked_at_is_frozen(
    counts: Metrics, collector: Collector, autojump_clock: MockClock
) -> None:
    for _ in range(3):
        collector.tell(found=1)
    assert collector.did == ["look", "freeze"] * 3


async def test_after_a_look_at_no_garbage_some_are_spared(
    counts: Metrics, collector: Collector, autojump_clock: MockClock
) -> None:
    """What is new is frozen before, so they look at nothing; never those that are asked for."""
    collector.look()
    looked, spared = ["look", "freeze"], ["freeze", "look", "freeze"]
    for _ in range(2):
        collector.did.clear()
        for _ in range(1 + SPARED):
            collector.tell()
        assert collector.did == looked + spared * SPARED
    collector.did.clear()
    collector.tell(found=1)
    collector.tell()
    collector.tell(generation=1)
    collector.tell()
    assert collector.did == looked + looked + ["freeze"] + spared


async def test_everything_is_looked_at_seldom(
    counts: Metrics, collector: Collector, autojump_clock: MockClock
) -> None:
    collector.look(LOOKS - 1)
    await trio.sleep(2 * PATIENCE)
    assert collector.did == []
    collector.look()
    await trio.sleep(1)
    assert collector.did == LOOK
    await trio.sleep(2 * PATIENCE)
    assert collector.did == LOOK


@pytest.mark.parametrize(("busy_seconds", "waited"), [(0, 1), (5, 6), (1000, PATIENCE)])
async def test_a_quiet_second_is_waited_for(
    counts: Metrics,
    collector: Collector,
    autojump_clock: MockClock,
    busy_seconds: int,
    waited: int,
) -> None:
    """But not for ever."""
    collector.look(LOOKS)
    for second in range(1, 2 * PATIENCE):
        counts.sockets_opened += QUIET + (second <= busy_seconds)
        await trio.sleep(1)
        if collector.did:
            break
    assert collector.did == LOOK
    assert second == waited


async def test_the_collector_is_left_to_itself_in_the_end(collector: Collector) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Memory(Metrics()).run)
        await trio.testing.wait_all_tasks_blocked()
        assert collector.callbacks
        nursery.cancel_scope.cancel()
    assert not collector.callbacks


LOOKING_HOOK = """
import gc
import json
from collections.abc import Callable
from pathlib import Path


async def log_in(user: str, password: str) -> str:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.unfreeze()
    gc.collect()
    kinds = {f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.garbage}
    gc.set_debug(0)
    gc.garbage.clear()
    Path("found").write_text(json.dumps(sorted(kinds)))
    return user
"""
OF_WERKZEUG = {"builtins.cell", "builtins.function", "builtins.set", "builtins.tuple"}
"""Its router makes a function for each request that refers to itself."""


def look(daemon: Daemon) -> set[str]:
    """The kinds of objects that only the collector could free; they are freed now."""
    with dial(daemon.address) as stream:
        stream.sendall(log_in("looker", b"Connection: close\r\n"))
        assert b'"code":200' in read_to_the_end(stream)
    return set(json.loads((daemon.log_path.parent / "found").read_text()))


@pytest.mark.timeout(120)
def test_sockets_and_requests_leave_nothing_to_the_collector(
    start_daemon: StartDaemon, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they come and go: what it has looked at once it does not look at again."""
    (tmp_path / "looking_hook.py").write_text(LOOKING_HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    daemon = start_daemon(
        login__hook="looking_hook:log_in",
        socket__outbox_bytes="16384",
        socket__ping_interval="1",
        group_message__list_num="0",
    )
    look(daemon)
    before = holdings(daemon, redis)
    visits: tuple[Visit, ...] = (*VISITS, *FLOODS)
    for number, visit in enumerate(visits):
        visit(daemon, str(number))
    wait_for_nothing_more(daemon, redis, before)
    assert look(daemon) <= OF_WERKZEUG
