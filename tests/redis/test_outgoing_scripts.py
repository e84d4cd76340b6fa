"""What the backend is still to be told, on every real redis-server, beside a model of it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from redis import Redis
from test_ledger_scripts import Sent
from test_scripts import append, run, settle

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups.store import queues as module
from fastimd.groups.store.keyspace import Keyspace
from fastimd.groups.store.queues import Batch, Found, Queues, Turn, Waiting, part_of
from fastimd.redis import scripts
from fastimd.redis.clock import RedisClock
from fastimd.redis.scripts import Script

EVERY_REDIS = True

LIST, TOLD, OUT = "gml:1", "fastimd:told:1", "fastimd:out:1"
LEASE = 20.0
HOUR = 3_600_000


class _Heard:
    """In place of an appender: nothing was heard."""

    @staticmethod
    def heard(_channel: bytes) -> int:
        return 0


class Client:
    """In place of the daemon's client, over redis-py."""

    appender = _Heard()

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.clock = RedisClock()

    def send_script(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Sent:
        found: Any = self._redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]
        return Sent(found)


def config(queue: int = 1000, longest: int = 0, events: tuple[str, ...] = ("message",)) -> Config:
    """The settings that matter here."""
    given = Config()
    hooks = replace(given.hooks, webhook_events=events, webhook_queue=queue)
    return replace(
        given, hooks=hooks, group_message=replace(given.group_message, max_length=longest)
    )


def make(redis: Redis, **settings: Any) -> Queues:
    return Queues(Keyspace(Client(redis), Metrics()), config(**settings))  # type: ignore[arg-type]


def texts(turn: Turn) -> list[str]:
    """What messages say, or the body of an event."""
    if turn.event is not None:
        return [turn.event.body.decode()]
    return [] if turn.batch is None else [each.info for each in turn.batch.messages]


async def take(queues: Queues, told: Waiting | Batch | None = None, holder: str = "h") -> Turn:
    return await queues.take("1", holder, LEASE, None, told)


async def tell_all(queues: Queues, holder: str = "h") -> list[list[str]]:
    """Take and tell until nothing is left; what was in each request."""
    requests: list[list[str]] = []
    told: Waiting | Batch | None = None
    while True:
        turn = await take(queues, told, holder)
        told = turn.event or turn.batch
        if told is None:
            assert not turn.more
            return requests
        requests.append(texts(turn))


async def push(queues: Queues, body: str) -> list[str]:
    return await queues.push("1", "on_join", f"msg_{body}", body.encode())


async def test_messages_and_events_come_as_they_happened(redis: Redis) -> None:
    """Those of one moment too; what was there before the group was noted is not told."""
    queues = make(redis)
    append(redis, "before")
    await queues.note("1", None)
    append(redis, "a")
    append(redis, "b")
    await push(queues, "J")
    await push(queues, "K")
    append(redis, "c")
    await push(queues, "L")
    assert await tell_all(queues) == [["a", "b"], ["J"], ["K"], ["c"], ["L"]]
    assert await tell_all(queues) == []
    assert not redis.exists(OUT)


async def test_nothing_is_kept_of_a_group_without_messages(redis: Redis) -> None:
    queues = make(redis, events=("on_join",))
    await push(queues, "J")
    assert await tell_all(queues) == [["J"]]
    assert redis.keys() == []


async def test_who_holds_a_group_tells_it_alone(redis: Redis) -> None:
    """For the time of the lease, or until it is given back; then the other tells the same."""
    queues = make(redis)
    await push(queues, "J")
    first = await take(queues, holder="a")
    other = await take(queues, holder="b")
    assert LEASE - 2 < other.held_for <= LEASE
    assert (other.event, other.batch, other.waiting) == (None, None, 0)
    await queues.give("1", "b")
    assert (await take(queues, holder="b")).held_for
    await queues.give("1", "a")
    again = await take(queues, holder="b")
    assert again.event == first.event
    # What the first says of it now is of no weight.
    assert (await take(queues, first.event, holder="a")).held_for
    assert redis.xlen(OUT) == 1
    redis.hset(TOLD, "until", 1)
    last = await take(queues, again.event, holder="b")
    assert last.event is None
    assert redis.xlen(OUT) == 0


async def test_a_lease_that_has_ended_is_taken(redis: Redis) -> None:
    queues = make(redis)
    await push(queues, "J")
    first = await take(queues, holder="a")
    redis.hset(TOLD, "until", 1)
    assert (await take(queues, holder="b")).event == first.event
    assert (await take(queues, first.event, holder="a")).held_for
    assert redis.xlen(OUT) == 1
    # What was told need not be told again, whoever says so.
    await queues.give("1", "b")
    assert texts(await take(queues, first.event, holder="a")) == []
    assert redis.xlen(OUT) == 0


async def test_who_holds_a_group_no_longer_moves_nothing_back(redis: Redis) -> None:
    """It told a batch, stood still, and says so when another has told more."""
    queues = make(redis)
    await queues.note("1", None)
    append(redis, "a")
    first = (await take(queues, holder="x")).batch
    redis.hset(TOLD, "until", 1)
    append(redis, "b")
    assert await tell_all(queues, "y") == [["a"], ["b"]]
    turn = await take(queues, first, holder="x")
    assert texts(turn) == []
    assert await tell_all(queues, "y") == []


async def test_a_batch_that_is_told_again_is_the_same(redis: Redis) -> None:
    """Though more was said meanwhile; what was deleted meanwhile is not in it."""
    queues = make(redis)
    await queues.note("1", None)
    append(redis, "a")
    append(redis, "b")
    first = (await take(queues, holder="x")).batch
    append(redis, "c")
    await queues.give("1", "x")
    second = (await take(queues, holder="y")).batch
    assert first is not None
    assert first == second
    redis.lrem(LIST, 1, first.last.decode())
    third = (await take(queues, holder="y")).batch
    assert third is not None
    assert [each.info for each in third.messages] == ["a"]
    assert (third.before, first.before) == (first.before, third.before)
    turn = await take(queues, third, holder="y")
    assert texts(turn) == ["c"]


async def test_a_batch_that_was_deleted_holds_up_nothing(redis: Redis) -> None:
    queues = make(redis)
    await queues.note("1", None)
    append(redis, "a")
    assert texts(await take(queues)) == ["a"]
    redis.rpop(LIST)
    append(redis, "b")
    assert texts(await take(queues)) == ["b"]


async def test_batches_are_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """By messages and by bytes; one message comes, however long it is."""
    queues = make(redis)
    await queues.note("1", None)
    for number in range(7):
        append(redis, str(number))
    append(redis, "x" * 1000)
    append(redis, "y")
    monkeypatch.setattr(module, "BATCH_MESSAGES", 5)
    monkeypatch.setattr(module, "BATCH_BYTES", 200)
    assert [len(each) for each in await tell_all(queues)] == [3, 3, 1, 1, 1]
    redis.hset(TOLD, mapping={"ts": 0, "entry": ""})
    monkeypatch.setattr(module, "BATCH_BYTES", 10_000)
    assert [len(each) for each in await tell_all(queues)] == [5, 4]


async def test_the_oldest_are_dropped_when_there_are_too_many(redis: Redis) -> None:
    queues = make(redis, queue=3)
    dropped = [await push(queues, body) for body in "JKLMN"]
    assert dropped == [[], [], [], ["on_join"], ["on_join"]]
    assert await tell_all(queues) == [["L"], ["M"], ["N"]]


async def test_what_is_too_old_is_dropped(redis: Redis) -> None:
    """However much it is; what is not is told."""
    queues = make(redis)
    now = int(redis.time()[0]) * 1000
    for number in range(1500):
        redis.xadd(OUT, {"type": "on_leave", "body": "old"}, id=f"{now - 25 * HOUR}-{number + 1}")
    redis.xadd(OUT, {"type": "on_leave", "id": "i", "body": "J", "after": 0}, id=f"{now - HOUR}-1")
    turn = await take(queues)
    assert (turn.more, turn.event) == (True, None)
    dropped = list(turn.dropped)
    turn = await take(queues)
    dropped += turn.dropped
    assert dropped == ["on_leave"] * 1500
    assert texts(turn) == ["J"]
    assert 3500 < turn.age < 3700


async def test_messages_that_were_trimmed_are_known_to_be(redis: Redis) -> None:
    """Once; and not while the list is long enough."""
    queues = make(redis, longest=3)
    await queues.note("1", None)
    for text in "abc":
        append(redis, text, longest=3)
    assert await tell_all(queues) == [["a", "b", "c"]]
    for text in "de":
        append(redis, text, longest=3)
    assert not (await take(queues)).is_gap
    await queues.give("1", "h")
    for text in "fghi":
        append(redis, text, longest=3)
    turn = await take(queues)
    assert turn.is_gap
    assert texts(turn) == ["g", "h", "i"]
    assert not (await take(queues)).is_gap


async def test_a_foreign_time_at_the_start_of_a_trimmed_list(redis: Redis) -> None:
    """It is no measure of what was told."""
    queues = make(redis, longest=2)
    await queues.note("1", None)
    append(redis, "a", longest=2)
    assert await tell_all(queues) == [["a"]]
    later = int(redis.time()[0]) * 1000 + HOUR
    redis.delete(LIST)
    redis.rpush(LIST, json.dumps({"groupId": "1", "userId": "j", "info": "f", "ts": later}))
    await trio.sleep(0.03)  # the first message of a list is so far ahead of the clock
    append(redis, "b", longest=2)
    assert (await tell_all(queues))[-1][-1] == "b"
    redis.rpop(LIST)
    await trio.sleep(0.03)
    append(redis, "c", longest=3)
    assert (await tell_all(queues))[-1][-1] == "c"


async def test_messages_of_a_foreign_time_are_told_once(redis: Redis) -> None:
    """They hide none of the later ones; what is no message is passed over."""
    queues = make(redis)
    await queues.note("1", None)
    append(redis, "a")
    now = int(redis.time()[0]) * 1000
    redis.rpush(LIST, json.dumps({"groupId": "1", "userId": "j", "info": "f", "ts": now + HOUR}))
    redis.rpush(LIST, "garbage")
    append(redis, "b")
    assert await tell_all(queues) == [["a", "f", "b"]]
    append(redis, "c")
    redis.rpush(LIST, json.dumps({"groupId": "1", "userId": "j", "info": "g", "ts": now + HOUR}))
    assert await tell_all(queues) == [["c", "g"]]
    append(redis, "d")
    redis.rpush(LIST, "garbage")
    assert await tell_all(queues) == [["d"]]


async def test_what_redis_lost_goes_on_where_the_daemon_knows(redis: Redis) -> None:
    """Where it knows nothing, after the newest message."""
    queues = make(redis)
    known = await queues.note("1", None)
    append(redis, "a")
    redis.delete(TOLD)
    turn = await queues.take("1", "h", LEASE, known)
    assert texts(turn) == ["a"]
    redis.delete(TOLD)
    assert await queues.note("1", known) == known
    assert texts(await take(queues)) == ["a"]
    redis.delete(TOLD)
    assert await tell_all(queues) == []


async def test_keys_of_other_types_and_values_of_others(redis: Redis) -> None:
    """An event is put beside a list that is none; a hash that others wrote holds nothing up."""
    queues = make(redis, events=("on_join",))
    redis.set(LIST, "no list")
    redis.hset(TOLD, mapping={"holder": "x", "until": "never", "ts": "y", "to": "z"})
    await push(queues, "J")
    assert await tell_all(queues) == [["J"]]
    redis.delete(LIST)
    queues = make(redis)
    redis.hset(TOLD, mapping={"ts": "y", "to": "z", "entry": "w"})
    append(redis, "a")
    assert await tell_all(queues) == []
    append(redis, "b")
    assert await tell_all(queues) == [["b"]]


async def test_keys_end_by_themselves(redis: Redis) -> None:
    """An hour after the last event would be too old."""
    queues = make(redis)
    await queues.register(["1"])
    await queues.note("1", None)
    await push(queues, "J")
    for key in redis.keys("fastimd:*"):
        assert 24 * HOUR < redis.pttl(key) <= 25 * HOUR, key


async def test_groups_are_swept_by_one_daemon_at_a_time(redis: Redis) -> None:
    """Each is found with when it was noted, and is forgotten unless it was noted again."""
    queues = make(redis)
    part = part_of("1")
    assert await queues.sweep(part, 12, 0) == []
    assert redis.keys() == []
    await queues.register(["1"])
    (found,) = await queues.sweep(part, 12, 0)
    assert found.group == "1"
    assert 0 <= found.idle < 5
    assert await queues.sweep(part, 12, 0) == []
    redis.zadd(f"fastimd:outgroups:{part}", {"": 1, "1": int(found.noted) - 60_000})
    (again,) = await queues.sweep(part, 12, 0)
    assert 59 < again.idle < 65
    await queues.unregister(found)
    assert redis.zcard(f"fastimd:outgroups:{part}") == 2
    await queues.unregister(again)
    redis.zadd(f"fastimd:outgroups:{part}", {b"": 1, b"\xff": 1})
    assert await queues.sweep(part, 12, 0) == []


async def test_a_large_part_is_swept_bit_by_bit(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = make(redis)
    monkeypatch.setattr(module, "SWEPT", 10)
    part = part_of("1")
    groups = [str(n) for n in range(1000) if part_of(str(n)) == part]
    await queues.register(groups)
    seen: set[str] = set()
    for dice in range(200):
        redis.zadd(f"fastimd:outgroups:{part}", {"": 1})
        found = await queues.sweep(part, 12, dice)
        assert len(found) <= 10
        seen.update(each.group for each in found)
    assert seen == set(groups)


def test_parts_are_even() -> None:
    counts = [0] * module.PARTS
    for number in range(16_000):
        counts[part_of(f"group {number}")] += 1
    assert min(counts) > 800


# --- at random


@pytest.mark.parametrize("seed", range(8))
async def test_everything_is_told_in_order_whatever_happens(redis: Redis, seed: int) -> None:
    """Daemons that take, tell, lose answers, stand still and are killed, at random.

    The backend may hear something again, with the same id, but nothing for the first time after
    something later.
    """
    dice = random.Random(seed)
    queues = make(redis)
    await queues.note("1", None)
    happened: list[str] = []
    heard: list[tuple[str, ...]] = []
    bodies: dict[str, tuple[str, ...]] = {}
    holding: dict[str, Waiting | Batch | None] = {}
    settle(redis, 1)
    for step in range(150):
        holder = dice.choice("abc")
        match dice.choice(["say", "say", "push", "take", "take", "tell", "lose", "kill", "lapse"]):
            case "say":
                append(redis, f"m{step}")
                happened.append(f"m{step}")
            case "push":
                await push(queues, f"E{step}")
                happened.append(f"E{step}")
            case "take":
                turn = await take(queues, holder=holder)
                if not turn.held_for:
                    holding[holder] = turn.event or turn.batch
            case "tell" | "lose" as what:
                told = holding.pop(holder, None)
                if told is None:
                    continue
                number, said = identity(told)
                assert bodies.setdefault(number, said) == said
                heard.append(said)
                if what == "tell":
                    turn = await take(queues, told, holder=holder)
                    if not turn.held_for:
                        holding[holder] = turn.event or turn.batch
            case "kill":
                holding.pop(holder, None)
            case "lapse" if redis.hexists(TOLD, "until"):
                redis.hset(TOLD, "until", 1)
    redis.hset(TOLD, "until", 1)
    heard += [tuple(each) for each in await tell_all(queues, "last")]
    first_heard = list(dict.fromkeys(each for said in heard for each in said))
    assert first_heard == happened
    assert not redis.exists(OUT)


def identity(told: Waiting | Batch) -> tuple[str, tuple[str, ...]]:
    """The id under which something is told, and what that is."""
    if isinstance(told, Waiting):
        return told.id, (told.body.decode(),)
    said = tuple(each.info for each in told.messages)
    return f"{told.before} {told.newest}", said


async def test_giving_back_what_was_not_taken_is_nothing(redis: Redis) -> None:
    queues = make(redis)
    await queues.give("1", "h")
    assert redis.keys() == []
    assert run(redis, scripts.GIVE, [LIST, TOLD], "h") == 0
    await queues.unregister(Found("1", b"7", 0))
