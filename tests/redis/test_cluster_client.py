"""Many commands at once to a cluster in memory, of which each master behaves as the test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions
from trio.testing import MockClock

from fastimd.base.errors import StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.redis.clock import RedisClock
from fastimd.redis.cluster.client import RETRY_SECONDS, ClusterClient
from fastimd.redis.cluster.masters import Masters
from fastimd.redis.cluster.seeds import Seeds
from fastimd.redis.cluster.slots import slot_of
from fastimd.redis.connection import Connection
from fastimd.redis.keeping import CALL_SECONDS
from fastimd.redis.replies import NotNow, Redirected, reply_error
from fastimd.redis.wire import Argument

NODES = 3
KEYS = [f"key-{number}" for number in range(30)]
ODD = "odd"
"""What stands at a key of this name is refused."""


class Node:
    """A master, and a connection to it; ``connection`` is None while it is away.

    While it ``is_silent`` it answers nothing, while it ``is_breaking`` the connection breaks at the
    next command; with a ``refusal`` it refuses all.
    """

    def __init__(self, spread: Spread, number: int) -> None:
        self._spread = spread
        self.number = number
        self.is_away = self.is_silent = self.is_breaking = False
        self.refusal = ""
        self.asked = 0

    @property
    def connection(self) -> Node | None:
        return None if self.is_away else self

    async def call_many(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        self.asked += 1
        if self.is_breaking:
            self.is_breaking = False
            self._spread.go(self)
            raise exceptions.ConnectionError("broken")
        if self.is_silent:
            await trio.sleep(CALL_SECONDS)
            raise TimeoutError("no answer")
        await trio.lowlevel.checkpoint()
        is_asking = False
        replies: list[Any] = []
        for command in commands:
            replies.append(b"OK" if command == ("ASKING",) else self._answer(command[1], is_asking))
            is_asking = command == ("ASKING",)
        return replies

    async def call(self, *command: str) -> Any:
        [reply] = await self.call_many([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _answer(self, key: str, is_asking: bool) -> Any:
        spread, slot = self._spread, slot_of(key)
        if self.refusal:
            return reply_error(self.refusal)
        if spread.owner(slot) is not self and not is_asking:
            return reply_error(f"MOVED {slot} host:{spread.owner(slot).number}")
        if slot in spread.leaving and not is_asking:
            return reply_error(f"ASK {slot} host:{spread.leaving[slot].number}")
        return reply_error("WRONGTYPE") if key == ODD else key.encode()


class Spread:
    """The masters, and who has which slots: ``known`` is what the client thinks where it errs.

    ``leaving`` are the slots on their way, with who gets them.
    """

    last_error = "away"

    def __init__(self) -> None:
        self.nodes = [Node(self, number) for number in range(NODES)]
        self.known: dict[int, Node] = {}
        self.leaving: dict[int, Node] = {}
        self._changed = trio.Event()

    def owner(self, slot: int) -> Node:
        return self.nodes[slot % NODES]

    def of(self, key: str) -> Node:
        return self.owner(slot_of(key))

    def connection_of(self, slot: int) -> Node | None:
        return self.known.get(slot, self.owner(slot)).connection

    def at(self, where: Redirected) -> Node:
        return self.nodes[where.port]

    def note_moved(self, where: Redirected) -> None:
        self.known[where.slot] = self.at(where)

    def go(self, node: Node) -> None:
        node.is_away = True
        self._change()

    def come(self, node: Node) -> None:
        node.is_away = node.is_silent = False
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_change(self) -> None:
        await self._changed.wait()


def client_of(spread: Spread) -> ClusterClient:
    client = ClusterClient(Seeds("redis-cluster://127.0.0.1"), Config(), Metrics(), RedisClock())
    client.masters = cast(Masters, spread)
    return client


def gets(keys: Sequence[str]) -> list[tuple[Argument, ...]]:
    return [("GET", key) for key in keys]


def check(spread: Spread, keys: Sequence[str], replies: list[Any], lost: set[int]) -> None:
    """Those of the lost masters are told to be away; all others have their own replies."""
    for key, reply in zip(keys, replies, strict=True):
        if spread.of(key).number in lost:
            assert isinstance(reply, StoreUnavailable), (key, reply)
        else:
            assert reply == key.encode()


def be_away(node: Node) -> None:
    node.is_away = True


def be_silent(node: Node) -> None:
    node.is_silent = True


def be_broken(node: Node) -> None:
    node.is_breaking = True


def be_down(node: Node) -> None:
    node.refusal = "CLUSTERDOWN The cluster is down"


def be_busy(node: Node) -> None:
    node.refusal = "BUSY Redis is busy running a script"


def be_loading(node: Node) -> None:
    node.refusal = "LOADING Redis is loading the dataset in memory"


async def come_back(spread: Spread, node: Node) -> None:
    """Be there again while a call may still wait."""
    await trio.sleep(CALL_SECONDS / 2)
    spread.come(node)


TROUBLES: list[Callable[[Node], None]] = [
    be_away,
    be_silent,
    be_broken,
    be_down,
    be_busy,
    be_loading,
]


@given(
    st.lists(st.sampled_from([None, *TROUBLES]), min_size=NODES, max_size=NODES),
    st.lists(st.sampled_from(KEYS), max_size=40),
)
def test_what_is_wrong_with_a_master_concerns_its_keys_alone(
    troubles: list[Callable[[Node], None] | None], keys: list[str]
) -> None:
    """All others have their replies, in their places; nobody waits longer than for a call."""

    async def ask() -> None:
        spread = Spread()
        lost = set()
        for node, trouble in zip(spread.nodes, troubles, strict=True):
            if trouble is not None:
                trouble(node)
                lost.add(node.number)
        began = trio.current_time()
        replies = await client_of(spread).call_many(gets(keys))
        check(spread, keys, replies, lost)
        took = trio.current_time() - began
        assert took <= CALL_SECONDS + 2 * RETRY_SECONDS
        if not lost & {spread.of(key).number for key in keys}:
            assert took == 0

    trio.run(ask, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("trouble", [be_away, be_broken])
async def test_a_master_that_comes_back_in_time_is_asked(
    autojump_clock: MockClock, nursery: trio.Nursery, trouble: Callable[[Node], None]
) -> None:
    """As soon as it is there, and the others are asked once."""
    spread = Spread()
    trouble(spread.nodes[1])
    nursery.start_soon(come_back, spread, spread.nodes[1])
    began = trio.current_time()
    check(spread, KEYS, await client_of(spread).call_many(gets(KEYS)), set())
    assert trio.current_time() - began == pytest.approx(CALL_SECONDS / 2)
    assert [node.asked for node in spread.nodes] == [1, 2 if trouble is be_broken else 1, 1]


async def test_slots_that_are_elsewhere_are_followed_at_once_and_together(
    autojump_clock: MockClock,
) -> None:
    """All were moved, or are on their way: nobody waits for one after the other."""
    spread = Spread()
    first, second, _ = spread.nodes
    for key in KEYS:
        spread.known[slot_of(key)] = second
        if spread.of(key) is first:
            spread.leaving[slot_of(key)] = second
    began = trio.current_time()
    check(spread, KEYS, await client_of(spread).call_many(gets(KEYS)), set())
    assert trio.current_time() - began <= 2 * RETRY_SECONDS


async def test_a_slot_that_does_not_arrive_is_asked_for_a_while(autojump_clock: MockClock) -> None:
    """Who is to get it is away: the reply is then that Redis cannot serve it."""
    spread = Spread()
    here, there, _ = spread.nodes
    be_away(there)
    keys = [key for key in KEYS if spread.of(key) is not there]
    for key in keys:
        if spread.of(key) is here:
            spread.leaving[slot_of(key)] = there
    began = trio.current_time()
    check(spread, keys, await client_of(spread).call_many(gets(keys)), {here.number})
    assert CALL_SECONDS <= trio.current_time() - began <= CALL_SECONDS + 2 * RETRY_SECONDS


@pytest.mark.parametrize("is_leaving", [False, True])
async def test_what_one_command_meets_is_its_own(
    autojump_clock: MockClock, is_leaving: bool
) -> None:
    """A refusal stands in its place, wherever the slot is by now."""
    spread = Spread()
    if is_leaving:
        spread.leaving[slot_of(ODD)] = next(n for n in spread.nodes if n is not spread.of(ODD))
    replies = await client_of(spread).call_many(gets([KEYS[0], ODD, KEYS[1]]))
    assert replies[::2] == [KEYS[0].encode(), KEYS[1].encode()]
    assert isinstance(replies[1], exceptions.ResponseError)
    assert not isinstance(replies[1], NotNow)


async def test_nothing_is_asked_of_nobody(autojump_clock: MockClock) -> None:
    """However many are away."""
    spread = Spread()
    for node in spread.nodes:
        be_away(node)
    assert await client_of(spread).call_many([]) == []
    assert client_of(spread).connection_of(KEYS[0]) is None
    spread.come(spread.of(KEYS[0]))
    there = client_of(spread).connection_of(KEYS[0])
    assert there is cast(Connection, spread.of(KEYS[0]))


# One at a time


@pytest.mark.parametrize("is_many", [False, True])
@pytest.mark.parametrize("where", ["here", "moved", "asked", "late"])
async def test_a_command_finds_its_slot(
    autojump_clock: MockClock, is_many: bool, where: str
) -> None:
    """Here or elsewhere, or as soon as its keys have arrived, alone or with others."""
    spread = Spread()
    [key] = KEYS[:1]
    here = spread.of(key)
    there = next(node for node in spread.nodes if node is not here)
    if where == "moved":
        spread.known[slot_of(key)] = there
    elif where == "asked":
        spread.leaving[slot_of(key)] = there
    elif where == "late":
        here.refusal = "TRYAGAIN Multiple keys request during rehashing of slot"

    async def arrive() -> None:
        await trio.sleep(3 * RETRY_SECONDS)
        here.refusal = ""

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive)
        client = client_of(spread)
        found = await (client.call_many(gets([key])) if is_many else client.call("GET", key))
        took = trio.current_time() - began
    assert found == ([key.encode()] if is_many else key.encode())
    assert took <= {"here": 0, "asked": 0, "moved": 2 * RETRY_SECONDS}.get(where, CALL_SECONDS / 2)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_call_of_a_master_that_is_gone_fails_in_time(
    autojump_clock: MockClock, trouble: Callable[[Node], None]
) -> None:
    """Once and for all; but who is away is waited for."""
    spread = Spread()
    client = client_of(spread)
    node = spread.of(KEYS[0])
    trouble(node)
    began = trio.current_time()
    with pytest.raises(StoreUnavailable):
        await client.call("GET", KEYS[0])
    assert trio.current_time() - began <= CALL_SECONDS
    be_away(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back, spread, node)
        node.refusal = ""
        assert await client.call("GET", KEYS[0]) == KEYS[0].encode()


async def test_a_refusal_of_a_call_is_raised_wherever_the_slot_is(
    autojump_clock: MockClock,
) -> None:
    """Here, and where it is on its way to; where that is away, it is asked for a while."""
    spread = Spread()
    client = client_of(spread)
    there = next(node for node in spread.nodes if node is not spread.of(ODD))
    for _ in range(2):
        with pytest.raises(exceptions.ResponseError, match="WRONGTYPE"):
            await client.call("GET", ODD)
        spread.leaving[slot_of(ODD)] = there
    be_away(there)
    began = trio.current_time()
    with pytest.raises(StoreUnavailable, match="cannot serve this now"):
        await client.call("GET", ODD)
    assert CALL_SECONDS <= trio.current_time() - began <= CALL_SECONDS + RETRY_SECONDS
