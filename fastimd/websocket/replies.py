"""An outbox in which small answers wait a moment, to leave together with what comes next.

Where everybody talks, a client gets the answer to its command and a message of its group at nearly
the same time. A write costs more than what is written, so the first waits for the second. That
comes some milliseconds later where the daemon is busy, and at once where it is not, so nobody who
hears what he says waits for the end of the moment.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from .outbox import Kernel, Outbox

MOMENT_SECONDS = 0.005
"""How long an answer waits at least; it is at most four times as long."""


class Replies:
    """The outboxes in which answers wait."""

    def __init__(self) -> None:
        self._waiting: list[ReplyOutbox] = []
        self._some_wait = trio.Event()

    def add(self, outbox: ReplyOutbox) -> None:
        """Flush an outbox in a moment, or in two."""
        self._waiting.append(outbox)
        self._some_wait.set()

    async def run(self) -> None:
        """Flush, until cancelled."""
        while True:
            await self._some_wait.wait()
            self._some_wait = trio.Event()
            waiting, self._waiting = self._waiting, []
            await trio.sleep(MOMENT_SECONDS)
            for outbox in waiting:
                outbox.moment_is_over()


class ReplyOutbox(Outbox):
    """An outbox with answers that wait.

    Args:
        join: makes one frame of several answers.
        replies: who flushes it in a moment.
    """

    __slots__ = ("_has_left", "_is_due", "_join", "_pending", "_replies")

    def __init__(
        self,
        connection: Kernel,
        nursery: trio.Nursery,
        limit: int,
        on_slow: Callable[[], None],
        join: Callable[[list[bytes]], bytes],
        replies: Replies,
    ) -> None:
        super().__init__(connection, nursery, limit, on_slow)
        self._join = join
        self._replies = replies
        self._pending: list[bytes] = []
        self._is_due = False
        self._has_left = False

    def reply(self, answer: bytes) -> None:
        """Push an answer together with what is pushed next, or in some moments."""
        self.keep(answer)
        self.flush_in_a_moment()

    def keep(self, answer: bytes) -> None:
        """Push an answer together with what is pushed next, or when the caller flushes."""
        self._pending.append(answer)

    @property
    def kept(self) -> int:
        """How many answers wait."""
        return len(self._pending)

    def flush_in_a_moment(self) -> None:
        """See to it that the answers that wait leave in some moments, four at the latest."""
        if self._pending and not self._is_due:
            self._is_due, self._has_left = True, False
            self._replies.add(self)

    def push(self, data: bytes) -> None:
        """Push ``data``, and before it the answers that wait."""
        if self._pending:
            pending, self._pending = self._pending, []
            data = self._join(pending) + data
            self._has_left = True
        super().push(data)

    def flush_replies(self) -> None:
        """Push the answers that wait."""
        if self._pending:
            self.push(b"")

    def moment_is_over(self) -> None:
        """Push the answers that have waited for it."""
        self._is_due = False
        if self._has_left:  # with a push; these are younger
            self.flush_in_a_moment()
        else:
            self.flush_replies()
