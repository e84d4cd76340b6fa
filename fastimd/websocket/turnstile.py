"""Lets only so many tasks on in one turn of the scheduler.

When thousands of clients come or go at once, the scheduler would do all their work in one turn, and
Redis, the fan-out and everybody else would wait for it. Behind a turnstile they go on a few at a
time, in the order in which they came.
"""

from __future__ import annotations

from collections import OrderedDict

import trio


class Turnstile:
    """One place where tasks pass.

    Args:
        per_turn: how many may in one turn of the scheduler. When that many have passed, in however
            many turns, the next one waits for a turn; so the turnstile itself has seldom to turn.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._used_up = trio.Event()
        self._waiting: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()

    async def pass_through(self) -> None:
        """Wait for one's turn; mostly there is nothing to wait for."""
        if self._left > 0 and not self._waiting:
            self._left -= 1
            if not self._left:
                self._used_up.set()
            return
        task = trio.lowlevel.current_task()
        self._waiting[task] = None

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    async def run(self) -> None:
        """Turn, until cancelled."""
        while True:
            await self._used_up.wait()  # one turn at least
            self._left = self._per_turn
            while self._waiting and self._left > 0:
                task, _ = self._waiting.popitem(last=False)
                self._left -= 1
                trio.lowlevel.reschedule(task)
            if self._left:
                self._used_up = trio.Event()
