"""The outbox, on a kernel that takes as much as the test wants."""

from __future__ import annotations

import tracemalloc

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.websocket.outbox import STALE_SECONDS, Outbox


class Kernel:
    """A send buffer with ``room`` bytes left, and a client that reads when the test says so."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.writes: list[bytes] = []
        self.failure: OSError | None = None
        self._changed = trio.Event()

    @property
    def taken(self) -> bytes:
        return b"".join(self.writes)

    def send(self, data: bytes) -> int:
        if self.failure is not None:
            raise self.failure
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.room -= sent
        self.writes.append(bytes(data[:sent]))
        return sent

    def sendmsg(self, buffers: list[bytes | memoryview]) -> int:
        return self.send(b"".join(buffers))

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.room and self.failure is None:
            await self._changed.wait()

    def change(self, *, room: int = 0, failure: OSError | None = None) -> None:
        self.room += room
        self.failure = failure
        self._changed.set()
        self._changed = trio.Event()


class Bench:
    """An outbox, its kernel, its nursery and how often it was told that the reader is slow."""

    def __init__(self, nursery: trio.Nursery, room: int, limit: int) -> None:
        self.kernel = Kernel(room)
        self.nursery = nursery
        self.overflows = 0
        self.last_word = b""
        self.outbox = Outbox(
            self.kernel, nursery, limit, self._overflow, wait_writable=Kernel.wait_writable
        )

    def _overflow(self) -> None:
        self.overflows += 1
        self.outbox.push(self.last_word)


async def test_what_the_kernel_takes_is_written_at_once(nursery: trio.Nursery) -> None:
    """With room, a push is one write, without a task or a queue."""
    bench = Bench(nursery, room=100, limit=10)
    bench.outbox.push(b"one")
    bench.outbox.push(b"two")
    assert bench.kernel.writes == [b"one", b"two"]
    assert bench.outbox.queued == 0
    assert not nursery.child_tasks


async def test_a_partial_write_queues_the_rest(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What the kernel refuses waits, and goes out when there is room."""
    bench = Bench(nursery, room=2, limit=100)
    bench.outbox.push(b"abcde")
    assert bench.kernel.taken == b"ab"
    assert bench.outbox.queued == 3
    bench.kernel.change(room=100)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.taken == b"abcde"
    assert bench.outbox.queued == 0


async def test_nothing_is_written_past_a_queue(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A push while something waits goes behind it, even if the kernel has room again."""
    bench = Bench(nursery, room=1, limit=100)
    bench.outbox.push(b"ab")
    bench.kernel.change(room=100)
    bench.outbox.push(b"cd")
    assert bench.kernel.taken == b"a"
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.taken == b"abcd"


async def test_what_waits_goes_out_in_one_write(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """However much waits, one write carries it, by one task."""
    bench = Bench(nursery, room=0, limit=100)
    for text in (b"a", b"b", b"c", b"d"):
        bench.outbox.push(text)
    assert len(nursery.child_tasks) == 1
    await wait_all_tasks_blocked()
    bench.kernel.change(room=100)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.writes == [b"abcd"]


async def test_a_trickle_keeps_every_byte_in_order(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Through many small rooms, with pushes in between, nothing is lost, doubled or moved."""
    bench = Bench(nursery, room=3, limit=10_000)
    pushed = b""
    for number in range(200):
        text = b"%d;" % number
        pushed += text
        bench.outbox.push(text)
        bench.kernel.change(room=number % 4)
        await trio.sleep(0.001)
        assert pushed.startswith(bench.kernel.taken)
        assert len(bench.kernel.taken) + bench.outbox.queued == len(pushed)
    bench.kernel.change(room=10_000)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.taken == pushed


async def test_no_task_stays_when_nothing_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The flushing task ends with the queue, and the next refusal starts another."""
    bench = Bench(nursery, room=0, limit=100)
    for _ in range(2):
        bench.outbox.push(b"abc")
        assert len(nursery.child_tasks) == 1
        bench.kernel.change(room=3)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert bench.outbox.queued == 0
    assert bench.kernel.taken == b"abcabc"


async def test_an_overflow_drops_what_was_not_begun(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Past the limit only the rest of the push under way still goes out, and a last word."""
    bench = Bench(nursery, room=1, limit=10)
    bench.last_word = b"!"
    bench.outbox.push(b"abc")
    bench.outbox.push(b"d" * 8)
    assert (bench.overflows, bench.outbox.queued) == (0, 10), "as much as the limit may wait"
    bench.outbox.push(b"e")
    assert (bench.overflows, bench.outbox.queued) == (1, 3)
    bench.kernel.change(room=100)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.taken == b"abc!"
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_a_push_that_was_not_begun_is_dropped_whole(nursery: trio.Nursery) -> None:
    """With the kernel full from the start, the last word is the first one."""
    bench = Bench(nursery, room=0, limit=4)
    bench.last_word = b"!"
    for text in (b"ab", b"cd", b"e"):
        bench.outbox.push(text)
    assert (bench.overflows, bench.outbox.queued) == (1, 1)
    bench.kernel.change(room=100)
    await wait_all_tasks_blocked()
    assert bench.kernel.taken == b"!"


async def test_a_push_longer_than_the_limit_may_wait_alone(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A long greeting is no reason to close anybody; what follows it has the limit to itself."""
    bench = Bench(nursery, room=1, limit=4)
    bench.outbox.push(b"a" * 101)
    bench.outbox.push(b"b" * 4)
    assert (bench.overflows, bench.outbox.queued) == (0, 104)
    bench.outbox.push(b"c")
    assert bench.overflows == 1


async def test_a_push_of_just_the_limit_leaves_no_room(nursery: trio.Nursery) -> None:
    """Only what is longer may wait beside it."""
    bench = Bench(nursery, room=0, limit=4)
    bench.outbox.push(b"abcd")
    assert (bench.overflows, bench.outbox.queued) == (0, 4)
    bench.outbox.push(b"e")
    assert (bench.overflows, bench.outbox.queued) == (1, 0)


async def test_a_byte_that_waits_too_long_ends_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The age of the oldest byte counts, however little waits."""
    bench = Bench(nursery, room=0, limit=1000)
    bench.last_word = b"!"
    began = trio.current_time()
    bench.outbox.push(b"abc")
    while not bench.overflows:
        assert trio.current_time() - began <= STALE_SECONDS
        await trio.sleep(1)
    assert trio.current_time() - began == pytest.approx(STALE_SECONDS, abs=1.1)
    bench.kernel.change(room=100)
    await trio.sleep(1)
    assert bench.kernel.taken == b"!"
    assert not nursery.child_tasks


async def test_a_slow_but_steady_reader_is_left_alone(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """For minutes something waits, and no byte of it for long."""
    bench = Bench(nursery, room=0, limit=1000)
    pushed = b""
    for number in range(300):
        text = b"%03d" % number
        bench.outbox.push(text)
        pushed += text
        if number >= 20:
            bench.kernel.change(room=3)
        await trio.sleep(1)
        assert bench.outbox.queued
    assert bench.overflows == 0
    bench.kernel.change(room=1000)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.taken == pushed


@pytest.mark.parametrize("room", [0, 1])
async def test_the_smallest_pushes_cost_no_more_than_their_bytes(
    nursery: trio.Nursery, room: int
) -> None:
    """Many in pushes of two take twice as much memory at most, also behind one that has begun."""
    bench = Bench(nursery, room=room, limit=200_000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(100_000):
            bench.outbox.push(b"%c%c" % (number % 256, number // 256 % 256))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (bench.outbox.queued, bench.overflows) == (200_000 - room, 0)
    assert after - before < 400_000
    bench.outbox.close()


@pytest.mark.parametrize("failure", [BrokenPipeError(), ConnectionResetError()])
async def test_a_broken_pipe_closes_the_outbox(nursery: trio.Nursery, failure: OSError) -> None:
    """A client that is gone raises nothing at the pusher, and nothing more is tried."""
    bench = Bench(nursery, room=100, limit=100)
    bench.kernel.change(failure=failure)
    bench.outbox.push(b"abc")
    bench.kernel.change()
    bench.outbox.push(b"def")
    assert bench.kernel.taken == b""
    assert (bench.outbox.queued, bench.overflows) == (0, 0)


async def test_a_pipe_that_breaks_under_the_queue_closes_the_outbox(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The flushing task ends quietly, and whoever waits for the end is let go."""
    bench = Bench(nursery, room=0, limit=100)
    bench.outbox.push(b"abc")
    await wait_all_tasks_blocked()
    bench.kernel.change(failure=BrokenPipeError())
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    await wait_all_tasks_blocked()
    assert bench.outbox.queued == 0
    assert not nursery.child_tasks


async def test_wait_empty_waits_until_the_kernel_has_everything(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It returns at once when nothing waits, else with the last byte, to everybody."""
    bench = Bench(nursery, room=0, limit=100)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    bench.outbox.push(b"abcd")
    left: list[bytes] = []

    async def wait() -> None:
        await bench.outbox.wait_empty()
        left.append(bench.kernel.taken)

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        waiting.start_soon(wait)
        await wait_all_tasks_blocked()
        bench.kernel.change(room=3)
        await wait_all_tasks_blocked()
        assert left == []
        bench.kernel.change(room=1)
    assert left == [b"abcd", b"abcd"]
    bench.outbox.push(b"ef")
    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await wait_all_tasks_blocked()
        assert len(left) == 2
        bench.kernel.change(room=2)
    assert left[2:] == [b"abcdef"]


async def test_closing_lets_go_whoever_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A closed outbox is empty."""
    bench = Bench(nursery, room=0, limit=100)
    bench.outbox.push(b"abcd")
    async with trio.open_nursery() as waiting:
        waiting.start_soon(bench.outbox.wait_empty)
        await wait_all_tasks_blocked()
        bench.outbox.close()
        waiting.cancel_scope.deadline = trio.current_time() + 1
    assert not waiting.cancel_scope.cancelled_caught
    bench.kernel.change(room=100)
    await wait_all_tasks_blocked()
    assert bench.kernel.taken == b""


async def test_a_sealed_outbox_lets_out_what_it_has(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After the seal nothing more is taken, and nothing that waited is lost."""
    bench = Bench(nursery, room=1, limit=100)
    bench.outbox.push(b"ab")
    bench.outbox.seal()
    bench.outbox.push(b"cd")
    bench.kernel.change(room=100)
    with trio.fail_after(1):
        await bench.outbox.wait_empty()
    assert bench.kernel.taken == b"ab"
