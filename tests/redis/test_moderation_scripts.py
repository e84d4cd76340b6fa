"""The scripts of moderation, each run by redis-py on every real redis-server of the machine."""

from __future__ import annotations

import json
import random
import time
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError

from fastimd.base import codec
from fastimd.redis import scripts
from fastimd.redis.scripts import Script

LIST, FLOOR, LIFE, REMOVALS = "gml:1", "fastimd:floor:1", "fastimd:life:1", "fastimd:removals:1"
REPORTS, POLICY, ENDS = "fastimd:reports:1", "fastimd:policy:1", "fastimd:endings:1"
DELETING = [LIST, FLOOR, LIFE, REMOVALS, REPORTS]
EVENTS, TURN = "fastimd:events", "fastimd:turn:1:1:3"
EVERY_REDIS = True
MOST = 20


def run(redis: Redis, script: Script, keys: list[str], *arguments: object) -> Any:
    return redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]


def moderate(redis: Redis, *changes: tuple[str, object, str], most: int = MOST) -> int:
    """Change the policy; a change is a field, its seconds or "", and its value or ""."""
    given = [each for change in changes for each in change]
    event = '{"group":"1","kind":"moderation","act":"test","user":"3"'
    changed: int = run(redis, scripts.MODERATE, [LIST, POLICY, ENDS], EVENTS, event, most, *given)
    return changed


def ban(user: str, seconds: int) -> tuple[str, object, str]:
    return f"b:{user}", seconds, '"reason":"","by":""}'


def policy(redis: Redis) -> dict[str, str]:
    flat = iter(each.decode() for each in run(redis, scripts.POLICY, [LIST, POLICY]))
    return dict(zip(flat, flat, strict=True))


def events_of(redis: Any, key: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in redis.zrange(key, 0, -1)]


def listening(redis: Any) -> Any:
    listener = redis.pubsub()
    listener.subscribe(EVENTS)
    return listener


def heard(listener: Any) -> dict[str, Any]:
    """The next event."""
    while (told := listener.get_message(timeout=5)) is not None:
        if told["type"] == "message":
            event: dict[str, Any] = json.loads(told["data"])
            return event
    raise AssertionError("nothing was published")


def entry(user: str, ts: int, info: str = "hi", *, wrapped: bool = False) -> bytes:
    message = codec.message_prefix("1", user, info) + b"%d}" % ts
    return json.dumps(message.decode()).encode() if wrapped else message


def delete_of(redis: Redis, user: str, stop: object = "", part: int = 500) -> list[int]:
    event = json.dumps({"group": "1", "user": user}, separators=(",", ":"))[:-1] + ',"ts":'
    found: list[int] = run(
        redis, scripts.DELETE_OF, DELETING, user, stop, part, 2**52, EVENTS, event, 1000
    )
    return found


# The policy


def test_each_change_raises_the_version_and_is_told(redis: Redis) -> None:
    """With what it was before, so that who misses one knows it; a change of nothing is not told."""
    listener = listening(redis)
    assert moderate(redis, ("slow", "", "5"), ban("3", 0)) == 2
    first = heard(listener)
    assert (first["was"], first["until"]) == (0, 0)
    assert first["changes"] == [["slow", "5"], ["b:3", policy(redis)["b:3"]]]
    assert moderate(redis, ("slow", "", "5"), ban("3", 0)) == 0
    assert moderate(redis, ("slow", "", "")) == 1
    second = heard(listener)
    assert (
        second["was"]
        == first["version"]
        == int(policy(redis)["v"]) - (second["version"] - first["version"])
    )
    assert second["version"] > first["version"]
    assert second["changes"] == [["slow", ""]]


def test_a_policy_without_acts_is_gone(redis: Redis) -> None:
    """With all its keys, and its version is 0."""
    listener = listening(redis)
    moderate(redis, ban("3", 60))
    assert moderate(redis, ("b:3", "", "")) == 1
    assert not redis.keys("fastimd:*")
    heard(listener)
    assert heard(listener)["version"] == 0


def test_a_policy_lives_as_long_as_its_longest_act(redis: Redis) -> None:
    """Without end while one has none."""
    moderate(redis, ban("3", 60), ban("4", 600))
    assert 600_000 < redis.pttl(POLICY) <= 660_000
    assert 600_000 < redis.pttl(ENDS) <= 660_000
    moderate(redis, ("mod:5", "", "1"))
    assert redis.ttl(POLICY) == redis.ttl(ENDS) == -1
    moderate(redis, ("mod:5", "", ""))
    assert 600_000 < redis.pttl(POLICY) <= 660_000
    moderate(redis, ban("4", 0))
    assert redis.ttl(POLICY) == -1
    assert json.loads(policy(redis)["b:4"])["until"] == 0


def test_what_has_ended_is_dropped_and_told(redis: Redis) -> None:
    """By the next change, and counts as no field then."""
    moderate(redis, ban("3", 60), ban("4", 60), most=2)
    redis.zadd(ENDS, {"b:3": 1})
    assert moderate(redis, ban("5", 60), most=2) == 1
    assert policy(redis).keys() == {"v", "b:4", "b:5"}
    assert redis.zrange(ENDS, 0, -1) == [b"b:4", b"b:5"]


@pytest.mark.parametrize("seconds", [1, 60])
def test_an_act_ends_by_the_clock_of_redis(redis: Redis, seconds: int) -> None:
    """So many seconds later."""
    before = time.time()
    moderate(redis, ban("3", seconds))
    until = json.loads(policy(redis)["b:3"])["until"]
    assert abs(until / 1000 - before - seconds) < 5
    assert redis.zscore(ENDS, "b:3") == until


def test_too_many_fields_change_nothing(redis: Redis) -> None:
    """But those that are there can be changed, also when there are more than may be."""
    moderate(redis, *(ban(str(number), 0) for number in range(MOST)))
    before = policy(redis)
    assert len(before) == MOST + 1  # with the version
    assert moderate(redis, ban("new", 0)) == -1
    assert policy(redis) == before
    assert moderate(redis, ban("3", 60)) == 1
    assert moderate(redis, ban("4", 60), most=3) == 1


class PolicyModel:
    """What moderate.lua does with fields: their values, or the seconds of those that end."""

    def __init__(self) -> None:
        self.fields: dict[str, str | int] = {}
        self.ended: set[str] = set()

    def change(self, changes: list[tuple[str, Any, str]], most: int) -> tuple[int, list[str]]:
        """What the script returns, and the fields that differ by it, first those that ended."""
        fields = self.fields
        added = sum(value != "" and field not in fields for field, _, value in changes)
        if added and len(fields) - len(self.ended) + added > most:
            return -1, []
        ended = sorted(self.ended)
        self.ended.clear()
        for field in ended:
            del fields[field]
        differ = []
        for field, seconds, value in changes:
            new = seconds or ('{"until":0,' + value if seconds == 0 and value else value)
            if new != fields.get(field, ""):
                differ.append(field)
            fields[field] = new
            if not value:
                del fields[field]
        return len(differ), ended + differ


def changes_by(dice: random.Random, step: int) -> list[tuple[str, Any, str]]:
    """One to three changes; an act with an end has one of its own."""
    chosen: list[tuple[str, Any, str]] = []
    for field in dice.sample(["b:3", "b:4", "m:3", "m:5", "slow", "all"], dice.randint(1, 3)):
        if dice.random() < 0.35:
            chosen.append((field, "", ""))
        elif ":" in field:
            chosen.append((field, dice.choice([0, 1000 + step]), '"by":"x"}'))
        else:
            chosen.append((field, "", dice.choice("12")))
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_a_policy_is_changed_as_in_the_model(redis: Redis, seed: int) -> None:
    """Fields, what is returned and told, when acts end and how long the keys live."""
    dice, model, listener = random.Random(seed), PolicyModel(), listening(redis)
    version = 0
    for step in range(120):
        lasting = [field for field, value in model.fields.items() if isinstance(value, int)]
        if lasting and dice.random() < 0.2:
            over = dice.choice(lasting)
            redis.zadd(ENDS, {over: 1})
            model.ended.add(over)
        changes = changes_by(dice, step)
        changed, differ = model.change(changes, 4)
        began = int(time.time() * 1000)
        assert moderate(redis, *changes, most=4) == changed
        there = policy(redis)
        if differ:
            event = heard(listener)
            assert [field for field, _ in event["changes"]] == differ
            assert all(
                there.get(field, "") == value for field, value in dict(event["changes"]).items()
            )
            assert (event["was"], event["version"]) == (version, int(there.get("v", 0)))
            assert event["version"] > version or not there
            acts = [seconds for field, seconds, value in changes if value and seconds != ""]
            if any(acts[-1:]):
                assert abs(event["until"] - began - acts[-1] * 1000) < 5000
            else:
                assert event["until"] == 0
            version = event["version"]
        assert int(there.pop("v", 0)) == version
        assert there.keys() == model.fields.keys()
        lives = [value for value in model.fields.values() if isinstance(value, int)]
        for field, value in model.fields.items():
            if isinstance(value, int):
                assert abs(json.loads(there[field])["until"] - began - value * 1000) < 120_000
            else:
                assert there[field] == value
        if not model.ended:
            assert redis.zcard(ENDS) == len(lives)
        for key in (POLICY, ENDS) if len(lives) == len(there) > 0 else ():
            assert abs(redis.pttl(key) - max(lives) * 1000 - 60_000) < 120_000
        if len(lives) < len(there):
            assert redis.ttl(POLICY) == -1
            assert redis.ttl(ENDS) in (-1, -2)


def test_a_key_of_another_type_is_refused_before_anything_is_written(redis: Redis) -> None:
    """As an error that names the type."""
    redis.set(POLICY, "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        moderate(redis, ban("3", 60))
    assert redis.keys("fastimd:*") == [POLICY.encode()]


# Slow mode


def test_a_turn_comes_once_in_so_many_seconds(redis: Redis) -> None:
    """The same nonce is the same message; a clock that steps back locks nobody out."""

    def take(seconds: int, nonce: str = "") -> int:
        wait: int = run(redis, scripts.SLOW, [TURN], seconds, nonce)
        return wait

    assert take(60, "n") == 0
    assert 0 < take(60) <= 60_000
    assert take(60, "n") == 0
    assert 0 < take(60, "other") <= 60_000
    assert 0 < redis.pttl(TURN) <= 60_000
    redis.set(TURN, f"{int(time.time() * 1000) + 10**9}:")
    assert take(60) == 0
    redis.set(TURN, f"{int(time.time() * 1000) - 5000}:")
    assert take(5) == 0


# Deleting


@pytest.mark.parametrize("part", [1, 3, 7, 500])
@pytest.mark.parametrize("seed", range(6))
def test_all_messages_of_a_user_are_deleted_while_others_write_and_trim(
    redis: Redis, part: int, seed: int
) -> None:
    """As a model has it: those that were there at the start and still are; and no others."""
    rng = random.Random(seed * 1000 + part)
    users = ["3", 'a"b\\', "é3", "30", "13"]
    target = rng.choice(users[:3])
    ts = 1_000
    model: list[tuple[str, bytes]] = []

    def say() -> None:
        nonlocal ts
        ts += rng.randrange(1, 3)
        user = rng.choice(users)
        text = rng.choice(["hi", '"userId":"3"', "x" * 100, "3"])
        stored = entry(user, ts, text, wrapped=rng.random() < 0.2)
        model.append((user, stored))
        redis.rpush(LIST, stored)

    for _ in range(40):
        say()
    old = {each for user, each in model if user == target}
    deleted, stop = 0, -1
    while stop:
        stop, count = delete_of(redis, target, "" if stop < 0 else stop, part)
        deleted += count
        for _ in range(rng.randrange(3)):
            if rng.random() < 0.5:
                say()
            else:
                trimmed = redis.lpop(LIST)
                model[:] = [each for each in model if each[1] != trimmed]
    assert delete_of(redis, target, stop, part) == [0, 0]
    left = redis.lrange(LIST, 0, -1)
    assert left == [each for user, each in model if each not in old]
    assert 0 < deleted <= len(old)
    told = events_of(redis, REMOVALS)
    assert sum(len(each["gone"]) for each in told) == deleted
    for each in told:
        assert each["since"] == min(each["gone"])
        assert each["until"] == max(each["gone"])
        assert each["user"] == target


def test_a_deletion_of_many_explains_each_of_them_and_no_other(redis: Redis) -> None:
    """Who comes back from a deleted message goes on; from one that was lost it does not."""
    now = int(time.time() * 1000)
    redis.rpush(LIST, *(entry("34"[number % 2], now + number) for number in range(10)))

    def stand(epoch: str = "", since: object = "") -> Any:
        keys = [LIST, FLOOR, LIFE, REMOVALS]
        return run(redis, scripts.STAND, keys, 0, "id", 1000, epoch, since, 100, 10**6)

    epoch = stand()[0]
    assert delete_of(redis, "3") == [0, 5]
    for number in range(10):
        found = stand(epoch, now + number)
        assert found[4] == 1, number
        assert [json.loads(each)["ts"] for each in found[5]] == [
            now + later for later in range(number + 1, 10) if later % 2
        ]
        assert len(found[6]) == 1
    redis.lrem(LIST, 1, entry("4", now + 5))  # type: ignore[arg-type]
    assert stand(epoch, now + 5)[4] == 0


@pytest.mark.parametrize("part", [1, 500])
def test_empty_entries_of_others_stay(redis: Redis, part: int) -> None:
    """They are no messages, and no reason to delete one more or less."""
    others = [entry("4", ts) for ts in range(1000, 1006)]
    redis.rpush(LIST, b"", *others, b"", entry("3", 1006))
    assert delete_of(redis, "3", part=part)[1] == 1
    assert sorted(redis.lrange(LIST, 0, -1)) == sorted([b"", *others, b""])


class Scene(NamedTuple):
    """A group's keys before somebody's message is deleted, and the latest ts that is believed."""

    entries: list[bytes]
    target: int
    ts: int
    floor: int
    life: str
    removals: dict[bytes, int]
    believed: int

    def set_up(self, redis: Redis) -> None:
        redis.delete(*DELETING)
        redis.rpush(LIST, *self.entries)
        if self.floor:
            redis.set(FLOOR, self.floor)
        if self.life:
            redis.set(LIFE, self.life)
        if self.removals:
            redis.zadd(REMOVALS, cast(Any, self.removals))
        redis.zadd(REPORTS, {"before": self.ts - 1, "one": self.ts, "behind": self.ts + 1})


def scene(dice: random.Random, now: int) -> Scene:
    """The message of user 3 among those of others; ``ts`` are old, new, ahead of the clock, or
    so far that nobody gave them."""
    ts = now + dice.choice([-(10**6), -2500, -1500, 0, 1500, 2500, 30_000, 10**9, 10**9])
    others = [
        now + dice.choice([7 - 10**6, -10, 40_000, 7 + 10**9]) for _ in range(dice.randint(0, 3))
    ]
    entries = [entry("4", other + number) for number, other in enumerate(others)]
    entries += dice.choice([[], [b""], [b"none"]])
    at = dice.randint(0, len(entries))
    entries.insert(at, entry("3", ts, wrapped=dice.random() < 0.5))
    before = now + dice.choice([-5000, 20_000])
    return Scene(
        entries,
        at,
        ts,
        dice.choice([0, 0, now + 1000, now + 20_000]),
        dice.choice(["", "lid:0:0", "lid:0:5", "tid:3:4", f"lid:0:{before}"]),
        dice.choice([{}, {b'{"user":"4","ts":9}': before}]),
        dice.choice([0, ts]),
    )


def delete_by(way: str, redis: Redis, made: Scene) -> Any:
    """Delete the message as its user or a moderator does; returns what the script does."""
    known = made.entries[made.target] if way.endswith("entry") else b""
    if way == "messages of":
        event = '{"group":"1","user":"3","ts":'
        arguments: tuple[Any, ...] = ("3", "", 500, made.believed, EVENTS, event, 1000)
        return run(redis, scripts.DELETE_OF, DELETING, *arguments)
    if way == "recall":
        event = f'{{"group":"1","user":"3","ts":{made.ts}}}'
        arguments = ("3", made.ts, "", made.believed, 10**10, EVENTS, event, 1000)
        return run(redis, scripts.RECALL, DELETING[:4], *arguments)
    arguments = (made.ts, known, made.believed, EVENTS, '{"group":"1","user":', 1000)
    return run(redis, scripts.DELETE, DELETING, *arguments)


def left_by_deleting(redis: Any) -> tuple[Any, ...]:
    """What is in a group's keys, but for the events. Where empty entries stand does not matter."""
    stamps = [int(stamp) for _, stamp in redis.zrange(REMOVALS, 0, -1, withscores=True)]
    life = (redis.get(LIFE) or b"-:0:0").decode().split(":")
    numbers = [*stamps, *map(int, life[1:]), int(redis.get(FLOOR) or 0)]
    assert 900 < redis.ttl(REMOVALS) <= 1000
    entries = redis.lrange(LIST, 0, -1)
    return [each for each in entries if each], len(entries), life[0], numbers


@pytest.mark.parametrize("way", ["ts", "entry", "messages of"])
@pytest.mark.parametrize("seed", range(60))
def test_a_deletion_leaves_what_a_recall_does(redis: Redis, seed: int, way: str) -> None:
    """The list, its floor, its life and the stamps of what is remembered; and it is told."""
    made = scene(random.Random(seed), int(time.time() * 1000))
    made.set_up(redis)
    assert delete_by("recall", redis, made) == b"done"
    *rest, numbers = left_by_deleting(redis)
    made.set_up(redis)
    listener = listening(redis)
    assert delete_by(way, redis, made) == ([0, 1] if way == "messages of" else [b"done", b"3"])
    event = heard(listener)
    assert (event["user"], event.get("gone", [event["ts"]])) == ("3", [made.ts])
    assert event in events_of(redis, REMOVALS)
    assert redis.zrange(REPORTS, 0, -1) == [b"before", b"behind"]
    *left, its_numbers = left_by_deleting(redis)
    assert left == rest
    assert all(abs(a - b) < 900 for a, b in zip(its_numbers, numbers, strict=True))


def test_of_two_that_are_alike_one_is_deleted_by_its_ts(redis: Redis) -> None:
    """The last one; and what is given as an entry and is not there deletes nothing."""
    alike = entry("3", 1000)
    redis.rpush(LIST, alike, entry("4", 1000), alike, entry("4", 1001))
    for rest in ([alike, entry("4", 1000), entry("4", 1001)], [entry("4", 1000), entry("4", 1001)]):
        arguments = (1000, alike, 0, EVENTS, '{"group":"1","user":', 9)
        assert run(redis, scripts.DELETE, DELETING, *arguments) == [b"done", b"3"]
        assert redis.lrange(LIST, 0, -1) == rest
    assert run(redis, scripts.DELETE, DELETING, *arguments) == [b"missing"]
    assert len(events_of(redis, REMOVALS)) == 1  # both say the same


def test_deleting_all_that_there_is_leaves_a_list_that_is_empty_as_it_should_be(
    redis: Redis,
) -> None:
    """The next message does not get a ts that was given, and the life goes on."""
    redis.rpush(LIST, entry("3", int(time.time() * 1000) + 50))
    keys = [LIST, FLOOR, LIFE, REMOVALS]
    epoch = run(redis, scripts.STAND, keys, 0, "id", 1000, "", "", 100, 10**6)[0]
    assert delete_of(redis, "3") == [0, 1]
    assert not redis.exists(LIST)
    assert int(redis.get(FLOOR) or 0) > time.time() * 1000 - 1000
    assert run(redis, scripts.STAND, keys, 0, "new", 1000, "", "", 100, 10**6)[0] == epoch


IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=8))
def test_a_message_of_anybody_is_deleted_by_its_ts(redis_server: str, users: list[str]) -> None:
    """Whatever its author is called; its reports go with it."""
    with Redis.from_url(redis_server) as redis:
        redis.flushall()
        now = int(time.time() * 1000) - 100
        for number, user in enumerate(users):
            redis.rpush(LIST, entry(user, now + number, wrapped=number % 2 == 1))
            redis.zadd(REPORTS, {f"report {number}": now + number})
        for number, user in enumerate(users):
            found = run(
                redis,
                scripts.DELETE,
                DELETING,
                now + number,
                "",
                0,
                EVENTS,
                '{"group":"1","user":',
                9,
            )
            assert found == [b"done", user.encode()]
            again = run(
                redis,
                scripts.DELETE,
                DELETING,
                now + number,
                "",
                0,
                EVENTS,
                '{"group":"1","user":',
                9,
            )
            assert again == [b"elsewhere"]
        assert not redis.exists(LIST, REPORTS)
        told = events_of(redis, REMOVALS)
        assert sorted((each["user"], each["ts"]) for each in told) == sorted(
            (user, now + number) for number, user in enumerate(users)
        )


# Reports


def report(redis: Redis, ts: int, by: str, most: int = 1000, known: bytes = b"") -> list[bytes]:
    arguments = (ts, known, 0, by, '"reason":"rude"}', most, 60)
    found: list[bytes] = run(redis, scripts.REPORT, [LIST, FLOOR, REPORTS], *arguments)
    return found


def test_a_message_that_was_found_is_reported_while_it_is_there(redis: Redis) -> None:
    """The daemon may have looked for it in the whole list."""
    there, gone = entry("3", 1000), entry("3", 1001)
    redis.rpush(LIST, entry("4", 5000), there)
    assert report(redis, 1001, "x", known=gone) == [b"missing"]
    assert not redis.exists(REPORTS)
    assert report(redis, 1000, "x", known=there) == [b"done", b"3"]
    assert report(redis, 1000, "x", known=there) == [b"known"]


def test_a_user_reports_a_message_once(redis: Redis) -> None:
    """One that is there; the newest messages' reports are kept."""
    now = int(time.time() * 1000)
    redis.rpush(LIST, *(entry("3", now + number) for number in range(5)))
    assert report(redis, now, 'x"') == [b"done", b"3"]
    assert report(redis, now, 'x"') == [b"known"]
    assert report(redis, now, "y") == [b"done", b"3"]
    assert report(redis, now + 99, "y") == [b"elsewhere"]
    assert 0 < redis.ttl(REPORTS) <= 60
    for number in range(1, 5):
        report(redis, now + number, "y", most=3)
    kept = events_of(redis, REPORTS)
    assert [each["ts"] - now for each in kept] == [2, 3, 4]
    assert {each["by"] for each in kept} == {"y"}
    assert abs(kept[0]["at"] - time.time() * 1000) < 5000
