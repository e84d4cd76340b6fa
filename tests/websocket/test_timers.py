"""Calls at a time, on a clock of the test's own."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock

from fastimd.websocket.timers import MOST_CANCELLED, TURN_SECONDS, Timers


async def test_each_call_comes_at_its_time(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """In the order of their times, at most a turn late, and once."""
    timers = Timers()
    nursery.start_soon(timers.run)
    began = trio.current_time()
    rung: list[tuple[str, float]] = []

    def note(name: str) -> None:
        rung.append((name, trio.current_time() - began))

    for name, seconds in (("c", 7.0), ("a", 1.0), ("d", 7.0), ("b", 1.5), ("now", 0.0)):
        timers.call_after(seconds, lambda name=name: note(name))  # type: ignore[misc]
    await trio.sleep(100)
    assert [name for name, _ in rung] == ["now", "a", "b", "c", "d"]
    for (_, at), due in zip(rung, (0, 1, 1.5, 7, 7), strict=True):
        assert due <= at <= due + 2 * TURN_SECONDS
    assert len(timers) == 0


async def test_an_earlier_call_may_be_set_later(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Also by a call, and when nothing was set for long."""
    timers = Timers()
    nursery.start_soon(timers.run)
    rung: list[str] = []
    timers.call_after(1000, lambda: rung.append("late"))
    await trio.sleep(10)

    def go_on() -> None:
        timers.call_after(1, lambda: rung.append("early"))

    timers.call_after(1, go_on)
    await trio.sleep(3)
    assert rung == ["early"]
    await trio.sleep(2000)
    timers.call_after(1, lambda: rung.append("again"))
    await trio.sleep(2)
    assert rung == ["early", "late", "again"]


async def test_a_call_that_is_cancelled_does_not_come(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Twice is no more than once, and after the call it is nothing."""
    timers = Timers()
    nursery.start_soon(timers.run)
    rung: list[str] = []
    timer, other = (timers.call_after(1, lambda n=n: rung.append(n)) for n in "ab")  # type: ignore[misc]
    assert not timer.is_cancelled
    timer.cancel()
    timer.cancel()
    await trio.sleep(5)
    assert rung == ["b"]
    other.cancel()
    assert timer.is_cancelled
    assert other.is_cancelled
    await trio.sleep(5)
    assert rung == ["b"]


async def test_what_a_cancelled_call_needs_is_let_go() -> None:
    """At once, not when it would have come."""

    class Owner:
        def end(self) -> None:
            raise AssertionError("it was cancelled")

    timers, owner = Timers(), Owner()
    timer = timers.call_after(10, owner.end)
    gone = weakref.ref(owner)
    timer.cancel()
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("lasting", [0, 10, 1000])
async def test_cancelled_calls_are_forgotten(
    nursery: trio.Nursery, autojump_clock: MockClock, lasting: int
) -> None:
    """A hundred thousand that were to come in a year leave nothing; the others still come."""
    timers = Timers()
    nursery.start_soon(timers.run)
    rung: list[int] = []
    for number in range(lasting):
        timers.call_after(100 + number, lambda number=number: rung.append(number))  # type: ignore[misc]
    for _ in range(100_000):
        timers.call_after(365 * 86_400, lambda: rung.append(-1)).cancel()
        assert len(timers) <= 2 * lasting + MOST_CANCELLED + 1
    await trio.sleep(100 + lasting + 1)
    assert rung == list(range(lasting))


async def test_those_that_were_cancelled_and_came_due_are_counted_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """So that those that are cancelled later are forgotten as soon as others were."""
    timers = Timers()
    nursery.start_soon(timers.run)
    for _ in range(20):
        for _ in range(MOST_CANCELLED - 1):
            timers.call_after(1, lambda: None).cancel()
        assert len(timers) == MOST_CANCELLED - 1
        await trio.sleep(2)
        assert len(timers) == 0
