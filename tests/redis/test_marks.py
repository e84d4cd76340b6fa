"""Read marks and what is behind them: the scripts, each run on every real redis-server.

What is unread is compared with a model that reads the whole list.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from redis import Redis

from fastimd.base import codec
from fastimd.redis import scripts
from fastimd.redis.scripts import Script

LIST, GROUPS, MARKS = "gml:1", "ugs:3", "fastimd:read:3"
MINUTE = 60_000
LOOK = 64
"""Entries that the scripts look at together."""
KEPT, MOST = 100, 10
EVERY_REDIS = True


def run(redis: Redis, script: Script, keys: list[str], *arguments: object) -> Any:
    return redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]


def move(redis: Redis, group: str, ts: int) -> int:
    arguments = (codec.plain_unless_quoted(group), ts, KEPT, MOST)
    is_new: int = run(redis, scripts.MARK, [GROUPS, MARKS], *arguments)
    return is_new


def marks(redis: Redis, *groups: str) -> list[int]:
    names = map(codec.plain_unless_quoted, groups)
    found: list[int] = run(redis, scripts.MARKS, [GROUPS, MARKS], KEPT, *names)
    return found


def unread(redis: Redis, mark: int, believed: int = 0) -> int:
    count: int = run(redis, scripts.UNREAD, [LIST], mark, believed or now(redis) + MINUTE)
    return count


# The marks of a user


def test_a_mark_moves_forward_alone(redis: Redis) -> None:
    """An earlier one changes nothing, and each group has its own."""
    assert [move(redis, "1", ts) for ts in (5, 9, 7)] == [1, 0, 0]
    move(redis, "2", 3)
    assert marks(redis, "1", "2", "3") == [9, 3, 0]


@pytest.mark.parametrize("ts", [1, 1_764_338_400_000, codec.MAX_TS - 1, codec.MAX_TS])
def test_a_mark_is_exact(redis: Redis, ts: int) -> None:
    """To the millisecond, up to the latest ts that there can be."""
    move(redis, "1", ts)
    assert marks(redis, "1") == [ts]


@pytest.mark.parametrize("group", ["1", "世界", '"1"', 'a"b\\c', "a b", "dm#ann,bob", "{x}"])
def test_a_group_of_any_form_has_a_mark(redis: Redis, group: str) -> None:
    """One in quotes is another than one without, as in the set of groups."""
    move(redis, group, 7)
    assert marks(redis, group, "other") == [7, 0]
    run(redis, scripts.JOIN, [GROUPS], codec.plain_unless_quoted(group), "", "e", "", 0)
    assert redis.zrange(MARKS, 0, -1) == list(redis.smembers(GROUPS))


def test_marks_live_as_long_as_messages(redis: Redis) -> None:
    """From when one was moved, or asked for, last."""
    for touch in (lambda: move(redis, "1", 5), lambda: marks(redis, "2")):
        redis.expire(MARKS, 1)
        touch()
        assert KEPT - 10 < int(redis.ttl(MARKS)) <= KEPT


def test_no_more_marks_than_may_be(redis: Redis) -> None:
    """The oldest go."""
    for number in range(1, MOST + 4):
        move(redis, str(number), 100 + number)
    assert redis.zcard(MARKS) == MOST
    assert marks(redis, "3", "4", str(MOST + 3)) == [0, 104, MOST + 103]


def test_marks_of_another_type_are_none(redis: Redis) -> None:
    """They are read as none, the next one begins anew, and the groups do not suffer."""
    redis.sadd(GROUPS, "1", "2")
    for value in ("text", "set"):
        redis.delete(MARKS)
        redis.sadd(MARKS, "x") if value == "set" else redis.set(MARKS, "x")
        assert marks(redis, "1", "2") == [0, 0]
        assert run(redis, scripts.LEAVE, [GROUPS, MARKS], value, value, "e", "event") == 0
        assert redis.type(MARKS) == (b"set" if value == "set" else b"string")
        move(redis, "2", 5)
        assert marks(redis, "1", "2") == [0, 5]
    redis.set(MARKS, "x")
    assert run(redis, scripts.LEAVE, [GROUPS, MARKS], "1", '"1"', "e", "event") == 1
    assert redis.smembers(GROUPS) == {b"2"}


@pytest.mark.parametrize("score", ["inf", "-inf", "-1", "1.5", str(2**53), "1e300"])
def test_a_mark_that_is_no_ts_is_none(redis: Redis, score: str) -> None:
    """As somebody else may have written it."""
    redis.zadd(MARKS, {"1": score, "2": 7})
    assert marks(redis, "1", "2") == [0, 7]


def test_a_mark_leaves_with_the_group(redis: Redis) -> None:
    """Whichever server has written the group; those of others stay."""
    redis.sadd(GROUPS, "1", '"2"', "3")
    for group in "123":
        move(redis, group, 5)
    for group in "12":
        assert run(redis, scripts.LEAVE, [GROUPS, MARKS], group, codec.wrap(group), "e", "x") == 1
    assert marks(redis, "1", "2", "3") == [0, 0, 5]


# What is unread


def now(redis: Redis) -> int:
    seconds, microseconds = redis.time()
    return int(seconds * 1000 + microseconds // 1000)


def message(ts: int, *, wrapped: bool = False) -> bytes:
    plain = codec.message_prefix("1", "4", "hi") + b"%d}" % ts
    return json.dumps(plain.decode()).encode() if wrapped else plain


ODD = [
    b"",
    b"garbage",
    b'{"ts":1',
    b"[1]",
    b'"{}"',
    b'{"groupId":"1","userId":"4","info":"x","ts":-1}',
    b'{"groupId":"1","userId":"4","info":"x","ts":1.5}',
    b'{"groupId":"1","userId":"4","info":"x","ts":99999999999999999}',
]
"""Entries that are no messages."""


class Written:
    """A list as many hands have left it; ``believed`` has a ts for each entry, None where none
    can be believed."""

    def __init__(self, redis: Redis, seed: int) -> None:
        self.redis = redis
        self.chance = random.Random(seed)
        self.entries: list[bytes] = []
        self.believed: list[int | None] = []
        self.ts = now(redis) - 1_000_000

    def grow(self, count: int) -> None:
        for _ in range(count):
            for entry, ts in self._next():
                self.entries.append(entry)
                self.believed.append(ts)

    def _next(self) -> list[tuple[bytes, int | None]]:
        kind = self.chance.random()
        if kind < 0.75:
            self.ts += self.chance.choice((1, 1, 2, 50))
            return [(message(self.ts, wrapped=kind < 0.2), self.ts)]
        length = self.chance.choice((1, 1, 1, 3, LOOK + 1, 2 * LOOK))
        if kind < 0.85:
            return [(self.chance.choice(ODD), None)] * length
        ahead = now(self.redis) + self.chance.choice((2 * MINUTE, 10**12))
        return [(message(ahead + number), None) for number in range(length)]

    def lose(self) -> None:
        """Recall some, trim some, or purge."""
        kind = self.chance.random()
        if kind < 0.1:
            self.entries, self.believed = [], []
        elif kind < 0.4:
            cut = self.chance.randint(0, len(self.entries))
            self.entries, self.believed = self.entries[cut:], self.believed[cut:]
        else:
            kept = [self.chance.random() < 0.8 for _ in self.entries]
            both = zip(self.entries, self.believed, kept, strict=True)
            left = [(entry, ts) for entry, ts, stays in both if stays]
            self.entries = [entry for entry, _ in left]
            self.believed = [ts for _, ts in left]

    def store(self) -> None:
        self.redis.delete(LIST)
        if self.entries:
            self.redis.rpush(LIST, *self.entries)

    def unread(self, mark: int) -> int:
        """As the model counts: from the first one on that is believed and later."""
        for index, ts in enumerate(self.believed):
            if ts is not None and ts > mark:
                return len(self.entries) - index
        return 0

    def marks(self) -> list[int]:
        """Marks at, before and after messages, of those that are gone, and beyond both ends."""
        known = [ts for ts in self.believed if ts is not None]
        chosen = self.chance.sample(known, min(12, len(known)))
        beyond = [1, self.ts - 5000, self.ts, self.ts + 1, self.ts + 10**6]
        return [each + offset for each in chosen for offset in (-1, 0, 1)] + beyond


@pytest.mark.parametrize("seed", range(25))
def test_unread_is_what_a_reader_of_the_list_would_count(redis: Redis, seed: int) -> None:
    """Whoever wrote the list, whatever was recalled, trimmed or purged, wherever the mark is."""
    written = Written(redis, seed)
    for _ in range(6):
        written.grow(written.chance.choice((1, 5, 40)))
        written.store()
        for mark in written.marks():
            assert unread(redis, mark) == written.unread(mark), (mark, written.believed)
        written.lose()
        written.store()
        for mark in written.marks():
            assert unread(redis, mark) == written.unread(mark), (mark, written.believed)


@pytest.mark.parametrize(
    ("entries", "mark", "count"),
    [
        ("", 5, 0),
        ("1 2 3", 0, 3),
        ("1 2 3", 1, 2),
        ("1 2 3", 3, 0),
        ("1 2 3", 9, 0),
        ("1 3 5", 2, 2),
        ("1 F 3", 1, 1),  # it came with what had been read
        ("1 2 F 3", 1, 3),
        ("1 2 F", 2, 0),
        ("1 2 F", 1, 2),
        ("F F 1", 0, 1),
        ("X 1 X 2 X", 1, 2),
        ("F X", 1, 0),
        ("1 " + "2 " * 20, 1, 20),  # of several servers
        ("1 " + "F " * 200, 1, 0),
        ("1 " + "X " * 200 + "2", 1, 1),
        ("1 " + "X " * 200 + "2", 2, 0),
    ],
)
def test_unread_of_a_list(redis: Redis, entries: str, mark: int, count: int) -> None:
    """By hand: F is a foreign message, X is none."""
    for number, each in enumerate(entries.split()):
        foreign = message(now(redis) + 10**9 + number)
        redis.rpush(LIST, {"F": foreign, "X": b"x"}.get(each) or message(int(each)))
    assert unread(redis, mark) == count


def test_what_the_daemon_believes_is_unread(redis: Redis) -> None:
    """A ts ahead of the clock is foreign, unless the daemon knows better."""
    ahead = now(redis) + 5 * MINUTE
    redis.rpush(LIST, message(1), message(ahead))
    assert unread(redis, 1) == 0
    assert unread(redis, 1, believed=ahead) == 1
