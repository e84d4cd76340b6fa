"""A socket's bounded, coalescing writer.

Theory of operation: ``push`` writes at once, without a task switch, and nearly always the kernel
takes everything. Only what it refuses is queued; then one task is started that waits until the
kernel has room and hands it all that is queued, joined, in one write. Order is kept because
nothing is written past a queue. A reader that lets the queue grow past the limit is not waited
for: the queue is dropped and the owner told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Outbox:
    """Bytes on their way to one client.

    Args:
        send: writes to the kernel without waiting; returns how many bytes it took and raises
            ``BlockingIOError`` when there is no room, another ``OSError`` when the client is gone.
        wait_writable: waits until ``send`` has room.
        nursery: where the flushing task runs.
        limit: bytes that may wait.
        on_overflow: called once when the reader is too slow.

    ``queued`` is how many bytes wait; ``messages`` how many messages were pushed, kept by those who
    push them, because one push may carry many.
    """

    __slots__ = (
        "_closed",
        "_emptied",
        "_limit",
        "_nursery",
        "_on_overflow",
        "_queue",
        "_send",
        "_wait_writable",
        "messages",
        "queued",
    )

    def __init__(
        self,
        send: Callable[[bytes], int],
        wait_writable: Callable[[], Awaitable[None]],
        nursery: trio.Nursery,
        limit: int,
        on_overflow: Callable[[], None],
    ) -> None:
        self._send = send
        self._wait_writable = wait_writable
        self._nursery = nursery
        self._limit = limit
        self._on_overflow = on_overflow
        self._queue: list[bytes] = []
        self._closed = False
        self._emptied: trio.Event | None = None
        self.queued = 0
        self.messages = 0

    def push(self, data: bytes) -> None:
        """Write ``data``, or queue what the kernel does not take now. Never waits."""
        if self._closed:
            return
        if self._queue:
            self._enqueue(data)
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()  # the reader sees the end of the stream and says why
            return
        if sent < len(data):
            self._enqueue(data[sent:])
            self._nursery.start_soon(self._flush)

    def seal(self) -> None:
        """Take nothing more; what is queued still goes out."""
        self._closed = True

    def close(self) -> None:
        """Forget what is queued and take nothing more."""
        self._closed = True
        self._queue.clear()
        self._set_queued(0)

    async def wait_empty(self) -> None:
        """Wait until the kernel has everything, or the outbox is closed."""
        if self.queued:
            if self._emptied is None:
                self._emptied = trio.Event()
            await self._emptied.wait()

    def _enqueue(self, data: bytes) -> None:
        self._queue.append(data)
        self.queued += len(data)
        if self.queued > self._limit:
            self.close()
            self._on_overflow()

    async def _flush(self) -> None:
        while self._queue:
            try:
                await self._wait_writable()
            except (trio.ClosedResourceError, OSError):
                self.close()
                return
            self._write_queue()

    def _write_queue(self) -> None:
        waiting = b"".join(self._queue)
        try:
            sent = self._send(waiting) if waiting else 0
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._queue = [waiting[sent:]] if sent < len(waiting) else []
        self._set_queued(len(waiting) - sent)

    def _set_queued(self, size: int) -> None:
        self.queued = size
        if not size and self._emptied is not None:
            self._emptied.set()
            self._emptied = None
