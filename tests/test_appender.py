"""The queue of appends, on a connection that answers as the test says."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest
import trio
from redis import exceptions
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.errors import StoreUnavailable
from fastimd.redis.appender import Appender
from fastimd.redis.connection import Connection, OnReply
from fastimd.redis.scripts import APPEND, SETTLE, Script
from fastimd.redis.wire import NotNow

UNSETTLED = exceptions.ResponseError("UNSETTLED the applied mark is not there")
OUT_OF_MEMORY = NotNow("OOM command not allowed")


class Peer:
    """A Redis that keeps the applied mark and refuses what the test wants refused.

    ``stored`` are the prefixes it has applied, in order. While ``refusal`` is set, every command is
    refused with it. With ``is_silent`` it applies nothing and answers nothing.
    """

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.refusal: Exception | None = None
        self.is_silent = False
        self.settled = 0
        self.waiting: deque[tuple[OnReply, tuple[Any, ...]]] = deque()
        self.failed: str | None = None
        self.mark: tuple[int, int] | None = None

    @property
    def connection(self) -> Connection:
        return cast(Connection, self)

    def submit(self, on_reply: OnReply, *command: Any) -> None:
        assert command[:2] == ("EVALSHA", APPEND.sha)
        self.waiting.append((on_reply, command[2:]))
        if not self.is_silent:
            self.answer()

    def answer(self) -> None:
        """Apply and answer what waits."""
        while self.waiting:
            on_reply, command = self.waiting.popleft()
            on_reply(self._apply(command))

    def lose_replies(self, *, applied: bool) -> None:
        """Break the connection under what waits."""
        while self.waiting:
            on_reply, command = self.waiting.popleft()
            if applied:
                self._apply(command)
            on_reply(exceptions.ConnectionError("broken"))

    def _apply(self, command: tuple[Any, ...]) -> object:
        *_, prefix, _timeout, _longest, epoch, sequence, _mark_seconds = command
        if self.refusal is not None:
            return self.refusal
        if self.mark != (epoch, sequence - 1):
            return UNSETTLED
        self.mark = (epoch, sequence)
        if prefix == "wrong type":
            return exceptions.ResponseError("WRONGTYPE not a list")
        self.stored.append(prefix)
        return 1

    async def run_script(self, script: Script, keys: object, epoch: int, known: int, _: int) -> int:
        assert script is SETTLE
        self.settled += 1
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        applied = max(known, self.mark[1] if self.mark else 0)
        self.mark = (epoch, applied)
        return applied

    def fail(self, reason: str) -> None:
        self.failed = reason


class House:
    """An appender, its peer, and the outcome of each append by its text."""

    def __init__(self, hold_bytes: int = 100, hold_seconds: float = 10) -> None:
        self.appender = Appender(hold_bytes, hold_seconds)
        self.peer = Peer()
        self.outcomes: dict[str, Exception | None] = {}

    def append(self, text: str, size: int = 10) -> None:
        def note(failure: Exception | None) -> None:
            assert text not in self.outcomes, "told twice"
            self.outcomes[text] = failure

        self.appender.append(("gml:1", "floor"), ("mq:1", text, 600, 0), size, note)

    def succeeded(self) -> list[str]:
        return [text for text, failure in self.outcomes.items() if failure is None]


async def attached(nursery: trio.Nursery, **bounds: Any) -> House:
    house = House(**bounds)
    nursery.start_soon(house.appender.run)
    await house.appender.attach(house.peer.connection)
    return house


async def test_appends_go_out_in_order(nursery: trio.Nursery) -> None:
    """Each is told once, when it is stored."""
    house = await attached(nursery)
    for text in "abc":
        house.append(text)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]
    assert house.appender.unanswered == 0


@pytest.mark.parametrize("applied", [False, True])
async def test_lost_replies_are_settled(nursery: trio.Nursery, applied: bool) -> None:
    """Whether Redis has applied them or not, each is stored once."""
    house = await attached(nursery)
    house.peer.is_silent = True
    for text in "abc":
        house.append(text)
    house.peer.lose_replies(applied=applied)
    house.appender.detach()
    house.append("d")
    assert house.outcomes == {}
    house.peer.is_silent = False
    await house.appender.attach(house.peer.connection)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c", "d"]


async def test_a_refusal_amid_a_pipeline_neither_loses_nor_reorders(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What was sent behind a refused one waits for it, though Redis would take it by then."""
    house = await attached(nursery)
    house.peer.is_silent = True
    for text in "abcd":
        house.append(text)
    refused, _ = house.peer.waiting.popleft()
    refused(OUT_OF_MEMORY)
    house.peer.is_silent = False
    house.peer.answer()
    assert house.peer.stored == []
    assert house.appender.refusal == str(OUT_OF_MEMORY)
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c", "d"]
    assert house.appender.refusal is None


async def test_while_redis_refuses_appends_are_held(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is asked again and again, and gets everything in order when it takes messages again."""
    house = await attached(nursery)
    house.append("a")
    house.peer.refusal = OUT_OF_MEMORY
    house.append("b")
    await trio.sleep(3)
    house.append("c")
    asked = house.peer.settled
    assert 3 <= asked <= 100
    assert house.peer.stored == ["a"]
    assert house.appender.refusal is not None
    house.peer.refusal = None
    await trio.sleep(2)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]


async def test_a_new_connection_may_be_refused_too(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A Redis that takes no messages from the start is attached to, and asked again."""
    house = House()
    nursery.start_soon(house.appender.run)
    house.peer.refusal = OUT_OF_MEMORY
    await house.appender.attach(house.peer.connection)
    house.append("a")
    await trio.sleep(1)
    assert (house.peer.stored, house.appender.refusal) == ([], str(OUT_OF_MEMORY))
    house.peer.refusal = None
    await trio.sleep(2)
    assert house.peer.stored == house.succeeded() == ["a"]


async def test_a_lost_mark_is_settled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The daemon's own key may vanish at any time."""
    house = await attached(nursery)
    house.append("a")
    house.peer.mark = None
    house.append("b")
    house.append("c")
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]


async def test_a_message_that_can_never_be_stored_holds_up_no_other(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its sender is told, and the others go on."""
    house = await attached(nursery)
    for text in ("a", "wrong type", "b"):
        house.append(text)
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b"]
    assert "WRONGTYPE" in str(house.outcomes["wrong type"])


async def test_forgotten_scripts_end_the_connection(nursery: trio.Nursery) -> None:
    """The next connection loads them; the append waits for it."""
    house = await attached(nursery)
    house.peer.refusal = exceptions.NoScriptError("NOSCRIPT")
    house.append("a")
    assert house.peer.failed == "NOSCRIPT"
    house.appender.detach()
    house.peer.refusal = None
    await house.appender.attach(house.peer.connection)
    assert house.peer.stored == house.succeeded() == ["a"]


async def test_what_waits_too_long_is_told(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Counted from the outage, not before it was noticed; younger ones go on waiting."""
    house = await attached(nursery, hold_seconds=10)
    house.peer.is_silent = True
    house.append("before")
    await trio.sleep(8)
    house.peer.lose_replies(applied=False)
    house.appender.detach()
    await trio.sleep(6)
    house.append("later")
    await trio.sleep(3)
    assert house.outcomes == {}
    await trio.sleep(2)
    assert isinstance(house.outcomes["before"], StoreUnavailable)
    assert "later" not in house.outcomes
    house.peer.is_silent = False
    await house.appender.attach(house.peer.connection)
    assert house.peer.stored == house.succeeded() == ["later"]


async def test_connections_that_come_to_nothing_do_not_begin_the_time_anew(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Redis that breaks again before it has stored anything is the same outage."""
    house = await attached(nursery, hold_seconds=10)
    house.peer.is_silent = True
    house.append("a")
    for _ in range(6):
        house.peer.lose_replies(applied=False)
        house.appender.detach()
        await trio.sleep(2)
        await house.appender.attach(house.peer.connection)
    house.peer.lose_replies(applied=False)
    house.appender.detach()
    await trio.sleep(1)
    assert isinstance(house.outcomes["a"], StoreUnavailable)


async def test_no_more_than_so_many_bytes_are_held(nursery: trio.Nursery) -> None:
    """One that finds no room is told at once; those that wait are stored later."""
    house = await attached(nursery, hold_bytes=100)
    house.appender.detach()
    house.append("a", size=60)
    house.append("b", size=41)
    house.append("c", size=40)
    assert isinstance(house.outcomes["b"], StoreUnavailable)
    assert set(house.outcomes) == {"b"}
    await house.appender.attach(house.peer.connection)
    assert house.peer.stored == house.succeeded() == ["a", "c"]


async def test_who_sends_faster_than_redis_takes_waits(nursery: trio.Nursery) -> None:
    """While Redis only is slow nobody is refused: senders wait until there is room."""
    house = await attached(nursery, hold_bytes=100)
    house.peer.is_silent = True
    passed: list[str] = []

    async def send(text: str) -> None:
        await house.appender.wait_room()
        house.append(text, size=60)
        passed.append(text)

    for text in "abc":
        await wait_all_tasks_blocked()
        nursery.start_soon(send, text)
    await wait_all_tasks_blocked()
    assert passed == ["a", "b"]
    house.peer.is_silent = False
    house.peer.answer()
    await wait_all_tasks_blocked()
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]
