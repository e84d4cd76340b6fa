"""The queue of appends, on a connection that answers as the test says."""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import trio
from redis import exceptions
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.errors import FateUnknown, KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Redis
from fastimd.groups.store.keyspace import NONCES
from fastimd.redis.appender import Appender
from fastimd.redis.batch import BATCH_BYTES, BATCH_MESSAGES, Nonce, Place, Told
from fastimd.redis.clock import RedisClock
from fastimd.redis.connection import Connection, OnReply
from fastimd.redis.nonces import LOOKED_UP_AT_ONCE
from fastimd.redis.replies import NotNow
from fastimd.redis.scripts import APPEND, SETTLE, Script

UNSETTLED = exceptions.ResponseError("UNSETTLED the applied mark is not there")
OUT_OF_MEMORY = NotNow("OOM command not allowed")


class Peer:
    """A Redis that keeps the applied mark and refuses what the test wants refused.

    ``told`` are the latest time shown and the newest ts heard, as they came with each group of a
    batch. ``stored`` are the prefixes it has applied, in order; a ``ts`` is the number of those.
    ``asked`` tells of each batch whether it asked for each ts. ``remembered`` is the ts by key and
    nonce. While ``refusal`` is set, every command is refused with it. With ``is_silent`` it applies
    nothing and answers nothing. ``lookups`` are how many nonces it was asked for at once,
    ``refused_lookup`` is what it says to that.
    """

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.refusal: Exception | None = None
        self.is_silent = False
        self.settled = 0
        self.leaving: list[tuple[OnReply, Callable[[], tuple[Any, ...]]]] = []
        self.submitted = trio.Event()
        self.waiting: deque[tuple[OnReply, tuple[Any, ...]]] = deque()
        self.batches: list[int] = []
        self.asked: list[bool] = []
        self.told: list[tuple[int, int]] = []
        self.failed: str | None = None
        self.mark: tuple[int, int] | None = None
        self.remembered: dict[tuple[str, bytes], int] = {}
        self.lookups: list[int] = []
        self.refused_lookup: Exception | None = None

    @property
    def connection(self) -> Connection:
        return cast(Connection, self)

    def submit_later(self, on_reply: OnReply, make_command: Callable[[], tuple[Any, ...]]) -> None:
        self.leaving.append((on_reply, make_command))
        self.submitted.set()

    async def run(self) -> None:
        """Let what is submitted leave once a turn of the scheduler, as a wire does."""
        while True:
            await self.submitted.wait()
            self.submitted = trio.Event()
            leaving, self.leaving = self.leaving, []
            for on_reply, make_command in leaving:
                command = make_command()
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
        """Break the connection under what waits, and under what has not left."""
        leaving, self.leaving = self.leaving, []
        for on_reply, _make_command in leaving:
            on_reply(exceptions.ConnectionError("broken"))
        while self.waiting:
            on_reply, command = self.waiting.popleft()
            if applied:
                self._apply(command)
            on_reply(exceptions.ConnectionError("broken"))

    def _apply(self, command: tuple[Any, ...]) -> object:
        count, *rest = command
        keys, arguments = rest[:count], rest[count:]
        epoch, first, last, _mark_seconds, _expiry, _longest, shown, *groups = arguments
        prefixes: list[bytes] = []
        while len(groups) > 1 and isinstance(groups[0], bytes):
            _channel, heard, messages, *groups = groups
            self.told.append((shown, heard))
            prefixes += groups[:messages]
            groups = groups[messages:]
        assert len(prefixes) == last - first + 1
        self.batches.append(len(prefixes))
        self.asked.append(bool(groups))
        if self.refusal is not None:
            return self.refusal
        if any(prefix.startswith(b"forbidden") for prefix in prefixes):
            return exceptions.NoPermissionError("NOPERM no permissions to access a key")
        if self.mark != (epoch, first - 1):
            return UNSETTLED
        if any(prefix.startswith(b"wrong type") for prefix in prefixes):
            return exceptions.ResponseError("WRONGTYPE not a list")
        if any(prefix.startswith(b"no nonces") for prefix in prefixes):
            return exceptions.ResponseError("NONCE WRONGTYPE not a sorted set")
        self.mark = (epoch, last)
        given = self._store(prefixes, groups, keys)
        if any(prefix.startswith(b"muted") for prefix in prefixes):
            error = b"NOPERM no permissions to access a channel"
            return [given if groups else given[-1], b"mq:1", error]
        return [given] if groups else given[-1]

    def _store(self, prefixes: list[bytes], asked: list[Any], keys: list[str]) -> list[int]:
        """Store messages, and remember those that have a nonce; returns the ts of each."""
        nonces = asked[-1] if asked else 0
        assert len(asked) in (0, 3 * nonces + 1)
        names = {
            asked[3 * each]: (keys[len(keys) - nonces + each], asked[3 * each + 1])
            for each in range(nonces)
        }
        given = []
        for number, prefix in enumerate(prefixes, 1):
            name = names.get(number)
            if name is None or name not in self.remembered:
                self.stored.append(prefix.decode().strip())
                if name is not None:
                    self.remembered[name] = len(self.stored)
            given.append(self.remembered[name] if name is not None else len(self.stored))
        return given

    async def call_many(self, commands: list[tuple[str, str, bytes]]) -> list[object]:
        await trio.lowlevel.checkpoint()
        self.lookups.append(len(commands))
        if self.refused_lookup is not None:
            return [self.refused_lookup] * len(commands)
        replies: list[object] = []
        for command, key, nonce in commands:
            assert command == "ZSCORE"
            ts = self.remembered.get((key, nonce))
            replies.append(None if ts is None else b"%.17g" % ts)
        return replies

    async def run_script(
        self, script: Script, keys: object, epoch: int, known: int, _: int
    ) -> tuple[int, int]:
        assert script is SETTLE
        self.settled += 1
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        was_there = self.mark is not None
        applied = max(known, self.mark[1] if self.mark else 0)
        self.mark = (epoch, applied)
        return applied, int(was_there)

    def fail(self, reason: str) -> None:
        self.failed = reason


class House:
    """An appender, its peer, and the outcome of each append by its text."""

    def __init__(self, hold_bytes: int = 100, hold_seconds: float = 10) -> None:
        config = Config(redis=Redis(hold_bytes=hold_bytes, hold_seconds=hold_seconds))
        self.metrics = Metrics()
        self.clock = RedisClock()
        self.appender = Appender(config, self.metrics, self.clock)
        self.peer = Peer()
        self.outcomes: dict[str, Exception | None] = {}
        self.given: dict[str, int | None] = {}

    async def append(
        self, *texts: str, size: int = 10, group: str = "1", within: float = math.inf
    ) -> None:
        """Append in one turn of the scheduler, and see it over."""
        for text in texts:
            place = Place(f"gml:{group}", f"floor:{group}", f"life:{group}", f"mq:{group}".encode())
            note = partial(self._note, text)
            self.appender.append(place, text.encode().ljust(size), note, within)
        await wait_all_tasks_blocked()

    async def append_told(self, *texts: str, nonce: str = "", group: str = "1") -> None:
        """The same, to be told each ts; with a nonce that is their own, or the same for all."""
        for text in texts:
            self.send_told(text, nonce=nonce, group=group)
        await wait_all_tasks_blocked()

    def send_told(self, text: str, *, nonce: str = "", group: str = "1") -> None:
        name = Nonce(f"nonces:{group}", nonce.encode(), NONCES) if nonce else None
        place = Place(f"gml:{group}", f"floor:{group}", f"life:{group}", f"mq:{group}".encode())
        told = Told(partial(self._note_ts, text), name)
        self.appender.append(place, text.encode().ljust(10), told)

    async def attach(self) -> None:
        await self.appender.attach(self.peer.connection)
        await wait_all_tasks_blocked()

    def _note(self, text: str, failure: Exception | None) -> None:
        assert text not in self.outcomes, "told twice"
        self.outcomes[text] = failure

    def _note_ts(self, text: str, failure: Exception | None, ts: int | None) -> None:
        assert failure is None or ts is None
        self._note(text, failure)
        self.given[text] = ts

    def succeeded(self) -> list[str]:
        return [text for text, failure in self.outcomes.items() if failure is None]


async def attached(nursery: trio.Nursery, **bounds: Any) -> House:
    house = House(**bounds)
    nursery.start_soon(house.appender.run)
    nursery.start_soon(house.peer.run)
    await house.attach()
    return house


async def test_appends_go_out_in_order(nursery: trio.Nursery) -> None:
    """Each is told once, when it is stored."""
    house = await attached(nursery)
    for text in "abc":
        await house.append(text)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]
    assert house.appender.unanswered == 0


async def test_appends_of_one_turn_leave_together(nursery: trio.Nursery) -> None:
    """They are one batch, of whatever groups; those of the next turn are the next."""
    house = await attached(nursery)
    await house.append("a", "b", "c")
    await house.append("d")
    assert house.peer.batches == [3, 1]
    assert house.peer.stored == house.succeeded() == ["a", "b", "c", "d"]


async def test_a_batch_is_bounded(nursery: trio.Nursery) -> None:
    """By messages and by bytes: Redis does nothing else meanwhile."""
    house = await attached(nursery, hold_bytes=100 * BATCH_BYTES)
    texts = [str(n) for n in range(BATCH_MESSAGES + 1)]
    await house.append(*texts)
    assert house.peer.batches == [BATCH_MESSAGES, 1]
    await house.append("long", "longer", "longest", size=BATCH_BYTES // 2)
    assert house.peer.batches[2:] == [2, 1]
    assert house.peer.stored == house.succeeded() == [*texts, "long", "longer", "longest"]


@pytest.mark.parametrize("applied", [False, True])
async def test_lost_replies_are_settled(nursery: trio.Nursery, applied: bool) -> None:
    """Whether Redis has applied them or not, each is stored once."""
    house = await attached(nursery)
    house.peer.is_silent = True
    for text in "abc":
        await house.append(text)
    house.peer.lose_replies(applied=applied)
    house.appender.detach()
    await house.append("d")
    assert house.outcomes == {}
    house.peer.is_silent = False
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("waited", [0.0, 0.9, 3.0])
async def test_replies_of_a_server_that_is_left_count(
    waited: float, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """They come when nothing more is sent to it, and some were waited for no longer."""
    house = await attached(nursery, hold_seconds=0.5)
    house.peer.is_silent = True
    await house.append("a", "b")
    house.appender.detach()
    await house.append("c")
    await trio.sleep(waited)
    house.peer.is_silent = False
    house.peer.answer()
    expired = [text for text, failure in house.outcomes.items() if failure is not None]
    assert expired == ([] if waited == 0 else ["a", "b", "c"])
    assert house.succeeded() == (["a", "b"] if waited == 0 else [])
    assert house.peer.stored == ["a", "b"]
    await house.attach()
    await house.append("d")
    assert house.peer.stored == ["a", "b", *([] if expired else ["c"]), "d"]


async def test_of_a_batch_that_a_server_answers_late_the_rest_counts(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its first message was waited for no longer, and its last one was."""
    house = await attached(nursery, hold_seconds=10)
    house.peer.is_silent = True
    await house.append("a", "b", "c")
    house.appender.detach()
    house.appender._finish(FateUnknown("too late"))
    house.peer.answer()
    assert house.succeeded() == ["b", "c"]
    assert house.appender.unanswered == 0


async def test_a_refusal_amid_a_pipeline_neither_loses_nor_reorders(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What was sent behind a refused one waits for it, though Redis would take it by then."""
    house = await attached(nursery)
    house.peer.is_silent = True
    for text in "abcd":
        await house.append(text)
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
    await house.append("a")
    house.peer.refusal = OUT_OF_MEMORY
    await house.append("b")
    await trio.sleep(3)
    await house.append("c")
    asked = house.peer.settled
    assert 3 <= asked <= 100
    assert house.peer.stored == ["a"]
    assert house.appender.refusal is not None
    house.peer.refusal = None
    await trio.sleep(2)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]


async def test_what_is_said_before_redis_is_there_is_held(nursery: trio.Nursery) -> None:
    """As in an outage: it is stored with the first connection, and bounded till then."""
    house = House(hold_bytes=25)
    nursery.start_soon(house.appender.run)
    nursery.start_soon(house.peer.run)
    await house.append("a", "b", "c")
    assert list(house.outcomes) == ["c"]
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["a", "b"]


async def test_a_new_connection_may_be_refused_too(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A Redis that takes no messages from the start is attached to, and asked again."""
    house = House()
    nursery.start_soon(house.appender.run)
    nursery.start_soon(house.peer.run)
    house.peer.refusal = OUT_OF_MEMORY
    await house.attach()
    await house.append("a")
    await trio.sleep(1)
    assert (house.peer.stored, house.appender.refusal) == ([], str(OUT_OF_MEMORY))
    house.peer.refusal = None
    await trio.sleep(2)
    assert house.peer.stored == house.succeeded() == ["a"]


async def test_a_lost_mark_is_settled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The daemon's own key may vanish at any time."""
    house = await attached(nursery)
    await house.append("a")
    house.peer.mark = None
    await house.append("b")
    await house.append("c")
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]


async def test_what_was_published_is_heard_out_when_the_mark_is_lost(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """With the mark much else may be lost; what is known then goes with what is sent again."""
    house = await attached(nursery)
    heard = {b"mq:1": 5}
    house.appender.heard = heard.__getitem__
    asked: list[str] = []

    async def hear_out() -> None:
        asked.append("heard out")
        await trio.sleep(0.5)
        assert house.peer.stored == ["a"]
        heard[b"mq:1"] = 7

    house.appender.hear_out = hear_out
    house.clock.learn(house.clock.now(), 1000)
    await house.append("a")
    assert asked == []
    house.peer.mark = None
    await house.append("b")
    await trio.sleep(1)
    assert asked == ["heard out"]
    assert house.peer.stored == house.succeeded() == ["a", "b"]
    assert [ts for _, ts in house.peer.told] == [5, 5, 7]
    assert all(1_000_000 <= shown < 1_100_000 for shown, _ in house.peer.told)


async def test_a_connection_that_breaks_while_the_rest_is_heard_out_is_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nothing is sent on it; the next one settles."""
    house = await attached(nursery)
    await house.append("a")

    async def hear_out() -> None:
        await trio.sleep(0.5)
        house.appender.detach()
        await trio.sleep(0.5)

    house.appender.hear_out = hear_out
    house.peer.mark = None
    await house.append("b")
    await trio.sleep(2)
    assert house.peer.stored == ["a"]
    house.appender.hear_out = trio.lowlevel.checkpoint
    await house.attach()
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b"]


async def test_what_is_forbidden_meets_its_own_sender(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A permission is looked at before the mark: batches in flight are all refused for theirs."""
    house = await attached(nursery)
    house.peer.is_silent = True
    for texts in (("a", "forbidden 1"), ("b",), ("forbidden 2",), ("c", "d"), ("forbidden 3", "e")):
        await house.append(*texts)
    house.peer.is_silent = False
    house.peer.answer()
    await trio.sleep(2)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c", "d", "e"]
    for number in (1, 2, 3):
        refusal = house.outcomes[f"forbidden {number}"]
        assert isinstance(refusal, KeyUnusable)
        assert refusal.key == "gml:1"
    assert house.metrics.unusable_keys == 3


async def test_a_message_that_can_never_be_stored_holds_up_no_other(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its sender is told, and the others go on."""
    house = await attached(nursery)
    for text in ("a", "wrong type", "b"):
        await house.append(text)
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b"]
    assert "WRONGTYPE" in str(house.outcomes["wrong type"])


async def test_a_batch_with_one_that_can_never_be_stored(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its refusal meets that one alone, and afterwards appends leave together again."""
    house = await attached(nursery)
    await house.append("a", "wrong type", "b", "c")
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]
    assert "WRONGTYPE" in str(house.outcomes["wrong type"])
    house.peer.batches.clear()
    await house.append("d", "e")
    assert house.peer.batches == [2]
    assert house.succeeded() == ["a", "b", "c", "d", "e"]


async def test_a_redis_that_does_not_answer_a_settlement_is_left(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its connection is given up, and the next one settles."""
    house = await attached(nursery)
    house.peer.refusal = OUT_OF_MEMORY
    await house.append("a")
    house.peer.refusal = TimeoutError("no answer within 1.5 s")
    await trio.sleep(2)
    assert house.peer.failed == "no answer within 1.5 s"
    house.appender.detach()
    house.peer.refusal = None
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["a"]


async def test_forgotten_scripts_end_the_connection(nursery: trio.Nursery) -> None:
    """The next connection loads them; the append waits for it."""
    house = await attached(nursery)
    house.peer.refusal = exceptions.NoScriptError("NOSCRIPT")
    await house.append("a")
    assert house.peer.failed == "NOSCRIPT"
    house.appender.detach()
    house.peer.refusal = None
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["a"]


async def test_what_waits_too_long_is_told(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Counted from the outage, not before it was noticed; younger ones go on waiting."""
    house = await attached(nursery, hold_seconds=10)
    house.peer.is_silent = True
    await house.append("before")
    await trio.sleep(8)
    house.peer.lose_replies(applied=False)
    house.appender.detach()
    await trio.sleep(6)
    await house.append("later")
    await trio.sleep(3)
    assert house.outcomes == {}
    await trio.sleep(2)
    assert isinstance(house.outcomes["before"], StoreUnavailable)
    assert "later" not in house.outcomes
    house.peer.is_silent = False
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["later"]


async def test_an_outage_that_is_over_counts_for_no_later_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The time begins anew with the next, for what was under way when it came."""
    house = await attached(nursery, hold_seconds=10)
    house.appender.detach()
    await house.attach()
    await house.append("a")
    house.peer.is_silent = True
    await house.append("b")
    await trio.sleep(8)
    house.peer.lose_replies(applied=False)
    house.appender.detach()
    await trio.sleep(6)
    assert house.succeeded() == list(house.outcomes) == ["a"]
    await trio.sleep(6)
    assert isinstance(house.outcomes["b"], StoreUnavailable)


async def test_connections_that_come_to_nothing_do_not_begin_the_time_anew(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Redis that breaks again before it has stored anything is the same outage."""
    house = await attached(nursery, hold_seconds=10)
    house.peer.is_silent = True
    await house.append("a")
    for _ in range(6):
        house.peer.lose_replies(applied=False)
        house.appender.detach()
        await trio.sleep(2)
        await house.attach()
    house.peer.lose_replies(applied=False)
    house.appender.detach()
    await trio.sleep(1)
    assert isinstance(house.outcomes["a"], StoreUnavailable)


async def test_what_has_not_left_within_its_time_is_taken_back(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is never stored; what was said before and after it is, in its order."""
    house = await attached(nursery)
    await house.append("a")
    house.appender.detach()
    await house.append("b")
    await house.append("hurried", "hurried too", within=4)
    await house.append("c", within=8)
    await trio.sleep(3.9)
    assert list(house.outcomes) == ["a"]
    await trio.sleep(0.5)
    assert list(house.outcomes) == ["a", "hurried", "hurried too"]
    for text in ("hurried", "hurried too"):
        assert type(house.outcomes[text]) is StoreUnavailable
        assert "4 s" in str(house.outcomes[text])
    assert house.appender.unanswered == 2
    await house.append("d")
    await house.attach()
    await house.append("e")
    assert house.peer.stored == house.succeeded() == ["a", "b", "c", "d", "e"]
    assert house.appender.unanswered == 0


async def test_what_was_sent_is_not_taken_back(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nobody knows whether it is stored: that is said when it has waited too long."""
    house = await attached(nursery, hold_seconds=10)
    house.peer.is_silent = True
    await house.append("sent", within=1)
    await trio.sleep(5)
    assert house.outcomes == {}, "nothing is taken back while Redis takes messages"
    house.peer.lose_replies(applied=True)
    house.appender.detach()
    await house.append("unsent", within=1)
    await trio.sleep(2)
    assert list(house.outcomes) == ["unsent"]
    await trio.sleep(9)
    assert type(house.outcomes["sent"]) is FateUnknown
    house.peer.is_silent = False
    await house.attach()
    await house.append("a")
    assert house.peer.stored == ["sent", "a"]
    assert house.succeeded() == ["a"]


async def test_what_was_taken_back_makes_room(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """For others, and for those who wait until all is answered."""
    house = await attached(nursery, hold_bytes=100)
    house.appender.detach()
    await house.append("a", size=60, within=1)
    await house.append("b", size=60, within=1)
    assert list(house.outcomes) == ["b"]
    ended: list[str] = []

    async def wait() -> None:
        await house.appender.wait_all_answered()
        ended.extend(house.outcomes)

    nursery.start_soon(wait)
    await trio.sleep(1.5)
    assert ended == ["b", "a"]
    await house.append("c", size=100)
    assert "c" not in house.outcomes
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["c"]


async def test_what_is_refused_for_now_is_taken_back_no_sooner_than_it_may(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What Redis has refused was sent, and waits for it; what came behind was not."""
    house = await attached(nursery, hold_seconds=100)
    house.peer.refusal = OUT_OF_MEMORY
    await house.append("a", within=1)
    await house.append("b", within=1)
    await trio.sleep(5)
    assert list(house.outcomes) == ["b"]
    house.peer.refusal = None
    await trio.sleep(2)
    assert house.peer.stored == house.succeeded() == ["a"]


class Line:
    """A connection of its own to a peer: what it still brings when it is broken comes late."""

    def __init__(self, peer: Peer, chance: random.Random) -> None:
        self._peer = peer
        self._chance = chance
        self._waiting: deque[tuple[OnReply, tuple[Any, ...]]] = deque()
        self.is_broken = False
        self.is_stuck = False

    def submit_later(self, on_reply: OnReply, make_command: Callable[[], tuple[Any, ...]]) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(self._leave, on_reply, make_command)

    def _leave(self, on_reply: OnReply, make_command: Callable[[], tuple[Any, ...]]) -> None:
        if self.is_broken:
            on_reply(exceptions.ConnectionError("broken"))
            return
        self._waiting.append((on_reply, make_command()[2:]))
        if not self.is_stuck:
            self.answer()

    def answer(self) -> None:
        while self._waiting:
            on_reply, command = self._waiting.popleft()
            on_reply(self._peer._apply(command))

    def break_off(self) -> Callable[[], None]:
        """The replies are lost; returns what applies, late, what was under way."""
        self.is_broken = True
        commands = [command for _, command in self._waiting]
        applied = self._chance.randrange(len(commands) + 1)
        for command in commands[:applied]:
            self._peer._apply(command)
        while self._waiting:
            self._waiting.popleft()[0](exceptions.ConnectionError("broken"))
        return lambda: [self._peer._apply(command) for command in commands[applied:]].clear()

    async def run_script(self, *arguments: Any) -> tuple[int, int]:
        settled = await self._peer.run_script(*arguments)
        await trio.sleep(self._chance.choice([0, 0.1, 0.7]))
        if self.is_broken:
            raise exceptions.ConnectionError("broken")
        return settled

    async def call_many(self, commands: list[tuple[str, str, bytes]]) -> list[object]:
        return await self._peer.call_many(commands)

    def fail(self, reason: str) -> None:
        assert self.is_broken, reason


class Outage:
    """A house whose lines break, get stuck and are refused, as a seed says."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.chance = random.Random(seed)
        self.house = House(hold_bytes=10**6, hold_seconds=6)
        self.nursery = nursery
        self.said: list[str] = []
        self.line: Line | None = None
        self.late: list[Callable[[], None]] = []

    async def play(self) -> None:
        self.nursery.start_soon(self.house.appender.run)
        deeds = [self.say] * 5 + [self.wait] * 3 + [self.connect, self.break_off]
        deeds += [self.stick, self.refuse, self.come_late]
        for _ in range(60):
            await self.chance.choice(deeds)()
        self.house.peer.refusal = None
        await self.break_off()
        await self.connect()
        await self.come_late()
        await trio.sleep(10)
        self.check()

    async def say(self) -> None:
        texts = [f"{len(self.said) + n}" for n in range(self.chance.choice([1, 2, 5]))]
        self.said += texts
        await self.house.append(*texts, within=self.chance.choice([0.5, 2, math.inf]))

    async def wait(self) -> None:
        await trio.sleep(self.chance.choice([0.1, 0.6, 2.5]))

    async def connect(self) -> None:
        if self.line is None:
            self.line = Line(self.house.peer, self.chance)
            self.nursery.start_soon(self._attach, self.line)
            await wait_all_tasks_blocked()

    async def _attach(self, line: Line) -> None:
        with contextlib.suppress(exceptions.ConnectionError):
            await self.house.appender.attach(cast(Connection, line))

    async def break_off(self) -> None:
        if self.line is not None:
            self.late.append(self.line.break_off())
            self.line = None
            self.house.appender.detach()

    async def stick(self) -> None:
        if self.line is not None:
            self.line.is_stuck = not self.line.is_stuck
            if not self.line.is_stuck:
                self.line.answer()

    async def refuse(self) -> None:
        self.house.peer.refusal = None if self.house.peer.refusal else OUT_OF_MEMORY

    async def come_late(self) -> None:
        for apply in self.late:
            apply()
        self.late.clear()

    def check(self) -> None:
        stored, outcomes = self.house.peer.stored, self.house.outcomes
        assert set(outcomes) == set(self.said), "somebody was never told"
        assert stored == [text for text in self.said if text in set(stored)], "doubled, or moved"
        for text, failure in outcomes.items():
            assert type(failure) in (type(None), StoreUnavailable, FateUnknown), failure
            if type(failure) is not FateUnknown:
                assert (text in stored) is (failure is None), (text, failure)


async def test_whatever_breaks_what_is_taken_back_is_never_stored(
    autojump_clock: MockClock,
) -> None:
    """Each is told once; what has succeeded is stored once and in order, and no gap holds it up."""
    fates: Counter[type] = Counter()
    first = random.randrange(10**9)
    for seed in range(first, first + 40):
        async with trio.open_nursery() as nursery:
            outage = Outage(nursery, seed)
            try:
                await outage.play()
            except AssertionError as exc:
                exc.add_note(f"seed {seed}")
                raise
            fates.update(map(type, outage.house.outcomes.values()))
            nursery.cancel_scope.cancel()
    assert fates.keys() == {type(None), StoreUnavailable, FateUnknown}
    assert fates[type(None)] > 100


async def test_no_more_than_so_many_bytes_are_held(nursery: trio.Nursery) -> None:
    """One that finds no room is told at once; those that wait are stored later."""
    house = await attached(nursery, hold_bytes=100)
    house.appender.detach()
    await house.append("a", size=60)
    await house.append("b", size=41)
    await house.append("c", size=40)
    assert isinstance(house.outcomes["b"], StoreUnavailable)
    assert set(house.outcomes) == {"b"}
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["a", "c"]


async def test_who_sends_faster_than_redis_takes_waits(nursery: trio.Nursery) -> None:
    """While Redis only is slow nobody is refused: senders wait until there is room."""
    house = await attached(nursery, hold_bytes=100)
    house.peer.is_silent = True
    passed: list[str] = []

    async def send(text: str) -> None:
        await house.appender.wait_room()
        passed.append(text)
        await house.append(text, size=60)

    for text in "abc":
        await wait_all_tasks_blocked()
        nursery.start_soon(send, text)
    await wait_all_tasks_blocked()
    assert passed == ["a", "b"]
    house.peer.is_silent = False
    house.peer.answer()
    await wait_all_tasks_blocked()
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]


async def test_there_is_room_until_more_waits_than_may_be_held(nursery: trio.Nursery) -> None:
    """While nothing goes out there is always room to ask, and the answer is a refusal."""
    house = await attached(nursery, hold_bytes=100)
    house.peer.is_silent = True
    await house.append("a", size=100)
    assert house.appender.has_room
    await house.append("b", size=1)
    assert not house.appender.has_room
    house.appender.detach()
    assert house.appender.has_room
    await house.append("c", size=1)
    assert list(house.outcomes) == ["c"]


async def test_who_waits_for_the_fate_of_all_is_let_go_with_the_last(nursery: trio.Nursery) -> None:
    """At once when nothing has been sent."""
    house = await attached(nursery)
    await house.appender.wait_all_answered()
    house.peer.is_silent = True
    ended: list[str] = []

    async def wait() -> None:
        await house.appender.wait_all_answered()
        ended.extend(house.outcomes)

    for text in "ab":
        await house.append(text)
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    on_reply, command = house.peer.waiting.popleft()
    on_reply(house.peer._apply(command))
    await wait_all_tasks_blocked()
    assert (list(house.outcomes), ended) == (["a"], [])
    house.peer.answer()
    await wait_all_tasks_blocked()
    assert ended == ["a", "b"]


async def test_what_has_not_left_a_broken_connection_leaves_on_the_next(
    nursery: trio.Nursery,
) -> None:
    """With what comes meanwhile, in order."""
    house = await attached(nursery)
    place = Place("gml:1", "floor:1", "life:1", b"mq:1")
    house.appender.append(place, b"a", partial(house._note, "a"))
    house.peer.lose_replies(applied=False)
    house.appender.detach()
    await house.append("b")
    assert house.outcomes == {}
    await house.attach()
    await house.append("c")
    assert house.peer.stored == house.succeeded() == ["a", "b", "c"]


async def test_who_wants_the_ts_of_a_message_is_told_it(nursery: trio.Nursery) -> None:
    """Amid others, of whatever groups, and only such a batch is answered with each ts."""
    house = await attached(nursery)
    await house.append("a")
    house.send_told("b", group="2")
    house.send_told("c", group="1")
    await house.append("d", group="2")
    await house.append_told("e", group="2")
    assert house.peer.batches == [1, 3, 1]
    assert house.peer.asked == [False, True, True]
    assert house.peer.stored == ["a", "b", "d", "c", "e"]
    assert house.given == {"b": 2, "c": 4, "e": 5}
    assert house.succeeded() == ["a", "b", "c", "d", "e"]


async def test_a_nonce_that_was_seen_before_is_answered_with_its_ts(nursery: trio.Nursery) -> None:
    """Though it comes twice in one batch, amid others, or again after others."""
    house = await attached(nursery)
    await house.append("a")
    house.send_told("first", nonce="x")
    house.send_told("b")
    house.send_told("again", nonce="x")
    house.send_told("elsewhere", nonce="x", group="2")
    await house.append_told("c", nonce="y")
    assert house.peer.batches == [1, 5]
    await house.append_told("much later", nonce="x")
    assert house.peer.stored == ["a", "first", "b", "c", "elsewhere"]
    assert house.given == {
        "first": 2, "b": 3, "again": 2, "c": 4, "elsewhere": 5, "much later": 2
    }  # fmt: skip


@pytest.mark.parametrize("applied", [False, True])
async def test_a_lost_reply_leaves_a_ts_to_be_found_by_the_nonce(
    nursery: trio.Nursery, applied: bool
) -> None:
    """Without a nonce it is unknown, if the message was stored; then nobody says otherwise."""
    house = await attached(nursery)
    house.peer.is_silent = True
    await house.append_told("a", nonce="x")
    await house.append("b")
    await house.append_told("c")
    house.send_told("d", nonce="y", group="2")
    await house.append_told("a again", nonce="x")
    house.peer.lose_replies(applied=applied)
    house.appender.detach()
    await house.append_told("e", nonce="y", group="2")
    assert house.outcomes == {}
    house.peer.is_silent = False
    await house.attach()
    assert house.peer.stored == ["a", "b", "c", "d"]
    assert house.succeeded() == ["a", "b", "c", "d", "a again", "e"]
    assert house.given == {"a": 1, "c": None if applied else 3, "d": 4, "a again": 1, "e": 4}
    assert house.peer.lookups == ([3] if applied else [])


async def test_many_nonces_are_looked_up_in_parts(nursery: trio.Nursery) -> None:
    """Redis does nothing else meanwhile; each is found."""
    house = await attached(nursery, hold_bytes=10**6)
    house.peer.is_silent = True
    texts = [str(number) for number in range(LOOKED_UP_AT_ONCE + 1)]
    for text in texts:
        house.send_told(text, nonce=text)
    await wait_all_tasks_blocked()
    house.peer.lose_replies(applied=True)
    house.appender.detach()
    await house.attach()
    assert house.peer.lookups == [LOOKED_UP_AT_ONCE, 1]
    assert house.given == {text: number for number, text in enumerate(texts, 1)}


@pytest.mark.parametrize("refusal", [None, exceptions.ResponseError("WRONGTYPE no sorted set")])
async def test_a_nonce_that_was_lost_with_the_reply_leaves_the_ts_unknown(
    nursery: trio.Nursery, refusal: Exception | None
) -> None:
    """The message is stored, and is not sent again."""
    house = await attached(nursery)
    house.peer.is_silent = True
    await house.append_told("a", nonce="x")
    await house.append_told("b", nonce="y")
    house.peer.lose_replies(applied=True)
    house.appender.detach()
    house.peer.is_silent = False
    del house.peer.remembered["nonces:1", b"y"]
    house.peer.refused_lookup = refusal
    await house.attach()
    assert house.peer.stored == house.succeeded() == ["a", "b"]
    assert house.given == {"a": None if refusal else 1, "b": None}
    assert house.metrics.unusable_keys == (2 if refusal else 0)


@pytest.mark.parametrize(
    "refusal",
    [
        NotNow("BUSY Redis is busy running a script"),
        exceptions.MasterDownError("MASTERDOWN Link with MASTER is down"),
        exceptions.ConnectionError("broken"),
    ],
)
async def test_a_nonce_that_cannot_be_looked_up_now_is_looked_up_later(
    nursery: trio.Nursery, autojump_clock: MockClock, refusal: Exception
) -> None:
    """On this connection, or on the next; nobody is told anything before."""
    house = await attached(nursery)
    house.peer.is_silent = True
    await house.append_told("a", nonce="x")
    house.peer.lose_replies(applied=True)
    house.appender.detach()
    house.peer.is_silent = False
    house.peer.refused_lookup = refusal
    if isinstance(refusal, NotNow):
        await house.attach()
        assert house.appender.refusal == str(refusal)
    else:
        with pytest.raises(type(refusal)):
            await house.attach()
        house.appender.detach()
    await trio.sleep(1)
    assert house.outcomes == {}
    house.peer.refused_lookup = None
    if isinstance(refusal, NotNow):
        await trio.sleep(2)
    else:
        await house.attach()
    assert house.given == {"a": 1}
    assert house.peer.stored == ["a"]


async def test_nonces_that_cannot_be_used_refuse_their_own_append(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The key of the nonces is named; of a list that is none it is the list's."""
    house = await attached(nursery)
    house.send_told("a", nonce="x")
    house.send_told("no nonces", nonce="y")
    house.send_told("wrong type", nonce="z")
    await house.append("b")
    await trio.sleep(1)
    assert house.peer.stored == house.succeeded() == ["a", "b"]
    refused = {text: failure for text, failure in house.outcomes.items() if failure}
    keys = {text: cast(KeyUnusable, failure).key for text, failure in refused.items()}
    assert keys == {"no nonces": "nonces:1", "wrong type": "gml:1"}
    assert house.given == {"a": 1, "no nonces": None, "wrong type": None}


async def test_what_is_stored_and_not_published_succeeds(nursery: trio.Nursery) -> None:
    """It is counted as a key that cannot be used, and holds up no other."""
    house = await attached(nursery)
    await house.append("muted")
    await house.append("a")
    assert house.peer.stored == house.succeeded() == ["muted", "a"]
    await house.append_told("muted too")
    assert house.metrics.unusable_keys == 2
    assert house.given == {"muted too": 3}


async def test_the_time_of_each_message_that_is_stored_is_measured(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """From when it was said; those of a batch count as its oldest, and a failure is none."""
    house = await attached(nursery)
    house.peer.is_silent = True
    await house.append("a", "b")
    await trio.sleep(2)
    await house.append("wrong type")
    house.peer.answer()
    await trio.sleep(0.5)
    seconds = {
        sample.name.removeprefix("fastimd_append_seconds_"): sample.value
        for family in house.metrics.collect()
        for sample in family.samples
        if sample.name in ("fastimd_append_seconds_sum", "fastimd_append_seconds_count")
    }
    assert house.succeeded() == ["a", "b"]
    assert seconds == {"count": 2, "sum": pytest.approx(4, abs=0.1)}
