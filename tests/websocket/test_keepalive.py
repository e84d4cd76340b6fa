"""The keepalive pings silent sockets and ends those that stay silent."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.settings import Config
from fastimd.base.settings.socket import Socket
from fastimd.classic.subprotocol import FAST_IM
from fastimd.websocket.keepalive import TURN_SECONDS, Keepalive

INTERVAL, TIMEOUT = 20.0, 50.0


@dataclass
class Client:
    """A socket whose client answers pings, or does not."""

    keepalive: Keepalive
    answers: bool = True
    heard_at: float = 0.0
    is_open: bool = True
    subprotocol = FAST_IM
    pinged: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def ping(self) -> None:
        self.pinged.append(trio.current_time())
        if self.answers:
            self.heard_at = self.keepalive.next_turn

    def end_silent(self) -> None:
        self.ended.append(trio.current_time())
        self.is_open = False


@pytest.fixture
def keepalive(nursery: trio.Nursery) -> Keepalive:
    keepalive = Keepalive(Config(socket=Socket(ping_interval=INTERVAL, ping_timeout=TIMEOUT)))
    nursery.start_soon(keepalive.run)
    return keepalive


async def test_the_silent_are_pinged_and_ended(
    autojump_clock: MockClock, keepalive: Keepalive
) -> None:
    """Within a turn of the time that the settings say."""
    there, gone = Client(keepalive), Client(keepalive, answers=False)
    for each in (there, gone):
        keepalive.watch(each)
    await trio.sleep(4 * INTERVAL)
    assert len(there.pinged) in (3, 4)
    assert not there.ended
    assert [round(time / INTERVAL) for time in gone.pinged] == [1, 2]
    (ended,) = gone.ended
    assert TIMEOUT <= ended <= TIMEOUT + INTERVAL + 2 * TURN_SECONDS


async def test_who_says_something_is_not_pinged(
    autojump_clock: MockClock, keepalive: Keepalive
) -> None:
    client = Client(keepalive)
    keepalive.watch(client)
    for _ in range(20):
        await trio.sleep(INTERVAL / 5)
        client.heard_at = keepalive.next_turn
    assert not client.pinged
    assert not client.ended


async def test_pings_of_a_busy_daemon_are_not_late(
    mock_clock: MockClock, keepalive: Keepalive
) -> None:
    """Each turn comes nearly half a second late; clients wait for their pings by the clock."""
    client = Client(keepalive)
    keepalive.watch(client)
    await wait_all_tasks_blocked()
    while trio.current_time() < 10 * INTERVAL:
        mock_clock.jump(1.9 * TURN_SECONDS)
        await wait_all_tasks_blocked()
    assert 9 <= len(client.pinged) <= 10
    assert not client.ended


async def test_a_pause_of_the_daemon_is_no_silence_of_its_clients(
    mock_clock: MockClock, keepalive: Keepalive
) -> None:
    """A machine stands still for an hour: its clients get the time to answer, as ever."""
    client = Client(keepalive, answers=False)
    keepalive.watch(client)
    await wait_all_tasks_blocked()
    mock_clock.jump(3600)
    await wait_all_tasks_blocked()
    for _ in range(int(TIMEOUT / TURN_SECONDS) - 2):
        assert not client.ended
        mock_clock.jump(TURN_SECONDS)
        await wait_all_tasks_blocked()
    assert len(client.pinged) == 2
