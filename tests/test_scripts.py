"""The Lua scripts, each run by redis-py on every real redis-server of the machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from fastimd import codec
from fastimd.redis import scripts
from fastimd.redis.scripts import Script

LIST, MARK, FLOOR, GROUPS = "gml:1", "fastimd:applied:test", "fastimd:floor:1", "ugs:3"
CHANNEL, EVENTS = "mq:1", "fastimd:events"
EVERY_REDIS = True
MINUTE = 60_000


def run(redis: Redis, script: Script, keys: list[str], *arguments: object) -> Any:
    return redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]


def settle(redis: Redis, epoch: int, known: int = 0) -> int:
    applied: int = run(redis, scripts.SETTLE, [MARK], epoch, known, 3600)
    return applied


def append(
    redis: Redis,
    info: str = "hi",
    *,
    user: str = "3",
    timeout: int = 100,
    longest: int = 0,
) -> int:
    """An append by a daemon that has just come."""
    redis.delete(MARK)
    settle(redis, 1)
    return append_next(redis, info, user=user, timeout=timeout, longest=longest)


def append_next(
    redis: Redis,
    info: str = "hi",
    *,
    user: str = "3",
    timeout: int = 100,
    longest: int = 0,
    epoch: int = 1,
    sequence: int = 1,
) -> int:
    return append_batch(
        redis,
        {"1": [codec.message_prefix("1", user, info)]},
        timeout=timeout,
        longest=longest,
        epoch=epoch,
        first=sequence,
    )


def append_batch(
    redis: Redis,
    batch: dict[str, list[bytes]],
    *,
    timeout: int = 100,
    longest: int = 0,
    epoch: int = 1,
    first: int = 1,
) -> int:
    """The messages of each group in one step; returns the ts of the last."""
    keys, groups = [MARK], list[object]()
    for group, prefixes in batch.items():
        keys += [f"gml:{group}", f"fastimd:floor:{group}"]
        groups += [f"mq:{group}", len(prefixes), *prefixes]
    last = first + sum(map(len, batch.values())) - 1
    ts: int = run(redis, scripts.APPEND, keys, epoch, first, last, 3600, timeout, longest, *groups)
    return ts


def recall(redis: Redis, user: str, ts: int, *, limit: int = 2 * MINUTE) -> bytes:
    outcome: bytes = run(redis, scripts.RECALL, [LIST, FLOOR], user, ts, limit, EVENTS, "event")
    return outcome


def before(redis: Redis, user: str, ts: int, count: int) -> list[bytes]:
    first, last, entries = run(redis, scripts.BEFORE, [LIST], user, ts, count, 200)
    assert len(entries) == max(0, min(last - first + 1, 200))
    return list(entries)


def after(redis: Redis, ts: int, count: int) -> list[bytes]:
    _more, entries = run(redis, scripts.AFTER, [LIST], ts, count, 10**6)
    return list(entries)


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
        assert earliest <= ts <= now(redis)
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
    ahead = now(redis) + 10 * MINUTE
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
    ahead = now(redis) + 10 * MINUTE
    fill(redis, entry(ahead))
    redis.set("fastimd:floor:2", ahead + 7)
    settle(redis, 1)
    append_batch(
        redis, {g: [codec.message_prefix(g, "3", "hi")] * 2 for g in ("1", "2", "3")}, longest=2
    )
    found = {g: [codec.read_entry(each)[0] for each in listed(redis, g)] for g in "123"}
    assert found["1"] == [ahead + 1, ahead + 2]
    assert found["2"] == [ahead + 8, ahead + 9]
    assert abs(found["3"][0] - now(redis)) < MINUTE


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
    ahead = now(redis) + MINUTE
    fill(redis, entry(ahead))
    assert recall(redis, "3", ahead) == b"done"
    assert redis.llen(LIST) == 0
    assert append(redis) == ahead + 1
    assert redis.pttl(FLOOR) > 0


def test_recalling_tail_after_tail_keeps_the_highest_ts(redis: Redis) -> None:
    """The last two recalled, the later one first: the next message is later than both."""
    ahead = now(redis) + MINUTE
    fill(redis, entry(ahead), entry(ahead + 1), entry(ahead + 2))
    assert recall(redis, "3", ahead + 2) == b"done"
    assert recall(redis, "3", ahead + 1) == b"done"
    assert append(redis) == ahead + 3
    assert redis.pttl(FLOOR) > MINUTE / 2


# Reading


def test_tail_is_the_length_and_the_last_entries(redis: Redis) -> None:
    """Of one moment, oldest first; none when none are asked for."""
    assert run(redis, scripts.TAIL, [LIST], 2) == [0, []]
    entries = fill(redis, *(entry(ts) for ts in range(1, 6)))
    assert run(redis, scripts.TAIL, [LIST], 2) == [5, entries[3:]]
    assert run(redis, scripts.TAIL, [LIST], 50) == [5, entries]
    assert run(redis, scripts.TAIL, [LIST], 0) == [5, []]


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
    for count, limit, expected in [(9, 3 * size, 3), (9, size - 1, 1), (2, 9 * size, 2)]:
        assert run(redis, scripts.AFTER, [LIST], 0, count, limit) == [1, entries[:expected]]
    for count in (5, 9):
        assert run(redis, scripts.AFTER, [LIST], 0, count, 9 * size) == [0, entries]
    assert run(redis, scripts.AFTER, [LIST], 9, 5, 5) == [0, []]


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


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_long_list_is_not_read_through(redis: Redis, wrapped: bool) -> None:
    """With 100,000 messages each script costs Redis less than a twentieth of reading them all."""
    newest = now(redis)
    oldest = newest - 99_999
    for start in range(oldest, newest, 10_000):
        fill(redis, *(entry(ts, wrapped=wrapped) for ts in range(start, start + 10_000)))
    assert redis.llen(LIST) == 100_000
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
        "tail": lambda: run(redis, scripts.TAIL, [LIST], 50),
    }
    costs = {name: microseconds(redis, "eval", work) for name, work in works.items()}
    assert redis.llen(LIST) == 100_000, "recalls and appends do not balance"
    assert max(costs.values()) < everything / 20, (costs, everything)
