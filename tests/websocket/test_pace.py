"""How fast one client may send, on a clock of the test's own."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from fastimd.websocket.pace import FLOOD_SECONDS, Pace


async def seconds_of(pace: Pace, messages: int) -> float:
    began = trio.current_time()
    for _ in range(messages):
        assert await pace.wait_turn()
    return trio.current_time() - began


async def test_a_burst_passes_at_once_and_the_rest_at_the_rate(autojump_clock: MockClock) -> None:
    """The bucket is full after a pause, and no fuller."""
    pace = Pace(10, 5)
    for _ in range(3):
        assert await seconds_of(pace, 5) == 0
        assert await seconds_of(pace, 20) == pytest.approx(2, abs=0.01)
        await trio.sleep(100)


@pytest.mark.parametrize("lag", [0.0, 0.07, 0.3])
async def test_a_flood_is_found_out_however_late_turns_come(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, lag: float
) -> None:
    """A busy daemon, whose sleeps take longer, still sees that the client does not give way."""
    sleep = trio.sleep

    async def sleep_too_long(seconds: float) -> None:
        await sleep(seconds + lag)

    monkeypatch.setattr(trio, "sleep", sleep_too_long)
    pace = Pace(20, 5)
    began = trio.current_time()
    while await pace.wait_turn():
        assert trio.current_time() - began < FLOOD_SECONDS + 1
    assert trio.current_time() - began >= FLOOD_SECONDS


async def test_who_pauses_is_no_flood(autojump_clock: MockClock) -> None:
    """Bursts far over the rate for minutes, each with its pause, are slowed and nothing more."""
    pace = Pace(10, 5)
    for _ in range(50):
        assert await seconds_of(pace, 55) == pytest.approx(5, abs=0.01)
        await trio.sleep(6)


async def test_who_keeps_to_the_rate_never_waits(autojump_clock: MockClock) -> None:
    """One message a tenth of a second, for minutes."""
    pace = Pace(10, 1)
    for _ in range(2000):
        assert await seconds_of(pace, 1) == pytest.approx(0, abs=0.002)
        await trio.sleep(0.1)
