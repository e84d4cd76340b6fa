"""A turnstile: so many a turn, in order, and nobody is forgotten."""

from __future__ import annotations

import itertools

import trio
from trio.testing import wait_all_tasks_blocked

from fastimd.websocket.turnstile import Turnstile


async def test_so_many_pass_in_a_turn(nursery: trio.Nursery) -> None:
    """In the order in which they came; others have their turns between."""
    turnstile = Turnstile(3)
    nursery.start_soon(turnstile.run)
    passed: list[int] = []
    seen: list[int] = []

    async def come(number: int) -> None:
        await turnstile.pass_through()
        passed.append(number)

    async def look() -> None:
        while len(passed) < 20:
            seen.append(len(passed))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as crowd:
        for number in range(20):
            crowd.start_soon(come, number)
        crowd.start_soon(look)
    assert sorted(passed) == list(range(20))
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) <= 6  # of two turns, when the looker is first in one and last in the next
    assert len([step for step in steps if step]) >= 4


async def test_who_waits_keeps_their_place(nursery: trio.Nursery) -> None:
    """A later one does not slip through; one that gives up leaves its place to the next."""
    turnstile = Turnstile(1)
    passed: list[str] = []

    async def come(name: str) -> None:
        await turnstile.pass_through()
        passed.append(name)

    await come("first")
    scope = trio.CancelScope()

    async def come_and_give_up() -> None:
        with scope:
            await come("gives up")

    for waits in (come_and_give_up, lambda: come("second"), lambda: come("third")):
        nursery.start_soon(waits)
        await wait_all_tasks_blocked()
    assert passed == ["first"]
    scope.cancel()
    await wait_all_tasks_blocked()
    nursery.start_soon(turnstile.run)
    await wait_all_tasks_blocked()
    await come("fourth")
    assert passed == ["first", "second", "third", "fourth"]


async def test_nobody_waits_where_nobody_is(nursery: trio.Nursery) -> None:
    """One after another they pass without a turn of the scheduler."""
    turnstile = Turnstile(2)
    nursery.start_soon(turnstile.run)
    for _ in range(100):
        await turnstile.pass_through()
        await wait_all_tasks_blocked()
