"""What the garbage collector is kept from, and when it looks all the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from fastimd.base.metrics import Metrics
from fastimd.daemon import memory
from fastimd.daemon.memory import FEW_SOCKETS, FREEZE_EACH, LOOK_SECONDS, Memory

LOOK = ["unfreeze", "collect", "freeze"]


class Daemon:
    """What the room asks, and what it did to the collector."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.metrics = Metrics()
        self.sockets = 0
        self.serves_http = False
        self.did: list[str] = []
        names = ("collect", "freeze", "unfreeze")
        played = {name: lambda name=name: self.did.append(name) for name in names}
        monkeypatch.setattr(memory, "gc", SimpleNamespace(**played))
        self.memory = Memory(self.metrics, lambda: self.sockets, lambda: self.serves_http)

    def open(self, sockets: int) -> None:
        self.sockets += sockets
        self.metrics.sockets_opened += sockets


@pytest.fixture
async def daemon(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    daemon = Daemon(monkeypatch)
    nursery.start_soon(daemon.memory.run)
    return daemon


async def test_many_new_sockets_are_frozen_once(daemon: Daemon, autojump_clock: MockClock) -> None:
    """A few are not worth it; those that came meanwhile count for the next time."""
    daemon.open(FREEZE_EACH - 1)
    await trio.sleep(3)
    assert daemon.did == []
    daemon.open(1)
    await trio.sleep(3)
    assert daemon.did == ["freeze"]
    daemon.open(FREEZE_EACH)
    await trio.sleep(3)
    assert daemon.did == ["freeze", "freeze"]


async def test_nothing_is_frozen_amid_requests(daemon: Daemon, autojump_clock: MockClock) -> None:
    """Their garbage needs the collector; what they put off is done when they have ended."""
    daemon.serves_http = True
    daemon.open(10 * FREEZE_EACH)
    await trio.sleep(10)
    assert daemon.did == []
    daemon.serves_http = False
    await trio.sleep(2)
    assert daemon.did == ["freeze"]


async def test_what_was_frozen_is_looked_at_when_there_are_few_sockets(
    daemon: Daemon, autojump_clock: MockClock
) -> None:
    """Seldom, and once for each time that something was frozen."""
    daemon.open(10 * FEW_SOCKETS)
    await trio.sleep(2 * LOOK_SECONDS)
    assert daemon.did == ["freeze"]
    daemon.sockets = FEW_SOCKETS
    await trio.sleep(2)
    assert daemon.did == ["freeze", *LOOK]
    await trio.sleep(2 * LOOK_SECONDS)
    assert daemon.did == ["freeze", *LOOK]
    daemon.open(FREEZE_EACH)
    daemon.sockets = 0
    await trio.sleep(3)
    assert daemon.did == ["freeze", *LOOK, "freeze", *LOOK]
