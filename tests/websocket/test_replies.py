"""Answers that wait a moment: each leaves once, in order, and none waits for long."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.websocket.replies import MOMENT_SECONDS, Replies, ReplyOutbox


class Kernel:
    """Takes so many bytes, and keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.room = 1 << 30
        self.is_gone = False

    def send(self, data: bytes, /) -> int:
        if self.is_gone:
            raise ConnectionResetError
        if not self.room:
            raise BlockingIOError
        taken = min(self.room, len(data))
        self.writes.append(data[:taken])
        self.room -= taken
        return taken

    def sendmsg(self, buffers: list[bytes | memoryview], /) -> int:
        return self.send(b"".join(buffers))


def join(answers: list[bytes]) -> bytes:
    return b"[" + b",".join(answers) + b"]"


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
async def replies(nursery: trio.Nursery) -> Replies:
    replies = Replies()
    nursery.start_soon(replies.run)
    await wait_all_tasks_blocked()
    return replies


def outbox_of(
    kernel: Kernel, nursery: trio.Nursery, replies: Replies, limit: int = 100
) -> ReplyOutbox:
    slow: list[int] = []
    return ReplyOutbox(kernel, nursery, limit, lambda: slow.append(1), join, replies)


async def test_answers_leave_in_a_moment(
    nursery: trio.Nursery, autojump_clock: MockClock, kernel: Kernel, replies: Replies
) -> None:
    """Together, and with what is pushed before that; then nothing is left to leave."""
    outbox = outbox_of(kernel, nursery, replies)
    outbox.reply(b"1")
    outbox.reply(b"2")
    assert kernel.writes == []
    await trio.sleep(2 * MOMENT_SECONDS)
    assert kernel.writes == [b"[1,2]"]
    outbox.reply(b"3")
    outbox.push(b"a push")
    assert kernel.writes == [b"[1,2]", b"[3]a push"]
    outbox.push(b"another")
    await trio.sleep(10 * MOMENT_SECONDS)
    assert kernel.writes == [b"[1,2]", b"[3]a push", b"another"]


async def test_each_answer_has_its_moment(
    nursery: trio.Nursery, autojump_clock: MockClock, kernel: Kernel, replies: Replies
) -> None:
    """One that comes when the moment of others, which have left with a push, is nearly over too."""
    outbox = outbox_of(kernel, nursery, replies)
    outbox.reply(b"1")
    outbox.push(b"a push")
    await trio.sleep(0.9 * MOMENT_SECONDS)
    outbox.reply(b"2")
    await trio.sleep(0.9 * MOMENT_SECONDS)
    assert kernel.writes == [b"[1]a push"]
    await trio.sleep(3 * MOMENT_SECONDS)
    assert kernel.writes == [b"[1]a push", b"[2]"]


async def test_what_is_kept_leaves_when_it_is_flushed(
    nursery: trio.Nursery, autojump_clock: MockClock, kernel: Kernel, replies: Replies
) -> None:
    """Or with a push, or in a moment when that is asked for, and once."""
    outbox = outbox_of(kernel, nursery, replies)
    outbox.keep(b"1")
    await trio.sleep(1)
    assert kernel.writes == []
    outbox.flush_replies()
    outbox.flush_replies()
    assert kernel.writes == [b"[1]"]
    outbox.keep(b"2")
    outbox.push(b"a push")
    assert kernel.writes[1:] == [b"[2]a push"]
    outbox.keep(b"3")
    outbox.flush_in_a_moment()
    outbox.flush_in_a_moment()
    await trio.sleep(1)
    assert kernel.writes[2:] == [b"[3]"]
    outbox.flush_in_a_moment()
    await trio.sleep(1)
    assert len(kernel.writes) == 3


async def test_each_outbox_has_its_own(
    nursery: trio.Nursery, autojump_clock: MockClock, replies: Replies
) -> None:
    """Many at once, some of them in the moment in which others leave."""
    kernels = [Kernel() for _ in range(50)]
    outboxes = [outbox_of(kernel, nursery, replies) for kernel in kernels]
    for turn in range(5):
        for number, outbox in enumerate(outboxes):
            outbox.reply(b"%d" % number)
        await trio.sleep((turn + 0.5) * MOMENT_SECONDS)
    await trio.sleep(1)
    for number, kernel in enumerate(kernels):
        assert b"".join(kernel.writes).count(b"%d" % number) >= 5
        assert b"".join(kernel.writes).replace(b"][", b",") == join([b"%d" % number] * 5)


async def test_nothing_leaves_after_the_end(
    nursery: trio.Nursery, autojump_clock: MockClock, kernel: Kernel, replies: Replies
) -> None:
    """What waits leaves before a last word, and nothing behind it."""
    outbox = outbox_of(kernel, nursery, replies)
    outbox.reply(b"1")
    outbox.push(b"bye")
    outbox.seal()
    outbox.reply(b"2")
    await trio.sleep(1)
    outbox.push(b"late")
    assert kernel.writes == [b"[1]bye"]


async def test_a_client_that_has_gone_disturbs_no_other(
    nursery: trio.Nursery, autojump_clock: MockClock, kernel: Kernel, replies: Replies
) -> None:
    """Its answers are forgotten; those of others leave in the same moment."""
    gone = Kernel()
    gone.is_gone = True
    first, second = (outbox_of(each, nursery, replies) for each in (gone, kernel))
    first.reply(b"1")
    second.reply(b"2")
    await trio.sleep(1)
    assert (gone.writes, kernel.writes) == ([], [b"[2]"])
    first.reply(b"3")
    await trio.sleep(1)
    assert gone.writes == []


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_answers_to_a_slow_reader_count(
    nursery: trio.Nursery, replies: Replies, pair: tuple[socket.socket, socket.socket]
) -> None:
    """They wait in the queue of the outbox, and beyond its limit the reader is too slow."""
    ours, _ = pair
    slow: list[int] = []
    outbox = ReplyOutbox(ours, nursery, 10_000, lambda: slow.append(1), join, replies)
    for _ in range(1000):
        outbox.reply(b"x" * 5000)
        outbox.flush_replies()
        if slow:
            break
    assert slow == [1]
    assert outbox.queued <= 5002
    outbox.close()
