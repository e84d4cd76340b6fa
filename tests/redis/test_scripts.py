"""The Lua scripts, each run by redis-py on every real redis-server of the machine."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from fastimd.base import codec
from fastimd.groups.store.keyspace import AHEAD, NONCE_SECONDS, NONCES, STEP, nonces_key
from fastimd.redis import scripts
from fastimd.redis.scripts import Script

LIST, MARK, FLOOR, GROUPS = "gml:1", "fastimd:applied:test", "fastimd:floor:1", "ugs:3"
READ = "fastimd:read:3"
LIFE, REMOVALS = "fastimd:life:1", "fastimd:removals:1"
DELETING = [LIST, FLOOR, LIFE, REMOVALS]
KNOWN = [LIST, FLOOR, REMOVALS, LIFE]
NONCES_1_3 = nonces_key("1", "3")
CHANNEL, EVENTS, KICKS = "mq:1", "fastimd:events", "fastimd:kicks"
EVERY_REDIS = True
MINUTE = 60_000


def run(redis: Redis, script: Script, keys: list[str], *arguments: object) -> Any:
    return redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]


def settle(redis: Redis, epoch: int, known: int = 0) -> int:
    reply = run(redis, scripts.SETTLE, [MARK], epoch, known, 3600)
    applied: int = reply[0] if isinstance(reply, list) else 0  # a pipeline has no reply yet
    return applied


def append(
    redis: Redis,
    info: str = "hi",
    *,
    user: str = "3",
    timeout: int = 100,
    longest: int = 0,
    shown: int = 0,
    heard: int = 0,
) -> int:
    """An append by a daemon that has just come.

    Args:
        shown: the latest time that it knows Redis to have shown.
        heard: the newest ts that it knows of the group.
    """
    redis.delete(MARK)
    settle(redis, 1)
    return append_next(
        redis, info, user=user, timeout=timeout, longest=longest, shown=shown, heard=heard
    )


def append_next(
    redis: Redis,
    info: str = "hi",
    *,
    user: str = "3",
    timeout: int = 100,
    longest: int = 0,
    epoch: int = 1,
    sequence: int = 1,
    shown: int = 0,
    heard: int = 0,
) -> int:
    return append_batch(
        redis,
        {"1": [codec.message_prefix("1", user, info)]},
        timeout=timeout,
        longest=longest,
        epoch=epoch,
        first=sequence,
        shown=shown,
        heard=heard,
    )


def append_batch(
    redis: Redis,
    batch: dict[str, list[bytes]],
    *,
    timeout: int = 100,
    longest: int = 0,
    epoch: int = 1,
    first: int = 1,
    shown: int = 0,
    heard: int = 0,
) -> int:
    """The messages of each group in one step; returns the ts of the last."""
    ts: int = run_append(redis, batch, [], [], timeout, longest, epoch, first, shown, heard)
    return ts


def run_append(
    redis: Redis,
    batch: dict[str, list[bytes]],
    more_keys: list[str],
    more_arguments: list[object],
    timeout: int = 100,
    longest: int = 0,
    epoch: int = 1,
    first: int = 1,
    shown: int = 0,
    heard: int = 0,
) -> Any:
    keys, groups = [MARK], list[object]()
    for group, prefixes in batch.items():
        keys += [f"gml:{group}", f"fastimd:floor:{group}", f"fastimd:life:{group}"]
        groups += [f"mq:{group}", heard, len(prefixes), *prefixes]
    last = first + sum(map(len, batch.values())) - 1
    settings = (3600, timeout, longest, shown)
    arguments = (epoch, first, last, *settings, *groups, *more_arguments)
    return run(redis, scripts.APPEND, [*keys, *more_keys], *arguments)


Said = tuple[str, str, str]
"""A message of a batch: its group, its user and its nonce, which may be ""."""


def append_told(
    redis: Redis, *said: Said, first: int = 0, most: int = NONCES, **known: int
) -> list[Any]:
    """Messages whose ts are asked for, those of a group one behind the other.

    Args:
        first: the sequence number of the first; 0: that of a daemon that has just come.
        most: how many nonces a key remembers.

    Returns:
        The ts of each, and what else the script says.
    """
    if not first:
        redis.delete(MARK)
        settle(redis, 1)
    batch: dict[str, list[bytes]] = {}
    keys: list[str] = []
    asked: list[object] = []
    for number, (group, user, nonce) in enumerate(said, 1):
        assert group in list(batch)[-1:] or group not in batch
        prefix = codec.message_prefix(group, user, f"text {number}")
        batch.setdefault(group, []).append(prefix)
        if nonce:
            keys.append(nonces_key(group, user))
            asked += (number, nonce, most)
    asked.append(len(keys))
    reply: list[Any] = run_append(redis, batch, keys, asked, first=first or 1, **known)
    return reply


def remembered(redis: Redis, key: str = NONCES_1_3) -> dict[bytes, float]:
    return dict(cast(list[tuple[bytes, float]], redis.zrange(key, 0, -1, withscores=True)))


def recall(
    redis: Redis,
    user: str,
    ts: int,
    *,
    limit: int = 2 * MINUTE,
    event: bytes = b"event",
    seconds: int = 100,
) -> bytes:
    arguments = (0, limit, EVENTS, event, seconds)
    outcome: bytes = run(redis, scripts.RECALL, DELETING, user, ts, "", *arguments)
    if outcome == b"elsewhere":
        found = seek(redis, user, ts)
        if found is None:
            return b"missing"
        outcome = run(redis, scripts.RECALL, DELETING, user, ts, found, *arguments)
    return outcome


def purge(redis: Redis, *, seconds: int = 100) -> int:
    deleted: int = run(redis, scripts.PURGE, DELETING, 0, EVENTS, b'{"until":', seconds)
    return deleted


def seek(redis: Redis, user: str, ts: int) -> bytes | None:
    """Look for a message page by page, as the store does."""
    stop: int | str = ""
    while stop != 0:
        stop, found = run(redis, scripts.SEEK, [LIST], user, ts, stop, 7)
        if found is not None:
            assert isinstance(found, bytes)
            return found
    return None


def before(redis: Redis, user: str, ts: int, count: int) -> list[bytes]:
    keys, found = [LIST, FLOOR], None
    first, last, entries, is_there = run(redis, scripts.BEFORE, keys, user, ts, "", 0, count, 200)
    if not is_there:
        found = seek(redis, user, ts)
    if found is not None:
        first, last, entries, is_there = run(
            redis, scripts.BEFORE, keys, user, ts, found, 0, count, 200
        )
        assert is_there
    assert len(entries) == max(0, min(last - first + 1, 200))
    return list(entries)


def after(redis: Redis, ts: int, count: int, at: bytes = b"") -> list[bytes]:
    return list(run(redis, scripts.AFTER, KNOWN, at, ts, 0, count, 10**6, "")[2])


def tail(redis: Redis, count: int) -> tuple[int, list[bytes]]:
    length, _ts, _latest, entries = run(redis, scripts.TAIL, [LIST, FLOOR], 0, count)
    return length, entries


def now(redis: Redis) -> int:
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def entry(ts: int, user: str = "3", info: str = "hi", *, wrapped: bool = False) -> bytes:
    plain = codec.message_prefix("1", user, info) + b"%d}" % ts
    return codec.wrap(plain.decode()) if wrapped else plain


def fill(redis: Redis, *entries: bytes) -> list[bytes]:
    redis.rpush(LIST, *entries)
    return list(entries)


def listed(redis: Redis, group: str = "1") -> list[bytes]:
    return redis.lrange(f"gml:{group}", 0, -1)  # type: ignore[return-value]


# Appending


def test_an_append_stores_and_publishes_the_same_message(redis: Redis) -> None:
    """The list's entry and the channel's message are one text, and its ts is the clock's."""
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(CHANNEL)
        assert channel.get_message(timeout=5) is not None
        earliest = now(redis)
        ts = append(redis, "你好")
        assert earliest <= ts <= now(redis) + 21
        published = channel.get_message(timeout=5)
    assert published is not None
    assert listed(redis) == [entry(ts, info="你好")] == [published["data"]]


def test_ts_is_unique_and_increasing_in_a_burst(redis: Redis) -> None:
    """Many appends in one millisecond get different, increasing ts."""
    with redis.pipeline(transaction=True) as pipeline:
        settle(pipeline, 1)
        for sequence in range(1, 501):
            append_next(pipeline, sequence=sequence)
        given = pipeline.execute()[1:]
    assert given == sorted(set(given))
    assert [codec.read_entry(each)[0] for each in listed(redis)] == given


@pytest.mark.parametrize("wrapped", [False, True])
def test_ts_goes_on_from_a_tail_in_the_future(redis: Redis, wrapped: bool) -> None:
    """A writer whose clock runs ahead, the Java server too, does not break the order."""
    ahead = now(redis) + MINUTE // 2
    fill(redis, entry(ahead, wrapped=wrapped))
    assert [append(redis), append(redis)] == [ahead + 1, ahead + 2]


@pytest.mark.parametrize("tail", [b"garbage", b"[]", b'"text"', b"", b'{"ts":"x"}', b"5", b"null"])
def test_a_tail_that_is_no_message_is_passed_over(redis: Redis, tail: bytes) -> None:
    """A corrupt tail does not keep the group from talking."""
    fill(redis, tail)
    earliest = now(redis)
    assert append(redis) >= earliest


def test_a_text_does_not_pass_for_the_tails_ts(redis: Redis) -> None:
    """What somebody said cannot push the group's clock ahead."""
    for info in ('"ts":9999999999999}', '\\"ts\\":9999999999999}', 'x","ts":9999999999999}'):
        append(redis, info)
        assert append(redis) < now(redis) + MINUTE


def test_an_append_renews_the_expiry(redis: Redis) -> None:
    """The list lives that many seconds after the last message."""
    append(redis, timeout=100)
    assert 98 <= redis.ttl(LIST) <= 100
    append(redis, timeout=5000)
    assert 4998 <= redis.ttl(LIST) <= 5000


def test_a_list_is_cut_to_the_longest(redis: Redis) -> None:
    """Beyond the limit the oldest go; 0 is no limit."""
    given = [append(redis, longest=3) for _ in range(5)]
    assert [codec.read_entry(each)[0] for each in listed(redis)] == given[2:]
    for _ in range(5):
        append(redis, longest=0)
    assert redis.llen(LIST) == 8
    append(redis, longest=1)
    assert redis.llen(LIST) == 1


def test_an_append_moves_the_applied_mark(redis: Redis) -> None:
    """The mark is epoch and sequence of the last append, and expires."""
    settle(redis, 4, 16)
    append_next(redis, epoch=4, sequence=17)
    assert redis.get(MARK) == b"4:17"
    assert 3598 <= redis.ttl(MARK) <= 3600


def test_a_batch_is_one_step(redis: Redis) -> None:
    """Each group's messages are stored in order, published in order, and live on."""
    texts = {
        group: [codec.message_prefix(group, "3", f"{group}-{n}") for n in range(count)]
        for group, count in (("1", 3), ("2", 1), ("3", 40))
    }
    settle(redis, 1)
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(*(f"mq:{group}" for group in texts))
        for _ in texts:
            assert channel.get_message(timeout=5)["type"] == "subscribe"
        append_batch(redis, texts)
        published = [channel.get_message(timeout=5)["data"] for _ in range(44)]
    assert redis.get(MARK) == b"1:44"
    for group, prefixes in texts.items():
        stored = listed(redis, group)
        given = [codec.read_entry(each)[0] for each in stored]
        assert [each.rpartition(b":")[0] + b":" for each in stored] == prefixes
        assert given == sorted(set(given))
        assert [each for each in published if each in stored] == stored
        assert 98 <= redis.ttl(f"gml:{group}") <= 100


def test_a_batch_goes_on_from_each_groups_own_ts(redis: Redis) -> None:
    """A group whose list ran ahead of the clock takes no other along."""
    ahead = now(redis) + MINUTE // 2
    fill(redis, entry(ahead))
    redis.set("fastimd:floor:2", ahead + 7)
    settle(redis, 1)
    append_batch(
        redis, {g: [codec.message_prefix(g, "3", "hi")] * 2 for g in ("1", "2", "3")}, longest=2
    )
    found = {g: [codec.read_entry(each)[0] for each in listed(redis, g)] for g in "123"}
    assert found["1"] == [ahead + 1, ahead + 2]
    assert found["2"] == [ahead + 8, ahead + 9]
    assert abs(found["3"][0] - now(redis)) < MINUTE // 4


def test_a_batch_is_applied_whole_or_not_at_all(redis: Redis) -> None:
    """A key that is no list, wherever it stands, refuses every message of the batch."""
    settle(redis, 1)
    redis.set("gml:2", "text")
    batch = {group: [codec.message_prefix(group, "3", "hi")] for group in ("1", "2", "3")}
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        append_batch(redis, batch)
    assert redis.get(MARK) == b"1:0"
    assert not redis.exists("gml:1", "gml:3")
    del batch["2"]
    append_batch(redis, batch)
    assert redis.exists("gml:1", "gml:3") == 2


def test_a_channel_that_may_not_be_published_in_keeps_no_other_from_hearing(redis: Redis) -> None:
    """Its messages are stored, the reply names it, and the other groups of the batch hear all."""
    settle(redis, 1)
    redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "some", "on", "nopass", "+@all", "allkeys", "resetchannels", "&mq:[13]"
    )
    batch = {group: [codec.message_prefix(group, "3", "hi")] for group in ("1", "2", "3")}
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe("mq:1", "mq:2", "mq:3")
        for _ in batch:
            assert channel.get_message(timeout=5)["type"] == "subscribe"
        port = redis.connection_pool.connection_kwargs["port"]
        with Redis(port=port, username="some", password="x") as some:
            ts, refused, error = cast(list[Any], append_batch(some, batch))
        heard = [channel.get_message(timeout=5)["channel"] for _ in range(2)]
        assert channel.get_message(timeout=0.05) is None
    assert redis.execute_command("ACL", "DELUSER", "some") == 1  # type: ignore[no-untyped-call]
    assert heard == [b"mq:1", b"mq:3"]
    assert refused == b"mq:2"
    assert b"channel" in error
    assert codec.read_entry(listed(redis, "3")[0])[0] == ts
    assert [redis.llen(f"gml:{group}") for group in batch] == [1, 1, 1]
    assert redis.get(MARK) == b"1:3"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("tags", [{"a": "b"}, {'"ts":5}': '"ts":5}', "ts": "5", "userId": "4"}])
def test_a_message_with_tags_is_one_for_every_script(
    redis: Redis, tags: dict[str, str], wrapped: bool
) -> None:
    """They stand before its ts, and nothing in them passes for that, or for its user."""
    settle(redis, 1)
    prefix = codec.message_prefix("1", "3", "hi", tags)
    ts = append_batch(redis, {"1": [prefix] * 3}) - 2
    plain = [prefix + b"%d}" % (ts + number) for number in range(3)]
    assert listed(redis) == plain
    stored = plain
    if wrapped:
        redis.delete(LIST)
        stored = fill(redis, *(codec.wrap(each.decode()) for each in plain))
    assert tail(redis, 2) == (3, stored[1:])
    assert before(redis, "3", ts + 2, 5) == stored[:2]
    assert after(redis, ts, 5) == stored[1:]
    assert recall(redis, "4", ts + 1) == b"missing"
    assert recall(redis, "3", ts + 1) == b"done"
    assert listed(redis) == [stored[0], stored[2]]
    assert append(redis) > ts + 2


# Telling the ts, and nonces


def test_the_ts_of_each_message_is_told_if_it_is_asked_for(redis: Redis) -> None:
    """In the order of the arguments, and without a nonce there is no key for one."""
    (given,) = append_told(redis, ("1", "3", ""), ("1", "4", ""), ("2", "3", ""), ("3", "3", ""))
    found = [codec.read_entry(each)[0] for group in "123" for each in listed(redis, group)]
    assert given == found
    assert given[1] == given[0] + 1
    assert redis.keys("fastimd:nonces:*") == []
    assert redis.get(MARK) == b"1:4"


def test_a_batch_of_which_some_have_a_nonce_is_stored_and_published_once(redis: Redis) -> None:
    """What was seen before in this or an earlier batch is not: its first ts is told."""
    first = ("1", "3", "a")
    (earlier,) = append_told(redis, ("1", "4", ""), first)
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe("mq:1", "mq:2")
        for _ in "12":
            assert channel.get_message(timeout=5)["type"] == "subscribe"
        said = [
            *(("1", "3", "b"), first, ("1", "3", ""), ("1", "3", "b"), ("1", "4", "b")),
            *(("2", "3", "b"), ("2", "3", ""), ("2", "3", "b"), ("2", "3", "c")),
        ]
        (given,) = append_told(redis, *said)
        published = [channel.get_message(timeout=0.2) for _ in range(8)]
    before, ones, twos = earlier[1], given[:5], given[5:]
    assert ones == [ones[0], before, ones[0] + 1, ones[0], ones[0] + 2]
    assert twos == [twos[0], twos[0] + 1, twos[0], twos[0] + 2]
    assert before < ones[0]
    for group, told in (("1", {*earlier, *ones}), ("2", set(twos))):
        assert [codec.read_entry(each)[0] for each in listed(redis, group)] == sorted(told)
    new = [*listed(redis, "1")[2:], *listed(redis, "2")]
    assert [each and each["data"] for each in published] == [*new, None, None]
    assert redis.get(MARK) == b"1:9"
    assert remembered(redis) == {b"a": before, b"b": ones[0]}
    assert remembered(redis, nonces_key("1", "4")) == {b"b": ones[4]}
    assert remembered(redis, nonces_key("2", "3")) == {b"b": twos[0], b"c": twos[3]}


def test_a_batch_of_nothing_new_changes_the_mark_alone(redis: Redis) -> None:
    """The list's expiry is not renewed: nothing was said."""
    ((ts,),) = append_told(redis, ("1", "3", "a"), timeout=100)
    before = listed(redis)
    assert append_told(redis, ("1", "3", "a"), ("1", "3", "a"), timeout=5000) == [[ts, ts]]
    assert listed(redis) == before
    assert redis.ttl(LIST) <= 100
    assert redis.get(MARK) == b"1:2"
    redis.delete(LIST)
    assert append_told(redis, ("1", "3", "a")) == [[ts]]
    assert not redis.exists(LIST)


def test_a_nonce_is_answered_whatever_became_of_the_message(redis: Redis) -> None:
    """It was said once. What nobody remembers any more is said anew."""
    said = ("1", "3", "a")
    ((ts,),) = append_told(redis, said)
    assert recall(redis, "3", ts) == b"done"
    assert append_told(redis, said) == [[ts]]
    append(redis)
    assert purge(redis) == 1
    assert append_told(redis, said) == [[ts]]
    assert listed(redis) == []
    redis.flushall()
    ((later,),) = append_told(redis, said, heard=ts)
    assert later > ts
    assert len(listed(redis)) == 1


def test_a_nonce_is_remembered_for_five_minutes(redis: Redis) -> None:
    """By the clock of Redis, and not for longer, though others keep the key."""
    ((ts,),) = append_told(redis, ("1", "3", "a"))
    assert 299_000 < redis.pttl(NONCES_1_3) <= 300_000
    redis.zadd(NONCES_1_3, {"young": now(redis) - 299_000, "old": now(redis) - 300_001})
    (given,) = append_told(redis, *(("1", "3", nonce) for nonce in ("a", "young", "old")))
    assert given[0] == ts
    assert given[1] < ts
    assert given[2] > ts
    assert remembered(redis)[b"old"] == given[2]
    assert len(listed(redis)) == 2
    redis.pexpire(NONCES_1_3, 1000)
    append_told(redis, ("1", "3", "b"))
    assert redis.pttl(NONCES_1_3) > 299_000


def test_so_many_nonces_of_a_user_are_remembered(redis: Redis) -> None:
    """The oldest go first."""
    names = [f"{number:05}" for number in range(NONCES + 2)]
    for part in (names[:1000], names[1000:]):
        (given,) = append_told(redis, *(("1", "3", name) for name in part))
    assert sorted(remembered(redis)) == [name.encode() for name in names[2:]]
    (again,) = append_told(redis, *(("1", "3", name) for name in names[1000:]))
    assert again == given
    assert len(listed(redis)) == NONCES + 2


def test_a_key_remembers_as_many_nonces_as_the_daemon_says(redis: Redis) -> None:
    """More for backends than for a member; what is older than five minutes makes room first."""
    names = [f"{number}" for number in range(10)]
    append_told(redis, *(("1", "3", name) for name in names), most=4)
    assert sorted(remembered(redis)) == [name.encode() for name in names[-4:]]
    redis.zadd(NONCES_1_3, {f"old {number}": now(redis) - 300_001 for number in range(50)})
    append_told(redis, ("1", "3", "new"), most=100)
    assert sorted(remembered(redis)) == [*(name.encode() for name in names[-4:]), b"new"]


def test_the_same_nonce_of_two_daemons_is_one_message(redis: Redis) -> None:
    """Each has a mark of its own, and both get the ts."""
    given = [append_told(redis, ("1", "3", "a"), ("1", "3", "b")) for _ in range(2)]
    assert given[0] == given[1]
    assert len(listed(redis)) == 2


def test_what_is_not_settled_neither_stores_nor_remembers(redis: Redis) -> None:
    """A batch of an earlier connection that comes late finds another mark."""
    settle(redis, 1)
    settle(redis, 2)
    with pytest.raises(ResponseError, match="UNSETTLED"):
        append_told(redis, ("1", "3", "a"), first=1)
    assert redis.keys("*") == [MARK.encode()]


def test_nonces_of_another_type_refuse_the_batch_before_the_first_write(redis: Redis) -> None:
    """The error tells them from a list that is none; without a nonce they concern nobody."""
    redis.set(NONCES_1_3, "x")
    with pytest.raises(ResponseError, match=r"^NONCE WRONGTYPE"):
        append_told(redis, ("2", "3", "a"), ("1", "3", "a"))
    assert sorted(redis.keys("*")) == [MARK.encode(), NONCES_1_3.encode()]
    assert redis.get(MARK) == b"1:0"
    append_told(redis, ("2", "3", "a"), ("1", "3", ""), ("1", "4", "a"), first=1)
    assert [len(listed(redis, group)) for group in "12"] == [2, 1]
    redis.delete(NONCES_1_3)
    redis.set("gml:3", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE") as refusal:
        append_told(redis, ("1", "3", "a"), ("3", "3", "a"), first=4)
    assert "NONCE" not in str(refusal.value)
    assert not redis.exists(NONCES_1_3)


@pytest.mark.parametrize("score", ["inf", "-inf", "1.5", "-1", "1e300", "0"])
def test_a_score_that_is_no_ts_is_no_message(redis: Redis, score: str) -> None:
    """Our own keys may have anything in them: the message is stored, and remembered."""
    redis.zadd(NONCES_1_3, {"a": score})
    ((ts,),) = append_told(redis, ("1", "3", "a"))
    assert [codec.read_entry(each)[0] for each in listed(redis)] == [ts]
    assert append_told(redis, ("1", "3", "a")) == [[ts]]


@pytest.mark.parametrize("denied", ["zadd", "zremrangebyrank", "pexpire"])
def test_a_nonce_that_may_not_be_remembered_keeps_no_other_from_hearing(
    redis: Redis, denied: str
) -> None:
    """The messages are stored and published, and the reply names the key."""
    rules = ("on", "nopass", "+@all", f"-{denied}", "allkeys", "allchannels")
    redis.execute_command("ACL", "SETUSER", "some", *rules)  # type: ignore[no-untyped-call]
    said = [("2", "3", ""), ("1", "3", "a"), ("3", "3", "b")]
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe("mq:1", "mq:2", "mq:3")
        for _ in said:
            assert channel.get_message(timeout=5)["type"] == "subscribe"
        port = redis.connection_pool.connection_kwargs["port"]
        with Redis(port=port, username="some", password="x") as some:
            given, refused, error = append_told(some, *said)
        heard = [channel.get_message(timeout=5)["channel"] for _ in said]
    assert redis.execute_command("ACL", "DELUSER", "some") == 1  # type: ignore[no-untyped-call]
    assert heard == [b"mq:2", b"mq:1", b"mq:3"]
    assert refused == nonces_key("3", "3").encode()
    assert denied in error.decode().lower()
    assert given == [codec.read_entry(listed(redis, group)[0])[0] for group in "213"]
    assert redis.get(MARK) == b"1:3"


def test_the_ts_are_told_though_a_channel_may_not_be_published_in(redis: Redis) -> None:
    """They come before what is refused."""
    redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "some", "on", "nopass", "+@all", "allkeys", "resetchannels"
    )
    port = redis.connection_pool.connection_kwargs["port"]
    with Redis(port=port, username="some", password="x") as some:
        given, refused, error = append_told(some, ("1", "3", "a"), ("1", "3", ""))
    assert redis.execute_command("ACL", "DELUSER", "some") == 1  # type: ignore[no-untyped-call]
    assert (refused, b"channel" in error) == (b"mq:1", True)
    assert given == [codec.read_entry(each)[0] for each in listed(redis)]
    assert remembered(redis) == {b"a": given[0]}


def test_a_burst_with_nonces_raises_the_floor(redis: Redis) -> None:
    """As one without; a ts is remembered to the millisecond."""
    ahead = now(redis) + 5000
    fill(redis, entry(ahead))
    (given,) = append_told(redis, *(("1", "3", str(number)) for number in range(50)), longest=20)
    assert given == list(range(ahead + 1, ahead + 51))
    assert redis.get(FLOOR) == b"%d" % given[-1]
    assert redis.llen(LIST) == 20
    assert remembered(redis) == {b"%d" % number: ts for number, ts in enumerate(given)}


# Settling


def test_settling_tells_what_was_applied(redis: Redis) -> None:
    """The reply is the last sequence number, or what the daemon knows; the mark outlives it."""
    assert settle(redis, 1) == 0
    append_next(redis, epoch=1, sequence=1)
    assert settle(redis, 2, 0) == 1
    assert redis.get(MARK) == b"2:1"
    assert 3598 <= redis.ttl(MARK) <= 3600
    assert settle(redis, 3, 7) == 7
    assert redis.get(MARK) == b"3:7"


def test_the_mark_of_a_long_life_is_exact(redis: Redis) -> None:
    """Sequence numbers beyond a billion keep every digit."""
    known = 123_456_789_012_345
    assert settle(redis, 1, known) == known
    append_next(redis, epoch=1, sequence=known + 1)
    assert redis.get(MARK) == b"1:%d" % (known + 1)


@pytest.mark.parametrize(("older", "later"), [(1, 2), (9, 10)])
def test_an_older_epoch_is_refused(redis: Redis, older: int, later: int) -> None:
    """What an old connection still delivers after a later one has settled changes nothing."""
    settle(redis, older)
    append_next(redis, epoch=older, sequence=1)
    settle(redis, later)
    with pytest.raises(ResponseError, match="UNSETTLED"):
        append_next(redis, epoch=older, sequence=2)
    assert redis.llen(LIST) == 1
    assert redis.get(MARK) == b"%d:1" % later
    append_next(redis, epoch=later, sequence=2)
    assert redis.llen(LIST) == 2


@pytest.mark.parametrize("sequence", [1, 3])
def test_an_append_out_of_turn_is_refused(redis: Redis, sequence: int) -> None:
    """One that was applied already, or whose predecessor was not, changes nothing."""
    settle(redis, 1)
    append_next(redis, sequence=1)
    with pytest.raises(ResponseError, match="UNSETTLED"):
        append_next(redis, sequence=sequence)
    assert redis.llen(LIST) == 1
    assert redis.get(MARK) == b"1:1"


def test_an_append_without_a_mark_asks_to_be_settled(redis: Redis) -> None:
    """Our own keys may vanish: nothing is stored until the daemon has settled again."""
    settle(redis, 3, 5)
    redis.delete(MARK, FLOOR)
    with pytest.raises(ResponseError, match="UNSETTLED"):
        append_next(redis, epoch=3, sequence=6)
    assert redis.llen(LIST) == 0
    assert settle(redis, 4, 5) == 5
    append_next(redis, epoch=4, sequence=6)
    assert redis.get(MARK) == b"4:6"


# Recalling


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_recall_takes_the_one_message(redis: Redis, wrapped: bool) -> None:
    """The user's own message goes, the others stay as they are."""
    start = now(redis)
    entries = fill(redis, *(entry(start + offset, wrapped=wrapped) for offset in range(5)))
    assert recall(redis, "3", start + 2) == b"done"
    assert listed(redis) == entries[:2] + entries[3:]
    assert recall(redis, "3", start + 2) == b"missing"


@pytest.mark.parametrize("index", [0, 4])
def test_a_recall_works_at_the_ends(redis: Redis, index: int) -> None:
    """The first and the last message can be recalled."""
    start = now(redis)
    entries = fill(redis, *(entry(start + offset) for offset in range(5)))
    assert recall(redis, "3", start + index) == b"done"
    del entries[index]
    assert listed(redis) == entries


def test_a_recall_of_another_users_message_finds_nothing(redis: Redis) -> None:
    """A message belongs to who said it, and an empty list has none."""
    assert recall(redis, "3", 5) == b"missing"
    ts = append(redis, user="3")
    assert recall(redis, "4", ts) == b"missing"
    assert recall(redis, "3", ts + 1) == b"missing"
    assert redis.llen(LIST) == 1


def test_an_old_message_is_not_recalled(redis: Redis) -> None:
    """Older than the limit: told so, and left."""
    start = now(redis)
    fill(redis, entry(start - MINUTE), entry(start))
    assert recall(redis, "3", start - MINUTE, limit=MINUTE // 2) == b"old"
    assert redis.llen(LIST) == 2
    assert recall(redis, "3", start - MINUTE, limit=2 * MINUTE) == b"done"


def test_of_two_users_at_one_ts_each_recalls_their_own(redis: Redis) -> None:
    """Several Java servers may have given one ts twice."""
    start = now(redis)
    entries = fill(redis, entry(start, "a"), entry(start, "b"), entry(start, "c"))
    assert recall(redis, "b", start) == b"done"
    assert listed(redis) == [entries[0], entries[2]]


def test_of_two_messages_alike_the_later_one_is_recalled(redis: Redis) -> None:
    """A recall takes one away, whatever else is the same."""
    twice, other = entry(now(redis)), entry(now(redis) + 1)
    fill(redis, twice, other, twice)
    assert recall(redis, "3", codec.read_entry(twice)[0]) == b"done"
    assert listed(redis) == [twice, other]


def test_a_recall_finds_what_stands_far_from_its_place(redis: Redis) -> None:
    """By its entry, which says for certain which one it is. An old one is not looked for."""
    start = now(redis)
    entries = fill(redis, *(entry(start + n) for n in range(300)), entry(start - 5))

    def recall_known(limit: int) -> bytes:
        known = (start - 5, entries[-1], 0, limit, EVENTS, "event", 100)
        outcome: bytes = run(redis, scripts.RECALL, DELETING, "3", *known)
        return outcome

    assert recall(redis, "3", start - 5, limit=1) == b"missing"
    assert recall_known(1) == b"old"
    assert recall(redis, "3", start - 5) == b"done"
    assert listed(redis) == entries[:-1]
    assert recall_known(MINUTE) == b"missing"
    assert redis.llen(LIST) == 300


@pytest.mark.parametrize("ts", [0, codec.MAX_TS])
def test_the_first_and_the_last_ts_are_ts(redis: Redis, ts: int) -> None:
    """A message that has one is found by it, and is believed where the daemon believes it."""
    fill(redis, entry(ts))
    assert run(redis, scripts.PEEK, [LIST, FLOOR], codec.MAX_TS)[3] == ts
    assert run(redis, scripts.BEFORE, [LIST, FLOOR], "3", ts, "", codec.MAX_TS, 1, 9)[3] == 1
    assert recall(redis, "3", ts, limit=10**15) == b"done"
    assert listed(redis) == []


def test_a_recall_is_announced(redis: Redis) -> None:
    """The event goes to the channel of events, only when something was recalled."""
    ts = append(redis)
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        recall(redis, "4", ts)
        recall(redis, "3", ts)
        heard = channel.get_message(timeout=5)
        assert heard is not None
        assert heard["data"] == b"event"
        assert channel.get_message(timeout=0.05) is None


def test_a_recalled_tails_ts_is_not_given_again(redis: Redis) -> None:
    """Even if the list ran ahead of the clock, the next message is later than the recalled one."""
    ahead = now(redis) + MINUTE // 2
    fill(redis, entry(ahead))
    assert recall(redis, "3", ahead) == b"done"
    assert redis.llen(LIST) == 0
    assert append(redis) == ahead + 1
    assert redis.pttl(FLOOR) > 0


def test_a_recall_raises_the_floor_as_far_as_a_ts_could_be_given_again(redis: Redis) -> None:
    """A message of a moment ago leaves one, an older one none: the clock has passed it."""
    moment = now(redis)
    fill(redis, entry(moment - 3 * STEP), entry(moment))
    assert recall(redis, "3", moment - 3 * STEP) == b"done"
    assert not redis.exists(FLOOR)
    assert recall(redis, "3", moment) == b"done"
    assert redis.get(FLOOR) == b"%d" % moment


def test_recalling_tail_after_tail_keeps_the_highest_ts(redis: Redis) -> None:
    """The last two recalled, the later one first: the next message is later than both."""
    ahead = now(redis) + MINUTE // 2
    fill(redis, entry(ahead), entry(ahead + 1), entry(ahead + 2))
    assert recall(redis, "3", ahead + 2) == b"done"
    assert recall(redis, "3", ahead + 1) == b"done"
    assert append(redis) == ahead + 3
    assert redis.pttl(FLOOR) > MINUTE / 4


def test_a_purge_deletes_everything_and_is_announced(redis: Redis) -> None:
    """It says how many there were, and until when; of an empty group none, and is silent."""
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        assert purge(redis) == 0
        assert redis.keys("*") == []
        fill(redis, entry(1), entry(2), entry(earliest := now(redis)))
        assert purge(redis) == 3
        heard = [channel.get_message(timeout=0.2) for _ in range(2)]
    events = [each["data"] for each in heard if each is not None]
    assert [earliest <= json.loads(event)["until"] <= now(redis) for event in events] == [True]
    assert not redis.exists(LIST)


@pytest.mark.parametrize("ahead", [-MINUTE, 0, MINUTE // 2])
def test_a_purged_ts_is_not_given_again(redis: Redis, ahead: int) -> None:
    """A floor stands at the newest one until the clock has passed it, and a second longer."""
    newest = now(redis) + ahead
    fill(redis, entry(newest - 1), entry(newest))
    assert purge(redis) == 2
    assert redis.get(FLOOR) == b"%d" % newest
    assert 0 <= max(0, ahead) + 1000 - redis.pttl(FLOOR) < 900
    assert append(redis) > newest


# Reading


def test_tail_is_the_length_and_the_last_entries(redis: Redis) -> None:
    """Of one moment, oldest first, and at least the newest."""
    assert tail(redis, 2) == (0, [])
    entries = fill(redis, *(entry(ts) for ts in range(1, 6)))
    assert tail(redis, 2) == (5, entries[3:])
    assert tail(redis, 50) == (5, entries)
    assert tail(redis, 0) == (5, entries[4:])


def test_peek_is_length_newest_and_life(redis: Redis) -> None:
    """An empty list has no newest entry; a list without expiry has a negative life."""
    keys = [LIST, FLOOR]
    assert run(redis, scripts.PEEK, keys, 0) == [0, None, -2, 0]
    entries = fill(redis, entry(1), entry(2))
    assert run(redis, scripts.PEEK, keys, 0) == [2, entries[1], -1, 2]
    redis.expire(LIST, 100)
    assert 99_000 < run(redis, scripts.PEEK, keys, 0)[2] <= 100_000


@pytest.mark.parametrize("wrapped", [False, True])
def test_before_is_what_stands_just_before(redis: Redis, wrapped: bool) -> None:
    """Exactly count, oldest first, without the named message; fewer at the list's start."""
    entries = fill(redis, *(entry(ts, wrapped=wrapped) for ts in range(10, 60, 10)))
    assert before(redis, "3", 50, 2) == entries[2:4]
    assert before(redis, "3", 30, 2) == entries[:2]
    assert before(redis, "3", 20, 2) == entries[:1]
    assert before(redis, "3", 10, 2) == []
    assert before(redis, "3", 50, 100) == entries[:4]
    assert before(redis, "3", 50, 0) == []


def test_before_a_message_that_is_gone_is_what_is_older(redis: Redis) -> None:
    """A recalled message, another user's ts, and a ts beyond both ends."""
    assert before(redis, "3", 5, 2) == []
    entries = fill(redis, *(entry(ts) for ts in range(10, 60, 10)))
    assert before(redis, "3", 35, 2) == entries[1:3]
    assert before(redis, "4", 30, 2) == entries[:2]
    assert before(redis, "3", 99, 2) == entries[3:]
    assert before(redis, "3", 5, 2) == []


def test_before_says_whether_the_message_was_where_its_ts_belongs(redis: Redis) -> None:
    """Else it may stand out of order; what is older than all of them is nowhere."""
    fill(redis, *(entry(ts) for ts in range(10, 210)), entry(5))

    def is_there(ts: int, known: bytes = b"") -> int:
        found: int = run(redis, scripts.BEFORE, [LIST, FLOOR], "3", ts, known, 0, 2, 200)[3]
        return found

    assert [is_there(ts) for ts in (10, 100, 209)] == [1, 1, 1]
    assert [is_there(ts) for ts in (300, 3)] == [0, 1]
    assert is_there(5, entry(5)) == 1
    assert run(redis, scripts.BEFORE, [LIST, FLOOR], "3", 5, entry(5), 0, 2, 200)[:2] == [198, 199]


@pytest.mark.parametrize("wrapped", [False, True])
def test_after_is_a_page_of_what_is_newer(redis: Redis, wrapped: bool) -> None:
    """Oldest first, at most a page, nothing of the named ts itself; empty at the list's end."""
    assert after(redis, 0, 2) == []
    entries = fill(redis, *(entry(ts, wrapped=wrapped) for ts in range(10, 60, 10)))
    assert after(redis, 0, 2) == entries[:2]
    assert after(redis, 10, 2) == entries[1:3]
    assert after(redis, 15, 2) == entries[1:3]
    assert after(redis, 40, 500) == entries[4:]
    assert after(redis, 50, 500) == []
    assert after(redis, 99, 500) == []


def test_after_is_bounded_by_bytes_too(redis: Redis) -> None:
    """At most so many bytes, at least one message, and whether there are more."""
    entries = fill(redis, *(entry(ts, info="x" * 1000) for ts in range(1, 6)))
    size = len(entries[0])

    def page(ts: int, count: int, limit: int) -> list[Any]:
        reply = run(redis, scripts.AFTER, KNOWN, "", ts, 0, count, limit, "")
        return [reply[0], reply[2]]

    for count, limit, expected in [(9, 3 * size, 3), (9, size - 1, 1), (2, 9 * size, 2)]:
        assert page(0, count, limit) == [1, entries[:expected]]
    for count in (5, 9):
        assert page(0, count, 9 * size) == [0, entries]
    assert page(9, 5, 5) == [0, []]


def test_after_tells_what_was_deleted_since(redis: Redis) -> None:
    """Since that ts, in a message's own time too; nothing where it is remembered as no set."""

    def gone(ts: int) -> list[bytes]:
        found: list[bytes] = run(redis, scripts.AFTER, KNOWN, "", ts, 0, 5, 10**6, "")[3]
        return found

    assert gone(0) == []
    start = now(redis) - 100
    fill(redis, *(entry(start + n) for n in range(3)))
    assert recall(redis, "3", start) == b"done"
    moment = int(redis.zscore(REMOVALS, b"event") or 0)
    assert start + 100 <= moment <= now(redis)
    assert gone(start + 5) == gone(moment) == [b"event"]
    assert gone(moment + 1) == []
    assert 98 <= redis.ttl(REMOVALS) <= 100
    redis.delete(REMOVALS)
    redis.set(REMOVALS, "x")
    assert gone(start) == []
    assert recall(redis, "3", start + 1) == b"done"
    assert not redis.exists(REMOVALS)
    assert recall(redis, "3", start + 2, seconds=5000) == b"done"
    assert gone(start) == [b"event"]
    assert 4998 <= redis.ttl(REMOVALS) <= 5000


def test_a_range_is_what_lrange_gives(redis: Redis) -> None:
    """For every pair of indices, with its true bounds, cut to a page."""
    assert run(redis, scripts.RANGE, [LIST], 0, -1, 9)[2] == []
    entries = fill(redis, *(entry(ts) for ts in range(6)))
    for first in range(-8, 9):
        for last in range(-8, 9):
            expected = redis.lrange(LIST, first, last)
            true_first, true_last, page = run(redis, scripts.RANGE, [LIST], first, last, 9)
            assert page == expected
            if expected:
                assert entries[true_first : true_last + 1] == expected
            else:
                assert true_last < true_first
            assert run(redis, scripts.RANGE, [LIST], first, last, 2)[2] == expected[:2]


@pytest.mark.parametrize("gone", [0, 2, 4, 5])
def test_the_next_page_is_found_though_the_list_was_cut(redis: Redis, gone: int) -> None:
    """Older messages may go meanwhile, the one that was read last too."""
    times = (1, 2, 3, 3, 3, 4, 5, 6)
    entries = fill(redis, *(entry(ts, user) for user, ts in zip("abcdefgh", times, strict=True)))
    redis.ltrim(LIST, gone, -1)
    index, page = run(redis, scripts.NEXT, [LIST], 3, entries[3], 3, 3)
    if gone <= 3:
        assert (index, page) == (3 - gone, entries[4:7])
    else:
        assert page == entries[gone : gone + 3]
        assert index == -1


def test_slightly_unsorted_entries_are_found(redis: Redis) -> None:
    """Entries that several Java servers stored a little out of order are all found by their ts."""
    order = list(range(100, 300))
    shuffled = random.Random(7)
    for start in range(0, len(order), 4):
        page = order[start : start + 4]
        shuffled.shuffle(page)
        order[start : start + 4] = page
    assert order != sorted(order)
    entries = fill(redis, *(entry(ts, wrapped=ts % 2 == 0) for ts in order))
    for index, ts in enumerate(order):
        assert before(redis, "3", ts, 3) == entries[max(0, index - 3) : index]
    recalled = [recall(redis, "3", ts, limit=10**15) for ts in order]
    assert recalled == [b"done"] * len(order)
    assert listed(redis) == []


def test_mixed_and_corrupt_entries_do_not_stop_a_script(redis: Redis) -> None:
    """A list of both forms, with garbage in it, is still read and written."""
    start = now(redis)
    fill(redis, b"garbage", entry(start), entry(start + 1, wrapped=True), entry(start + 2))
    assert before(redis, "3", start + 2, 2) == [entry(start), entry(start + 1, wrapped=True)]
    assert after(redis, start, 1) == [entry(start + 1, wrapped=True)]
    assert recall(redis, "3", start + 1) == b"done"
    assert append(redis) > start + 2


# What cannot be believed

YEARS = 3650 * 24 * 60 * MINUTE
FOREIGN = (YEARS, 2 * MINUTE)
"""How far ahead of the clock a ts is that is not ours."""
EXACT = 2**53
NO_TS = ("x", str(EXACT), str(EXACT + 1), str(2**63), "9" * 400, "1e400", "-1", "1.5", '"7"', "[]")


def with_ts(ts: str, info: str = "hi") -> bytes:
    return codec.message_prefix("1", "3", info) + ts.encode() + b"}"


@pytest.mark.parametrize("ahead", FOREIGN)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_foreign_ts_is_no_measure_for_the_next(redis: Redis, ahead: int, wrapped: bool) -> None:
    """At the end of the list it is passed over, back to the newest that is ours."""
    newest = now(redis) + MINUTE // 2
    fill(redis, entry(newest), *(entry(newest + ahead + n, wrapped=wrapped) for n in range(3)))
    assert append(redis) == newest + 1
    redis.delete(LIST, FLOOR)
    fill(redis, entry(now(redis) + ahead, wrapped=wrapped))
    assert abs(append(redis) - now(redis)) < MINUTE / 4


@pytest.mark.parametrize("ts", NO_TS)
def test_a_ts_that_is_none_is_none_for_every_script(redis: Redis, ts: str) -> None:
    """Not exact, not whole, no number: the entry is passed over as what it is, no message."""
    start = now(redis) - 10
    bad = with_ts(ts)
    fill(redis, entry(start), bad, entry(start + 1), bad)
    first, second = append(redis), append(redis)
    assert start + 1 < first < second < start + MINUTE
    assert after(redis, start, 9)[1] == entry(start + 1)
    assert before(redis, "3", first, 2) == [entry(start + 1), bad]
    assert run(redis, scripts.PEEK, [LIST, FLOOR], 0)[3] == second
    assert recall(redis, "3", start + 1) == b"done"


def test_a_ts_at_the_limit_of_exact_numbers_is_not_gone_beyond(redis: Redis) -> None:
    """No ts is given twice, even if everything known stands there."""
    fill(redis, entry(EXACT - 2), entry(EXACT - 1))
    given = [append(redis) for _ in range(3)]
    assert given == sorted(set(given))
    assert given[-1] < now(redis) + MINUTE


@pytest.mark.parametrize("index", [0, 1, 3, 6, 11, 12])
@pytest.mark.parametrize("count", [1, 5])
def test_a_foreign_entry_anywhere_leaves_the_others_findable(
    redis: Redis, index: int, count: int
) -> None:
    """Before, after, recall and the next page are right for each of ours, and for the foreign."""
    start = now(redis) - 100
    ours = [entry(start + n) for n in range(12)]
    foreign = [entry(start + YEARS + n, info="foreign") for n in range(count)]
    entries = fill(redis, *ours[:index], *foreign, *ours[index:])
    for n, mine in enumerate(ours):
        at = entries.index(mine)
        assert before(redis, "3", start + n, 4) == entries[max(0, at - 4) : at]
        assert after(redis, 0, 50, mine) == entries[at + 1 :]
        found = after(redis, start + n, 50)
        assert [each for each in found if each in ours] == ours[n + 1 :]
        assert (
            run(redis, scripts.NEXT, [LIST], 0, mine, start + n, 3)[1] == entries[at + 1 : at + 4]
        )
    for n, other in enumerate(foreign):
        at = entries.index(other)
        assert before(redis, "3", start + YEARS + n, 4) == entries[max(0, at - 4) : at]
        assert after(redis, 0, 50, other) == entries[at + 1 :]
    for n in range(12):
        assert recall(redis, "3", start + n) == b"done"
    for n in range(count):
        assert recall(redis, "3", start + YEARS + n) == b"done"
    assert listed(redis) == []
    assert append(redis) < now(redis) + MINUTE


@pytest.mark.parametrize("count", [63, 64, 65, 130, 300])
def test_many_foreign_entries_in_a_row_end_no_search(redis: Redis, count: int) -> None:
    """Those of ours before and after them are found, and what comes is later."""
    start = now(redis) - 1000
    ours = [entry(start + n) for n in range(400)]
    foreign = [entry(start + YEARS + n) for n in range(count)]
    entries = fill(redis, *ours[:200], *foreign, *ours[200:])
    assert before(redis, "3", start + 10, 4) == ours[6:10]
    assert before(redis, "3", start + 390, 4) == ours[386:390]
    assert after(redis, start + 390, 50) == ours[391:]
    assert after(redis, 0, 3, entries[200 + count // 2]) == entries[201 + count // 2 :][:3]


def test_a_look_before_the_first_entry_finds_nothing(redis: Redis) -> None:
    """It is over there, though the end of the list may have the message."""
    entries = fill(redis, entry(5), entry(6))
    assert run(redis, scripts.SEEK, [LIST], "3", 6, 0, 7) == [0, None]
    assert run(redis, scripts.SEEK, [LIST], "3", 6, 1, 7) == [0, None]
    assert run(redis, scripts.SEEK, [LIST], "3", 6, 2, 1) == [1, entries[1]]


def test_a_foreign_message_that_is_recalled_or_purged_raises_no_floor(redis: Redis) -> None:
    """The next message has the time of today."""
    for remove in (
        lambda ts: recall(redis, "3", ts),
        lambda _ts: purge(redis),
    ):
        ts = now(redis) + YEARS
        fill(redis, entry(ts))
        remove(ts)
        assert redis.llen(LIST) == 0
        assert append(redis) < now(redis) + MINUTE


def test_what_the_daemon_believes_is_believed_to_the_millisecond(redis: Redis) -> None:
    """At the end of the list and before it; what is later by one is foreign."""
    believed = now(redis) + YEARS
    keys = [LIST, FLOOR]
    for entries, newest in (
        ([entry(believed)], believed),
        ([entry(believed + 1)], 0),
        ([entry(believed), entry(believed + 1)], believed),
        ([entry(5), b"garbage", entry(believed + 1)], 5),
    ):
        redis.delete(LIST)
        fill(redis, *entries)
        assert run(redis, scripts.PEEK, keys, believed)[3] == newest
        assert run(redis, scripts.TAIL, keys, believed, 9)[1:3] == [newest, believed]


def test_a_floor_makes_what_is_a_step_beyond_it_believed(redis: Redis) -> None:
    """No more: beyond that, and beyond the clock, a ts is foreign."""
    floor = now(redis) + YEARS
    redis.set(FLOOR, floor)
    for ahead, newest in ((STEP, floor + STEP), (STEP + 1, 0)):
        redis.delete(LIST)
        fill(redis, entry(floor + ahead))
        assert run(redis, scripts.PEEK, [LIST, FLOOR], 0)[3] == newest


def test_a_greetings_position_is_before_whatever_comes(redis: Redis) -> None:
    """The newest of ours, if there is one; never what is foreign. The clock is asked if need be."""
    for ts in (1, 2, 9):
        fill(redis, entry(ts))
        assert run(redis, scripts.TAIL, [LIST, FLOOR], 9, 9)[1:3] == [ts, 9]
    redis.delete(LIST)
    moment = now(redis)
    assert run(redis, scripts.TAIL, [LIST, FLOOR], 0, 9)[1] == 0
    fill(redis, entry(moment + YEARS))
    ts, latest = run(redis, scripts.TAIL, [LIST, FLOOR], 0, 9)[1:3]
    assert ts == 0
    assert moment + MINUTE <= latest < moment + 2 * MINUTE
    assert append(redis) < latest
    ahead = now(redis) + MINUTE // 2
    fill(redis, entry(ahead), entry(ahead + YEARS))
    assert run(redis, scripts.TAIL, [LIST, FLOOR], 0, 9)[1] == ahead


# What is lost


def ahead_of_the_clock(redis: Redis) -> int:
    """The ts of the last message of a burst."""
    settle(redis, 1)
    return append_batch(redis, {"1": [codec.message_prefix("1", "3", "hi")] * 5000})


def test_a_floor_is_raised_only_by_what_is_ahead_of_the_clock(redis: Redis) -> None:
    """It is the ts, and lives until the clock has passed that and a second more."""
    append(redis)
    time.sleep(0.05)
    redis.delete(FLOOR)
    append(redis)
    assert not redis.exists(FLOOR)
    for ahead in (100, 5000):
        fill(redis, entry(now(redis) + ahead))
        assert append(redis) == int(redis.get(FLOOR) or 0)
        assert 0 <= ahead + 1001 - redis.pttl(FLOOR) < 500


def test_a_new_group_begins_a_moment_ahead_of_the_clock(redis: Redis) -> None:
    """So far that what a list had that was just lost is earlier."""
    earliest = now(redis)
    assert append(redis) - earliest >= 21
    redis.delete(LIST, FLOOR)
    earliest = now(redis)
    assert append(redis, heard=earliest + 10) - earliest < 500, "a jump that nothing asks for"


@pytest.mark.parametrize("loss", ["DEL", "UNLINK", "RENAME", "PEXPIRE", "LTRIM"])
def test_a_lost_list_steps_no_ts_back(redis: Redis, loss: str) -> None:
    """The floor stands for what the list had, as long as the clock has not reached it."""
    newest = ahead_of_the_clock(redis)
    arguments = {"RENAME": ("elsewhere",), "PEXPIRE": (0,), "LTRIM": (1, 0)}.get(loss, ())
    redis.execute_command(loss, LIST, *arguments)  # type: ignore[no-untyped-call]
    assert redis.llen(LIST) == 0
    assert append(redis) > newest
    assert redis.pttl(FLOOR) > 0


def test_a_list_that_was_lost_at_once_steps_no_ts_back(redis: Redis) -> None:
    """A message in the millisecond of the last one gets a later ts, though no floor was raised."""
    for _ in range(200):
        first = append(redis)
        redis.delete(LIST)
        assert append(redis) > first


def test_what_the_daemon_knows_counts_where_redis_has_lost_all(redis: Redis) -> None:
    """After FLUSHALL, and on a server whose clock is behind."""
    heard = ahead_of_the_clock(redis)
    redis.flushall()
    assert append(redis, heard=heard) == heard + 1001
    assert append(redis, heard=heard + 1) == heard + 1002
    redis.delete(LIST)
    assert append(redis, heard=heard) == heard + 1003
    redis.flushall()
    shown = now(redis) + 6000
    given = [append(redis, shown=shown), append(redis), append(redis, shown=shown)]
    assert given == sorted(set(given))
    assert given[0] == shown


def test_a_list_behind_the_position_raises_the_floor(redis: Redis) -> None:
    """A repair that finds less than was handed on sees to it that what comes is later."""
    ahead = now(redis) + 5000
    assert after(redis, ahead, 5) == []
    assert append(redis) == ahead + 1
    redis.delete(FLOOR)
    assert after(redis, ahead, 5) == [entry(ahead + 1)]
    assert after(redis, ahead + 1, 5) == []
    assert not redis.exists(FLOOR)


@pytest.mark.parametrize("kind", ["list", "text", "huge", "endless"])
def test_a_floor_that_is_none_is_no_floor(redis: Redis, kind: str) -> None:
    """Our own keys may become anything: no script stumbles over them, and the floor is anew."""
    ahead = now(redis) + MINUTE // 2
    fill(redis, entry(ahead))

    def spoil() -> None:
        redis.delete(FLOOR)
        if kind == "list":
            redis.rpush(FLOOR, "x")
        else:
            redis.set(FLOOR, {"text": "abc", "huge": "9" * 30, "endless": "1e400"}[kind])

    spoil()
    assert append(redis) == ahead + 1
    spoil()
    assert before(redis, "3", ahead + 1, 5) == [entry(ahead)]
    assert after(redis, ahead, 5) == [entry(ahead + 1)]
    assert tail(redis, 1)[0] == 2
    assert recall(redis, "3", ahead + 1) == b"done"
    assert redis.get(FLOOR) == b"%d" % (ahead + 1)
    spoil()
    assert purge(redis) == 1
    assert append(redis) == ahead + 1


def test_the_same_bounds_hold_here_and_there() -> None:
    """What a script takes for foreign is so for the daemon."""
    source = scripts.APPEND.source.decode()
    assert f"local AHEAD, STEP = {AHEAD}, {STEP}" in source
    assert f"local MAX_TS = {codec.MAX_TS}" in source
    assert f"local REMEMBERED = {NONCE_SECONDS * 1000}\n" in source


# Joining


def join(redis: Redis, group: str, most: int = 0) -> int:
    forms = codec.plain_unless_quoted(group), codec.wrap(group)
    joined: int = run(redis, scripts.JOIN, [GROUPS], *forms, EVENTS, "event", most)
    return joined


def test_a_join_counts_once_and_is_announced(redis: Redis) -> None:
    """The first join says 1 and tells the others, a second says 0 and is silent."""
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        assert [join(redis, "1"), join(redis, "1"), join(redis, "2")] == [1, 0, 1]
        heard = [channel.get_message(timeout=0.2) for _ in range(3)]
    assert [each and each["data"] for each in heard] == [b"event", b"event", None]
    assert redis.smembers(GROUPS) == {b"1", b"2"}


def leave(redis: Redis, group: str) -> int:
    forms = codec.plain_unless_quoted(group), codec.wrap(group)
    left: int = run(redis, scripts.LEAVE, [GROUPS, READ], *forms, EVENTS, "event")
    return left


def test_a_leave_counts_once_and_is_announced(redis: Redis) -> None:
    """Whichever server has written the group; who is not in it changes nothing and is silent."""
    redis.sadd(GROUPS, "1", '"2"', "3")
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        assert [leave(redis, group) for group in ("1", "1", "2", "4")] == [1, 0, 1, 0]
        heard = [channel.get_message(timeout=0.2) for _ in range(3)]
    assert [each and each["data"] for each in heard] == [b"event", b"event", None]
    assert redis.smembers(GROUPS) == {b"3"}


def test_a_kick_is_announced_and_remembered(redis: Redis) -> None:
    """With its moment, by the clock of Redis; older ones are forgotten, and all when none comes."""
    redis.zadd(KICKS, {"old": now(redis) - 2 * MINUTE, "young": now(redis) - MINUTE // 2})
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        before = now(redis)
        assert [run(redis, scripts.KICK, [KICKS], EVENTS, "event", MINUTE) for _ in "12"] == [1, 1]
        assert [channel.get_message(timeout=1)["data"] for _ in "12"] == [b"event"] * 2
    remembered: Any = redis.zrange(KICKS, 0, -1, withscores=True)
    assert [entry for entry, _ in remembered] == [b"young", b"event"]
    assert before <= remembered[1][1] <= now(redis)
    assert MINUTE - 10_000 < redis.pttl(KICKS) <= MINUTE


def test_a_kick_that_cannot_be_remembered_is_announced(redis: Redis) -> None:
    """And who gives it is told."""
    redis.set(KICKS, "x")
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            run(redis, scripts.KICK, [KICKS], EVENTS, "event", MINUTE)
        assert channel.get_message(timeout=1)["data"] == b"event"


def test_so_many_groups_may_be_joined(redis: Redis) -> None:
    """One more says -1, changes nothing and is silent; members stay members."""
    redis.sadd(GROUPS, "1", '"2"')
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(EVENTS)
        assert channel.get_message(timeout=5) is not None
        assert [join(redis, group, 2) for group in ("1", "2", "3")] == [0, 0, -1]
        assert [join(redis, group, 1) for group in ("1", "2", "3")] == [0, 0, -1]
        assert channel.get_message(timeout=0.2) is None
    assert redis.smembers(GROUPS) == {b"1", b'"2"'}
    assert [join(redis, "3", 3), join(redis, "4", 3), join(redis, "4", 0)] == [1, -1, 1]


def test_a_member_by_the_java_server_is_in_already(redis: Redis) -> None:
    """The wrapped id counts as the same group."""
    redis.sadd(GROUPS, b'"1"')
    assert join(redis, "1") == 0
    assert redis.smembers(GROUPS) == {b'"1"'}


# The cost


def microseconds(redis: Redis, command: str, work: Callable[[], object]) -> float:
    """What ``work`` costs Redis by its own count, in the calls of ``command``.

    The least of five: Redis counts by the clock, and waiting for a processor only adds.
    """
    costs: list[float] = []
    for _ in range(5):
        redis.config_resetstat()
        work()
        costs.append(redis.info("commandstats")[f"cmdstat_{command}"]["usec"])
    return min(costs)


@pytest.mark.alone
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_long_list_is_not_read_through(redis: Redis, wrapped: bool) -> None:
    """With 100,000 messages each script costs Redis less than a twentieth of reading them all."""
    newest = now(redis)
    oldest = newest - 99_999
    for start in range(oldest, newest, 10_000):
        fill(redis, *(entry(ts, wrapped=wrapped) for ts in range(start, start + 10_000)))
    assert redis.llen(LIST) == 100_000
    known = entry(newest - 100, wrapped=wrapped)
    recalled = iter(range(newest - 10, newest))
    middle = (oldest + newest) // 2
    everything = microseconds(redis, "lrange", lambda: listed(redis))
    works: dict[str, Callable[[], object]] = {
        "recall": lambda: recall(redis, "3", next(recalled)),
        "append": lambda: append(redis, longest=100_000),
        "before the newest": lambda: before(redis, "3", newest, 50),
        "before one in the middle": lambda: before(redis, "3", middle, 50),
        "before the oldest": lambda: before(redis, "3", oldest + 100, 50),
        "after one near the end": lambda: after(redis, newest - 100, 50),
        "after one in the middle": lambda: after(redis, middle, 50),
        "after one near the start": lambda: after(redis, oldest + 100, 50),
        "after an entry near the end": lambda: after(redis, 0, 50, known),
        "after an entry that is gone": lambda: after(redis, middle, 50, b"gone"),
        "tail": lambda: tail(redis, 50),
        "peek": lambda: run(redis, scripts.PEEK, [LIST, FLOOR], 0),
        "unread near the end": lambda: run(redis, scripts.UNREAD, [LIST], newest - 100, newest),
        "unread in the middle": lambda: run(redis, scripts.UNREAD, [LIST], middle, newest),
    }
    costs = {name: microseconds(redis, "eval", work) for name, work in works.items()}
    assert redis.llen(LIST) == 100_000, "recalls and appends do not balance"
    assert max(costs.values()) < everything / 20, (costs, everything)
