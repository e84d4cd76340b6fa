"""The queues of a cluster's slots, on masters in memory.

All of ours runs: the client, the table of slots, the connections, the queues. The masters speak
RESP, and refuse as those of a cluster do while slots move. What comes of it must be what the
senders were told, whatever happens and in whatever order.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import hiredis
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from fastimd.base.errors import FateUnknown, KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Redis
from fastimd.groups.store.keyspace import NONCES
from fastimd.redis.address import Address
from fastimd.redis.batch import Nonce, Place, Told
from fastimd.redis.clock import RedisClock
from fastimd.redis.cluster import lanes, masters
from fastimd.redis.cluster.client import ClusterClient
from fastimd.redis.cluster.seeds import Seeds
from fastimd.redis.cluster.slots import slot_of
from fastimd.redis.replies import Redirected
from fastimd.redis.scripts import APPEND, SETTLE
from fastimd.redis.wire import Wire

PORT = 6379
NAMES = ("one", "two", "three")
GROUPS = ("{a}1", "{a}2", "{b}1", "{b}bad", "{c}1")
"""Of three slots. The list of the one that is bad is no list."""
SLOTS = tuple(dict.fromkeys(slot_of(f"gml:{group}") for group in GROUPS))
OUT_OF_MEMORY = "OOM command not allowed"


# Masters in memory


class Refusal(Exception):
    """What a master says no with."""


class Master:
    """A master, with the keys that it has.

    ``view`` is who has which slots, as far as it knows; ``leaving`` are the slots that are on their
    way to another master, ``coming`` those that are on their way here. While it ``is_stuck`` it
    does nothing, while it ``is_away`` it takes no connections. Its replies take ``seconds``.
    """

    seconds: float
    is_away: bool
    refusal: str | None

    def __init__(self, spread: Spread, name: str) -> None:
        self.name = name
        self.keys: dict[bytes, Any] = {}
        self.view: dict[int, str] = {}
        self.leaving: dict[int, str] = {}
        self.coming: set[int] = set()
        self.links: list[Link] = []
        self._spread = spread
        self._is_asking = False
        self._goes = trio.Event()
        self.be_well()

    def be_well(self) -> None:
        """Nothing is wrong with it any more."""
        self.seconds, self.is_away, self.refusal = 0.0, False, None
        self._goes.set()

    @property
    def is_stuck(self) -> bool:
        return not self._goes.is_set()

    def stick(self) -> None:
        self._goes = trio.Event()

    async def wait_going(self) -> None:
        await self._goes.wait()

    def answer(self, command: Sequence[bytes]) -> bytes:
        """The reply to a command, as it travels."""
        try:
            return _packed(self._do(*command))
        except Refusal as exc:
            return b"-%s\r\n" % str(exc).encode()
        finally:
            self._is_asking = command[0] == b"ASKING"

    def _do(self, name: bytes, *rest: bytes) -> object:
        if name in (b"SCRIPT", b"PING", b"ASKING"):
            return b"OK"
        if name == b"TIME":
            return [b"%d" % time.time(), b"0"]
        if name == b"INFO":
            return b"role:master\r\nmaster_replid:" + self.name.encode().ljust(40, b"0")
        if name == b"CLUSTER":
            return self._slots()
        if self.refusal is not None:
            raise Refusal(self.refusal)
        if name == b"LLEN":
            self._check_here(rest)
            return len(self.keys.get(rest[0], ()))
        if name == b"ZSCORE":
            key, nonce = rest
            self._check_here([key])
            ts = self.keys.get(key, {}).get(nonce)
            return None if ts is None else b"%d" % ts
        assert name == b"EVALSHA"
        sha, count, *others = rest
        keys, arguments = others[: int(count)], others[int(count) :]
        self._check_here(keys)
        if sha == SETTLE.sha:
            return self._settle(*keys, *arguments)
        assert sha == APPEND.sharded.sha
        return self._append(keys, arguments)

    def _slots(self) -> list[list[object]]:
        """Who has the slots of the story; nobody has the others."""
        return [[slot, slot, [name.encode(), PORT]] for slot, name in self.view.items()]

    def _check_here(self, keys: Sequence[bytes]) -> None:
        """Refuse what is elsewhere, as a cluster does."""
        [slot] = {slot_of(key) for key in keys}
        missing = [key for key in keys if key not in self.keys]
        if self.view[slot] != self.name:
            if not (self._is_asking and slot in self.coming):
                raise Refusal(f"MOVED {slot} {self.view[slot]}:{PORT}")
            if missing and len(keys) > 1:
                raise Refusal("TRYAGAIN Multiple keys request during rehashing of slot")
        elif slot in self.leaving and missing:
            if len(missing) < len(keys):
                raise Refusal("TRYAGAIN Multiple keys request during rehashing of slot")
            raise Refusal(f"ASK {slot} {self.leaving[slot]}:{PORT}")

    def _settle(self, key: bytes, epoch: bytes, known: bytes, _expiry: bytes) -> list[int]:
        mark = self.keys.get(key)
        applied = max(mark[1] if mark else 0, int(known))
        self.keys[key] = (int(epoch), applied)
        return [applied, int(mark is not None)]

    def _append(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> object:
        mark, *others = keys
        epoch, first, last = map(int, arguments[:3])
        if self.keys.get(mark) != (epoch, first - 1):
            raise Refusal("UNSETTLED the applied mark is another")
        prefixes: list[tuple[bytes, bytes]] = []
        rest = list(arguments[7:])
        while len(prefixes) < last - first + 1:
            _channel, _heard, count, *rest = rest
            prefixes += [(others[0], prefix) for prefix in rest[: int(count)]]
            others, rest = others[3:], rest[int(count) :]
        assert len(prefixes) == last - first + 1
        if any(key.endswith(b"bad") for key, _ in prefixes):
            raise Refusal("WRONGTYPE Operation against a key holding the wrong kind of value")
        named = {
            int(number): (key, nonce)
            for key, number, nonce in zip(others, rest[:-1:3], rest[1:-1:3], strict=True)
        }
        given = []
        for number, (key, prefix) in enumerate(prefixes, 1):
            nonces, nonce = named.get(number, (b"", b""))
            ts = self.keys.get(nonces, {}).get(nonce)
            if ts is None:
                ts = self._spread.next_ts()
                self.keys.setdefault(key, []).append((ts, prefix.decode()))
                if nonce:
                    self.keys.setdefault(nonces, {})[nonce] = ts
            given.append(ts)
        self.keys[mark] = (epoch, last)
        return [given] if rest else given[-1]


class Link:
    """A connection to a master, on its side."""

    def __init__(self, master: Master, stream: trio.abc.Stream, late: Late) -> None:
        self._master = master
        self._stream = stream
        self._late = late
        self._queue: deque[list[bytes]] = deque()
        self._came = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve it until it is broken on either side."""
        self._master.links.append(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._work)
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self._master.links.remove(self)
            self._late.add(self._master, list(self._queue))
            await trio.aclose_forcefully(self._stream)

    def break_off(self, applied: int) -> None:
        """No reply gets through any more; so many commands are carried out all the same."""
        for _ in range(min(applied, len(self._queue))):
            self._master.answer(self._queue.popleft())
        self._scope.cancel()

    async def _read(self) -> None:
        reader = hiredis.Reader()
        while data := await self._stream.receive_some(65_536):
            reader.feed(bytes(data))
            while (command := reader.gets()) is not False:
                self._queue.append(command)
            self._came.set()

    async def _work(self) -> None:
        while True:
            await self._came.wait()
            self._came = trio.Event()
            await trio.sleep(self._master.seconds)
            await self._master.wait_going()
            replies = []
            while self._queue:
                replies.append(self._master.answer(self._queue.popleft()))
            await trio.sleep(self._master.seconds)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(b"".join(replies))


class Late:
    """What masters have not carried out when the connection over which it came has ended."""

    def __init__(self) -> None:
        self._commands: list[tuple[float, Master, list[list[bytes]]]] = []

    def add(self, master: Master, commands: list[list[bytes]]) -> None:
        self._commands.append((trio.current_time(), master, commands))

    def come(self) -> None:
        """They find it now."""
        found, self._commands = self._commands, []
        for each in found:
            at, master, commands = each
            if trio.current_time() > at + LATE_SECONDS:
                continue
            if master.is_stuck:
                self._commands.append(each)
                continue
            for command in commands:
                master.answer(command)


class Spread:
    """The masters, and how slots move."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.late = Late()
        self.masters = {name: Master(self, name) for name in NAMES}
        self.owners = dict(zip(SLOTS, NAMES, strict=True))
        self.learn()
        self._nursery = nursery
        self._ts = 0

    def next_ts(self) -> int:
        self._ts += 1
        return self._ts

    def learn(self) -> None:
        """Every master learns who has what."""
        for master in self.masters.values():
            master.view = dict(self.owners)

    def begin(self, slot: int, target: str) -> None:
        """Have a slot moved."""
        source = self.masters[self.owners[slot]]
        if target != source.name and slot not in source.leaving:
            source.leaving[slot] = target
            self.masters[target].coming.add(slot)

    def carry(self, slot: int, count: int) -> None:
        """Move so many keys of a slot that is on its way."""
        source = self.masters[self.owners[slot]]
        if slot in source.leaving:
            its_own = sorted(key for key in source.keys if slot_of(key) == slot)
            for key in its_own[:count]:
                self.masters[source.leaving[slot]].keys[key] = source.keys.pop(key)

    def finish(self, slot: int) -> None:
        """A slot is where it was to go; the third master does not know yet."""
        source = self.masters[self.owners[slot]]
        if slot in source.leaving:
            self.carry(slot, 10**6)
            target = self.masters[source.leaving.pop(slot)]
            target.coming.discard(slot)
            self.owners[slot] = source.view[slot] = target.view[slot] = target.name

    def break_off(self, name: str, applied: int) -> None:
        """Break all connections to a master, when so many commands of each were carried out."""
        for link in list(self.masters[name].links):
            link.break_off(applied)

    async def connect(self, name: str) -> Wire:
        await trio.lowlevel.checkpoint()
        master = self.masters[name]
        if master.is_away:
            raise ConnectionRefusedError(111, "refused")
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(Link(master, theirs, self.late).run)
        return Wire(ours)


@dataclass
class Door:
    """The address of a master in memory."""

    spread: Spread
    host: str

    def __str__(self) -> str:
        return self.host

    async def connect(self) -> Wire:
        return await self.spread.connect(self.host)


class Doors(Seeds):
    """The seeds of a cluster in memory."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread
        super().__init__(f"redis-cluster://{','.join(NAMES)}")

    def at(self, host: str, _port: int) -> Address:
        return cast(Address, Door(self._spread, host))


def _packed(value: object) -> bytes:
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(_packed, value))
    raise AssertionError(value)


HOLD_SECONDS, IDLE_SECONDS, LATE_SECONDS = 3.0, 6.0, 3.0
TELL_SECONDS = 15.0
STORIES, DEEDS = 60, 60

# The client


@dataclass
class Said:
    """A message, and what its sender was told."""

    text: str
    group: str
    nonce: str
    at: float
    fates: list[Exception | None] = field(default_factory=list)
    ts: int | None = None


class House:
    """A cluster, a client of it, and what was said."""

    def __init__(self, nursery: trio.Nursery, hold_seconds: float = 10) -> None:
        self.nursery = nursery
        self.spread = Spread(nursery)
        config = Config(redis=Redis(hold_seconds=hold_seconds))
        self.client = ClusterClient(Doors(self.spread), config, Metrics(), RedisClock())
        self.lanes = self.client.appender
        self.said: list[Said] = []
        nursery.start_soon(self.client.run)

    def lane_of(self, group: str) -> lanes.Lane | None:
        """The queue of a group's slot."""
        return self.lanes._lanes.get(slot_of(f"gml:{group}"))

    def master_of(self, group: str) -> Master:
        """The master of a group's slot."""
        return self.spread.masters[self.spread.owners[slot_of(f"gml:{group}")]]

    def say(
        self, group: str, *, nonce: str = "", wants_ts: bool = False, within: float = math.inf
    ) -> Said:
        said = Said(f"{len(self.said)}", group, nonce, trio.current_time())
        self.said.append(said)
        place = Place(f"gml:{group}", f"floor:{group}", f"life:{group}", f"mq:{group}".encode())
        note = partial(self._note, said)
        name = Nonce(f"nonces:{group}", nonce.encode(), NONCES) if nonce else None
        on_appended = Told(note, name) if wants_ts or nonce else note
        self.lanes.append(place, said.text.encode(), on_appended, within)
        return said

    def _note(self, said: Said, failure: Exception | None, ts: int | None = None) -> None:
        said.fates.append(failure)
        said.ts = ts

    def stored(self, group: str) -> list[tuple[int, str]]:
        """The ``ts`` and the text of each message of a group."""
        key = f"gml:{group}".encode()
        lists = [each.keys[key] for each in self.spread.masters.values() if key in each.keys]
        assert len(lists) <= 1, "a group lies in two places"
        return lists[0] if lists else []

    async def wait_told(self, *messages: Said) -> None:
        """Wait until senders know the fate of these."""
        with trio.fail_after(60):
            while not all(said.fates for said in messages):  # noqa: ASYNC110 - of many callbacks
                await trio.sleep(0.01)


# Stories


class Story:
    """A house on a cluster whose slots move and whose masters fail, as a seed says."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.chance = random.Random(seed)
        self.house = House(nursery, HOLD_SECONDS)
        self.spread = self.house.spread
        self.deeds: list[str] = []
        self._used: dict[str, tuple[float, lanes.Lane | None]] = {}

    async def play(self) -> None:
        """Let it happen."""
        deeds = [self.say] * 5 + [self.wait] * 5 + [self.move, self.befall] * 2
        deeds += [self.ask, self.break_off, self.come_late]
        for _ in range(DEEDS):
            await self.chance.choice(deeds)()
        await self.end()
        self.check()

    # What happens

    async def say(self) -> None:
        """Messages of one turn, which may be one message that is told again."""
        choose = self.chance.choice
        group, nonce = choose(GROUPS), choose(("", "", "x", "y"))
        within, wants_ts = choose((math.inf, math.inf, 0.5, 2)), choose((False, True))
        count = choose((1, 1, 2, 4))
        for _ in range(count):
            self.house.say(group, nonce=nonce, wants_ts=wants_ts, within=within)
        self._used[group] = trio.current_time(), self.house.lane_of(group)
        self._note(f"say {group} {count} {nonce} {within}")

    async def wait(self) -> None:
        """Time passes; without any, all that can happen at once does. Word gets around in it."""
        seconds = self.chance.choice((0, 0, 0.01, 0.04, 0.3, 0.3, 1, 1, 4, 8))
        self._note(f"wait {seconds}")
        await wait_all_tasks_blocked()
        self.check_now()
        await trio.sleep(seconds)
        self.check_now()
        if seconds >= 1:
            self.spread.learn()

    async def move(self) -> None:
        """A slot sets out for another master, some of its keys go, it arrives: perhaps at once."""
        slot, target = self.chance.choice(SLOTS), self.chance.choice(NAMES)
        keys, arrives, is_told = self.chance.randrange(4), *self.chance.choices((False, True), k=2)
        self.spread.begin(slot, target)
        self.spread.carry(slot, keys)
        if arrives:
            self.spread.finish(slot)
        if is_told:
            self.spread.learn()
            self.house.client.masters.look()
        self._note(f"move {slot} {target} {keys} {arrives} {is_told}")

    async def befall(self) -> None:
        """All is well with a master, or it is slow, stuck, away or unwilling."""
        master = self.spread.masters[self.chance.choice(NAMES)]
        kind = self.chance.choice(("well", "slow", "stuck", "away", "unwilling"))
        master.be_well()
        match kind:
            case "slow":
                master.seconds = self.chance.choice((0.02, 0.3, 0.7))
            case "stuck":
                master.stick()
            case "away":
                master.is_away = True
            case "unwilling":
                master.refusal = self.chance.choice((OUT_OF_MEMORY, "CLUSTERDOWN it is"))
        self._note(f"{kind} {master.name}")

    async def break_off(self) -> None:
        """All connections to a master break, when it has carried out some of what came."""
        master, applied = self.chance.choice(NAMES), self.chance.randrange(4)
        self.spread.break_off(master, applied)
        self._note(f"break_off {master} {applied}")

    async def ask(self) -> None:
        """Somebody reads a list, and learns where that is."""

        async def ask(group: str) -> None:
            with suppress(StoreUnavailable):
                await self.house.client.call("LLEN", f"gml:{group}")

        group = self.chance.choice(GROUPS)
        self.house.nursery.start_soon(ask, group)
        self._note(f"ask {group}")

    async def come_late(self) -> None:
        """What was under way over connections that have ended is carried out after all."""
        self.spread.late.come()
        self._note("come_late")

    async def end(self) -> None:
        """Nothing is wrong any more: all is told soon, and what is said then is stored."""
        for master in self.spread.masters.values():
            master.be_well()
        self.spread.late.come()
        for slot in SLOTS:
            self.spread.finish(slot)
        self.spread.learn()
        self._note("end")
        with trio.move_on_after(TELL_SECONDS):
            await self.house.lanes.wait_all_answered()
        assert self.house.lanes.unanswered == 0
        await trio.sleep(2)
        last = [self.house.say(group) for group in GROUPS]
        await self.house.wait_told(*last)
        assert [said.group for said in last if said.fates != [None]] == ["{b}bad"]
        assert all(trio.current_time() < said.at + 1 for said in last)
        self.spread.late.come()
        await trio.sleep(IDLE_SECONDS + 1)
        assert not self.house.lanes._lanes
        assert (self.house.lanes.room.bytes, self.house.lanes.room.held) == (0, 0)

    def _note(self, deed: str) -> None:
        self.deeds.append(f"{trio.current_time():.3f} {deed}")

    # What must hold

    def check_now(self) -> None:
        """Nobody waits for ever; a queue is there while it is used, and for a while after."""
        now = trio.current_time()
        waiting = [said for said in self.house.said if not said.fates]
        assert len(waiting) == self.house.lanes.unanswered
        assert sum(len(said.text) for said in waiting) == self.house.lanes.room.bytes
        for said in waiting:
            assert now < said.at + TELL_SECONDS, f"not told: {said}"
        for group, (used_at, lane) in self._used.items():
            assert lane is not None
            is_there = self.house.lane_of(group) is lane
            if lane.unanswered or now < used_at + IDLE_SECONDS:
                assert is_there, f"the queue of {group} was given up in use"

    def check(self) -> None:
        """Everybody was told once, and the truth."""
        for group in GROUPS:
            self._check_group(group, [said for said in self.house.said if said.group == group])

    def _check_group(self, group: str, messages: list[Said]) -> None:
        stored = self.house.stored(group)
        given = {text: ts for ts, text in stored}
        kept = [said for said in messages if said.text in given]
        assert [text for _, text in stored] == [said.text for said in kept], "doubled, or moved"
        assert [ts for ts, _ in stored] == sorted(given.values())
        by_nonce = {said.nonce: given[said.text] for said in kept if said.nonce}
        assert len(by_nonce) == sum(said.nonce != "" for said in kept), "doubled"
        for said in messages:
            [failure] = said.fates
            ts = by_nonce.get(said.nonce) if said.nonce else given.get(said.text)
            if failure is None:
                assert ts is not None, f"lost: {said}"
                assert said.ts == ts or (said.ts is None and not said.nonce), said
            elif isinstance(failure, KeyUnusable):
                assert group == "{b}bad", failure
            elif type(failure) is not FateUnknown:
                assert type(failure) is StoreUnavailable, failure
                assert said.text not in given, f"stored: {said}"


async def test_every_message_has_one_fate_whatever_becomes_of_the_masters(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored once and in order, or not at all, and whoever said it knows which."""
    monkeypatch.setattr(lanes, "IDLE_SECONDS", IDLE_SECONDS)
    fates: Counter[type] = Counter()
    first = random.randrange(10**9)
    for seed in range(first, first + STORIES):
        async with trio.open_nursery() as nursery:
            story = Story(nursery, seed)
            try:
                await story.play()
            except BaseException as exc:
                exc.add_note("\n".join((f"seed {seed}", *story.deeds)))
                raise
            fates.update(type(said.fates[0]) for said in story.house.said)
            nursery.cancel_scope.cancel()
    assert fates.keys() == {type(None), StoreUnavailable, FateUnknown, KeyUnusable}
    assert fates[type(None)] > 10 * STORIES


# One by one


async def test_a_slot_goes_where_nobody_is_connected_while_it_is_settled(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its queue waits for that connection, and settles there."""
    house = House(nursery)
    old = house.master_of("{a}1")
    new = next(each for each in house.spread.masters.values() if each is not old)
    await house.wait_told(house.say("{a}1"))
    new.is_away = True
    house.spread.break_off(new.name, 0)
    old.refusal = OUT_OF_MEMORY
    held = house.say("{a}1")
    await trio.sleep(0.1)
    assert house.lanes.refusal == OUT_OF_MEMORY
    old.be_well()
    old.seconds = 0.2
    marks = dict(old.keys)
    while old.keys == marks:  # noqa: ASYNC110 - the master in memory tells nobody
        await trio.sleep(0.01)
    house.spread.begin(SLOTS[0], new.name)
    house.spread.finish(SLOTS[0])
    house.client.masters.note_moved(Redirected(f"MOVED {SLOTS[0]} {new.name}:{PORT}"))
    await trio.sleep(1)
    assert held.fates == []
    new.be_well()
    await house.wait_told(held)
    assert [text for _, text in house.stored("{a}1")] == ["0", "1"]


@pytest.mark.parametrize("waited", [0.1, 0.3])
async def test_what_is_under_way_when_its_slot_moves(
    waited: float, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whether its master has carried it out or not, it is stored once, and soon."""
    house = House(nursery)
    old = house.master_of("{a}1")
    await house.wait_told(house.say("{a}1"))
    old.seconds = 0.2
    said = house.say("{a}1")
    await trio.sleep(waited)
    house.spread.begin(SLOTS[0], NAMES[1])
    house.spread.finish(SLOTS[0])
    house.spread.learn()
    house.client.masters.note_moved(Redirected(f"MOVED {SLOTS[0]} {NAMES[1]}:{PORT}"))
    await house.wait_told(said)
    assert said.fates == [None]
    assert trio.current_time() < said.at + 1
    assert [text for _, text in house.stored("{a}1")] == ["0", "1"]


async def test_a_lost_reply_leaves_a_ts_to_be_found_by_the_nonce(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """That is remembered where the slot is."""
    house = House(nursery)
    master = house.master_of("{a}1")
    await house.wait_told(house.say("{a}1"))
    master.seconds = 0.2
    said = house.say("{a}1", nonce="x")
    await trio.sleep(0.3)
    master.be_well()
    house.spread.break_off(master.name, 0)
    await house.wait_told(said)
    assert said.fates == [None]
    assert house.stored("{a}1")[1:] == [(said.ts, "1")]


async def test_a_master_that_has_a_slot_no_more_says_where_it_is(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody need look; and it is no trouble."""
    monkeypatch.setattr(masters, "LOOK_SECONDS", 60)
    house = House(nursery)
    await house.wait_told(house.say("{a}1"))
    house.spread.begin(SLOTS[0], NAMES[1])
    house.spread.finish(SLOTS[0])
    said = house.say("{a}1")
    await house.wait_told(said)
    assert said.fates == [None]
    assert trio.current_time() < said.at + 0.5
    assert house.lanes.refusal is None


async def test_what_is_said_while_a_slot_is_on_its_way_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Until it is there; others are none the wiser, and it is no trouble."""
    house = House(nursery)
    await house.wait_told(*map(house.say, GROUPS))
    house.spread.begin(SLOTS[0], NAMES[1])
    waiting = [house.say("{a}1"), house.say("{a}2")]
    for keys in range(4):
        await trio.sleep(1)
        house.spread.carry(SLOTS[0], keys)
        assert house.lanes.unanswered == len(waiting)
        assert house.lanes.refusal is None
        other = house.say("{c}1")
        await house.wait_told(other)
        assert other.fates == [None]
    house.spread.finish(SLOTS[0])
    house.spread.learn()
    await house.wait_told(*waiting)
    assert [said.fates for said in waiting] == [[None], [None]]
