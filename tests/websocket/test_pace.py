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


# --- what is refused instead of slowed


async def turns_of(pace: Pace, seconds: float, pause: float) -> tuple[int, int, float]:
    """Try for so long; returns how many passed, how many did not, and when it became a flood."""
    began = trio.current_time()
    passed = refused = 0
    while trio.current_time() - began < seconds and not pace.is_flood:
        if pace.take_turn():
            passed += 1
        else:
            refused += 1
        await trio.sleep(pause)
    return passed, refused, trio.current_time() - began


async def test_what_comes_too_fast_is_refused(autojump_clock: MockClock) -> None:
    """A burst passes, and then as many as the rate allows; nothing waits."""
    pace = Pace(10, 5)
    passed, refused, _ = await turns_of(pace, 5, 0.01)
    assert passed == pytest.approx(5 + 50, abs=2)
    assert refused == pytest.approx(500 - passed, abs=2)


@pytest.mark.parametrize("pause", [0.001, 0.01, 0.3])
async def test_who_goes_on_when_refused_is_a_flood(autojump_clock: MockClock, pause: float) -> None:
    """After about ten seconds, and not before."""
    pace = Pace(1, 1)
    *_, at = await turns_of(pace, 100, pause)
    assert pace.is_flood
    assert FLOOD_SECONDS <= at <= 3 * FLOOD_SECONDS


async def test_who_heeds_a_refusal_is_no_flood(autojump_clock: MockClock) -> None:
    """Bursts far over the rate for minutes, each with a pause behind it."""
    pace = Pace(10, 5)
    for _ in range(50):
        await turns_of(pace, 2, 0.01)
        assert not pace.is_flood
        await trio.sleep(6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5, 5])
async def test_a_first_refusal_after_a_pause_is_no_flood(
    autojump_clock: MockClock, rate: float
) -> None:
    """However long that was, and however slow the pace: nothing was refused in it."""
    pace = Pace(rate, 1)
    for _ in range(5):
        assert pace.take_turn()
        await trio.sleep(0.9 / rate)
        assert not pace.take_turn()
        assert not pace.is_flood
        await trio.sleep(2 / rate)


async def test_another_pace_counts_from_the_next_turn(autojump_clock: MockClock) -> None:
    """As when settings are read again."""
    pace = Pace(1, 1)
    assert [pace.take_turn(), pace.take_turn()] == [True, False]
    pace.adapt(100, 50)
    await trio.sleep(1)
    assert [pace.take_turn() for _ in range(51)] == [True] * 50 + [False]
