"""A socket's bounded, coalescing writer.

Theory of operation: ``push`` writes at once, without a task switch, and nearly always the kernel
takes everything. Only what it refuses is queued; then one task is started that waits until the
kernel has room and hands it all that is queued in one write. Order is kept because nothing is
written past a queue.

A reader is too slow when more than the limit is queued, or when the oldest byte in the queue is
``STALE_SECONDS`` old. It is not waited for: what it had not begun to get is dropped, so that the
stream still ends between two pushes, and the owner is told. A push that alone is longer than the
limit, such as a long greeting, may be queued once; what follows it has the limit to itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any, Protocol

import trio

STALE_SECONDS = 30.0
"""How long a byte may wait for its reader."""

# Small pushes are joined, so that each costs no more than its bytes.
_MERGED_BYTES = 4096
_MERGED_SECONDS = 1.0
_LONG = 65_536  # what is longer is not copied when the kernel takes a part
_BUFFERS_A_WRITE = 512  # less than IOV_MAX of any system


class Kernel(Protocol):
    """What takes the bytes, as a non-blocking socket does."""

    def send(self, data: bytes, /) -> int: ...

    def sendmsg(self, buffers: list[bytes | memoryview], /) -> int: ...


class Outbox:
    """Bytes on their way to one client.

    Args:
        connection: a non-blocking socket.
        nursery: where the flushing task runs.
        limit: bytes that may wait.
        on_slow: called once when the reader is too slow; it may push a last word.
        wait_writable: waits until the connection takes more.

    ``queued`` is how many bytes wait; ``messages`` how many messages were pushed, kept by those who
    push them, because one push may carry many.
    """

    __slots__ = (
        "_allowed",
        "_closed",
        "_connection",
        "_emptied",
        "_head_begun",
        "_limit",
        "_nursery",
        "_on_slow",
        "_queue",
        "_wait_writable",
        "_waiting",
        "messages",
        "queued",
    )

    def __init__(
        self,
        connection: Kernel,
        nursery: trio.Nursery,
        limit: int,
        on_slow: Callable[[], None],
        wait_writable: Callable[[Any], Awaitable[None]] = trio.lowlevel.wait_writable,
    ) -> None:
        self._connection = connection
        self._wait_writable = wait_writable
        self._waiting: trio.CancelScope | None = None  # of the flushing task, for the kernel
        self._nursery = nursery
        self._limit = limit
        self._on_slow: Callable[[], None] | None = on_slow
        self._allowed = limit
        # What waits and since when, while the flushing task runs; else None.
        self._queue: deque[tuple[bytes | memoryview, float]] | None = None
        self._head_begun = False
        self._closed = False
        self._emptied: trio.Event | None = None
        self.queued = 0
        self.messages = 0

    def push(self, data: bytes) -> None:
        """Write ``data``, or queue what the kernel does not take now. Never waits."""
        if self._closed:
            return
        if self._queue is not None:
            self._enqueue(self._queue, data)
            return
        try:
            sent = self._connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()  # the reader sees the end of the stream and says why
            return
        if sent < len(data):
            self._queue = deque()
            self._head_begun = sent > 0
            self._enqueue(
                self._queue, data[sent:] if len(data) < _LONG else memoryview(data)[sent:]
            )
            self._nursery.start_soon(self._flush, self._queue)

    def seal(self) -> None:
        """Take nothing more; what is queued still goes out."""
        self._closed = True

    def close(self) -> None:
        """Forget what is queued, and the owner, and take nothing more."""
        self._closed = True
        self._on_slow = None  # else the two would hold each other, and only the collector free them
        if self._queue is not None:
            self._queue.clear()
            self._set_queued(0)
        if self._waiting is not None:
            self._waiting.cancel()

    async def wait_empty(self) -> None:
        """Wait until the kernel has everything, or the outbox is closed."""
        if self.queued:
            if self._emptied is None:
                self._emptied = trio.Event()
            await self._emptied.wait()

    def _enqueue(
        self, queue: deque[tuple[bytes | memoryview, float]], data: bytes | memoryview
    ) -> None:
        size = len(data)
        if not self.queued:
            self._allowed = self._limit + (size if size > self._limit else 0)
        self.queued += size
        if self.queued > self._allowed and self._on_slow is not None:
            self._give_up(queue)
            return
        now = trio.current_time()
        if len(queue) > 1 or (queue and not self._head_begun):
            last, since = queue[-1]
            if now - since < _MERGED_SECONDS and len(last) + size <= _MERGED_BYTES:
                queue[-1] = (b"".join((last, data)), since)
                return
        queue.append((data, now))

    def _give_up(self, queue: deque[tuple[bytes | memoryview, float]]) -> None:
        """Drop all but the rest of what the reader has begun to get, and tell the owner."""
        kept = queue[0] if queue and self._head_begun else None
        queue.clear()
        if kept is not None:
            queue.append(kept)
        self._set_queued(len(kept[0]) if kept is not None else 0)
        on_slow, self._on_slow = self._on_slow, None
        assert on_slow is not None
        on_slow()

    async def _flush(self, queue: deque[tuple[bytes | memoryview, float]]) -> None:
        while queue:
            stale_at = queue[0][1] + STALE_SECONDS if self._on_slow is not None else math.inf
            try:
                with trio.CancelScope(deadline=stale_at) as waiting:
                    self._waiting = waiting
                    await self._wait_writable(self._connection)
                if waiting.cancelled_caught and queue and self._on_slow is not None:
                    self._give_up(queue)
                else:
                    self._write(queue)
            except BlockingIOError:
                pass
            except (trio.ClosedResourceError, OSError):
                self.close()
        self._queue = self._waiting = None

    def _write(self, queue: deque[tuple[bytes | memoryview, float]]) -> None:
        buffers = [data for data, _ in islice(queue, _BUFFERS_A_WRITE)]
        sent = left = self._connection.sendmsg(buffers) if buffers else 0
        while left:
            data, since = queue[0]
            self._head_begun = left < len(data)
            if self._head_begun:
                queue[0] = (memoryview(data)[left:], since)
                break
            left -= len(data)
            queue.popleft()
        self._set_queued(self.queued - sent)

    def _set_queued(self, size: int) -> None:
        self.queued = size
        if not size and self._emptied is not None:
            self._emptied.set()
            self._emptied = None
