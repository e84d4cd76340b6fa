"""Messages of calls that are on their way to Redis, and what became of each.

One task gives up what takes too long: a call that waits for Redis alone needs no deadline.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..base.errors import BadParameter, FateUnknown
from . import CALL_SECONDS
from .bodies import Published, PublishReply
from .errors import INTERNAL, Error, bad_request

LOOK_SECONDS = 0.25


class Appends:
    """Those of one call. ``on_given_up`` is called when it takes too long.

    One task waits for them, as it would for an event, but for less.
    """

    __slots__ = ("_is_over", "_left", "_replies", "_task", "on_given_up")

    def __init__(self, count: int) -> None:
        self._replies: list[PublishReply | None] = [None] * count
        self._left = count
        self._is_over = False
        self._task: trio.lowlevel.Task | None = None
        self.on_given_up: Callable[[], object] | None = None

    def note(self, number: int, failure: Exception | None, ts: int | None) -> None:
        """What became of one."""
        if failure is None:
            self._replies[number] = PublishReply(result=Published(ts or 0))
        else:
            self._replies[number] = PublishReply(error=_error_of(failure))
        self._left -= 1
        if not self._left:
            self._end()

    def give_up(self) -> None:
        """Wait no longer."""
        self._end()
        if self.on_given_up is not None:
            self.on_given_up()

    async def wait(self) -> list[PublishReply]:
        """What became of each, as far as it is known in time."""
        if self._is_over:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        return [reply or _NOT_IN_TIME for reply in self._replies]

    def _end(self) -> None:
        self._is_over = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class AppendsUnderWay:
    """Those of all calls, in the order in which they began."""

    def __init__(self) -> None:
        self._began: dict[Appends, float] = {}
        self._next_look = 0.0

    def begin(self, count: int) -> Appends:
        """A call has so many messages."""
        appends = Appends(count)
        # They are as old as the look after them: a clock for each would cost more.
        self._began[appends] = self._next_look or trio.current_time()
        return appends

    def end(self, appends: Appends) -> None:
        """Nobody waits for them any more."""
        del self._began[appends]

    async def run(self) -> None:
        """Give up what takes too long, until cancelled."""
        while True:
            self._next_look = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(self._next_look)
            late = trio.current_time() - CALL_SECONDS
            for appends, began in self._began.items():
                if began > late:
                    break
                appends.give_up()


def _error_of(failure: Exception) -> Error:
    if isinstance(failure, BadParameter):
        return bad_request(str(failure)).error
    if isinstance(failure, FateUnknown):
        hint = "it may be stored: repeat the call with the same idempotency_key"
        return Error(INTERNAL, f"{failure}; {hint}")
    return Error(INTERNAL, f"not stored: {failure}")


_NOT_IN_TIME = PublishReply(
    error=Error(
        INTERNAL,
        f"not done within {CALL_SECONDS:g} s, and may be done yet: repeat the call with the same"
        " idempotency_key",
    )
)
