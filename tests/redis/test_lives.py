"""What somebody missed who comes back: never recovered where something may be missing.

A client that knows a group up to a ``ts`` of one of its lives gets what was said since and is still
there, and every deletion since. Whatever was lost meanwhile, it is told so instead.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from redis import Redis

from fastimd.base import codec
from fastimd.redis import scripts

LIST, FLOOR = "gml:1", "fastimd:floor:1"
LIFE, REMOVALS = "fastimd:life:1", "fastimd:removals:1"
KEYS = [LIST, FLOOR, LIFE, REMOVALS]
MARK, EVENTS = "fastimd:applied:test", "fastimd:events"
KEPT = 1000
REMEMBERED = 1000
EVERY_REDIS = True


class Stand(NamedTuple):
    """What ``stand.lua`` says; ``gone`` in the order of the texts."""

    epoch: str
    ts: int
    latest: int
    tail: bytes
    is_recovered: bool
    messages: list[int]
    gone: list[bytes]


class Group:
    """A group in Redis, and what becomes of it; ``heard`` is the newest ts that was heard."""

    def __init__(self, redis: Redis, longest: int = 0) -> None:
        self.redis = redis
        self.longest = longest
        self.heard = 0
        self._ids = 0

    def _run(self, script: scripts.Script, keys: list[str], *arguments: object) -> Any:
        return self.redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]

    def say(self, count: int = 1, info: str = "hi", *, batch: bool = True) -> list[int]:
        """Messages of one batch; returns the ts of each."""
        if not batch:
            return [self.say(1, info)[0] for _ in range(count)]
        self.redis.delete(MARK)
        self._run(scripts.SETTLE, [MARK], 1, 0, 3600)
        prefix = codec.message_prefix("1", "3", info)
        settings = (1, 1, count, 3600, 100, self.longest, 0)
        group = ("mq:1", self.heard, count, *[prefix] * count)
        last = self._run(scripts.APPEND, [MARK, LIST, FLOOR, LIFE], *settings, *group)
        return list(range(last - count + 1, last + 1))

    def recall(self, ts: int, limit: int = 10**6) -> bytes:
        """Recall a message; returns the event."""
        event = b'{"group":"1","user":"3","ts":%d}' % ts
        arguments = ("3", ts, "", 0, limit, EVENTS, event, 100)
        assert self._run(scripts.RECALL, KEYS, *arguments) == b"done"
        return event

    def purge(self) -> list[bytes]:
        """Purge; returns the event, if there was something."""
        before = self.remembered
        self._run(scripts.PURGE, KEYS, 0, EVENTS, b'{"group":"1","user":"","ts":0,"until":', 100)
        return list(self.remembered - before)

    def stand(
        self, epoch: str = "", since: int | str = "", most: int = 1000, size: int = 10**6
    ) -> Stand:
        self._ids += 1
        known = (epoch, since, most, size)
        found = self._run(scripts.STAND, KEYS, 0, f"new{self._ids}", KEPT, *known)
        epoch, ts, latest, tail, is_recovered, entries, gone = found
        moments = [codec.read_entry(entry)[0] for entry in entries]
        return Stand(found[0].decode(), ts, latest, tail, is_recovered == 1, moments, sorted(gone))

    def history(
        self,
        epoch: str = "",
        since: int | str = "",
        *,
        reverse: bool = False,
        count: int = 100,
        size: int = 10**6,
    ) -> tuple[str, int, bool, list[int]]:
        self._ids += 1
        asked = (epoch, since, int(reverse), count, size)
        keys = KEYS[:3]
        found = self._run(scripts.HISTORY, keys, 0, f"new{self._ids}", KEPT, *asked)
        epoch, ts, _, is_of_epoch, entries = found
        return (
            found[0].decode(),
            ts,
            is_of_epoch == 1,
            [codec.read_entry(entry)[0] for entry in entries],
        )

    def write(self, ts: int, user: str = "4") -> None:
        """Another server stores a message."""
        self.redis.rpush(LIST, codec.message_prefix("1", user, "hi") + b"%d}" % ts)

    @property
    def listed(self) -> list[int]:
        entries: list[bytes] = self.redis.lrange(LIST, 0, -1)  # type: ignore[assignment]
        return [codec.read_entry(entry)[0] for entry in entries]

    @property
    def remembered(self) -> set[bytes]:
        """The deletions that are."""
        if self.redis.type(REMOVALS) != b"zset":
            return set()
        return set(self.redis.zrange(REMOVALS, 0, -1))  # type: ignore[arg-type]

    @property
    def letter(self) -> str:
        """What the life says of the list."""
        return (self.redis.get(LIFE) or b"-").decode()[0]  # type: ignore[union-attr]


@pytest.fixture
def group(redis: Redis) -> Group:
    return Group(redis)


# Where nothing is lost


def test_who_comes_first_begins_a_life(group: Group) -> None:
    """Of an empty group or of one with messages; others find the same one, and append to it."""
    first = group.stand()
    assert (first[1], first[3:]) == (0, (b"", False, [], []))
    assert group.letter == "p"
    assert group.stand().epoch == first.epoch == group.history()[0]
    (said,) = group.say()
    assert group.letter == "l"
    later = group.stand()
    assert later[:2] == (first.epoch, said)
    assert codec.read_entry(later.tail)[0] == said
    group.redis.delete(LIFE)
    assert group.stand().epoch not in ("", first.epoch)
    assert group.letter == "l"


def test_who_comes_back_gets_what_was_said_since(group: Group) -> None:
    """From the empty group on, from any message on, and nothing where nothing was said."""
    epoch = group.stand().epoch
    said = group.say(3) + group.say(2)
    for index, ts in enumerate([0, *said]):
        stand = group.stand(epoch, ts)
        assert (stand.is_recovered, stand.messages, stand.gone) == (True, said[index:], [])


def test_who_asks_for_nothing_is_given_nothing(group: Group) -> None:
    """Without a position, or with that of another life."""
    stand = group.stand()
    said = group.say(2)
    for epoch, since in ((stand.epoch, ""), ("", ""), ("", said[0]), ("another", said[0])):
        assert group.stand(epoch, since)[4:] == (False, [], [])
    assert group.stand(stand.epoch, said[0]).is_recovered


def test_deletions_are_told_and_keep_what_is_left_recovered(group: Group) -> None:
    """A recall of what was seen, of what was not, of the position itself; a purge; all of them."""
    epoch = group.stand().epoch
    said = group.say(5)
    recalled = [group.recall(said[1])]
    assert group.stand(epoch, said[2])[4:] == (True, said[3:], recalled)
    recalled.append(group.recall(said[3]))
    assert group.stand(epoch, said[2])[4:] == (True, said[4:], sorted(recalled))
    recalled.append(group.recall(said[2]))
    assert group.stand(epoch, said[2])[4:] == (True, said[4:], sorted(recalled))
    purged = group.purge()
    assert group.letter == "p"
    for since in (said[2], said[4], 0):
        assert group.stand(epoch, since)[4:] == (True, [], sorted([*recalled, *purged]))
    later = group.say(2)
    assert group.letter == "l"
    for since in (said[0], said[4], 0):
        assert group.stand(epoch, since)[4:] == (True, later, sorted([*recalled, *purged]))
    assert group.stand(epoch, later[0])[4:6] == (True, later[1:])


def test_the_last_message_that_is_recalled_leaves_an_empty_list_that_is_whole(
    group: Group,
) -> None:
    """What is said next belongs to the same life."""
    epoch = group.stand().epoch
    (said,) = group.say()
    event = group.recall(said)
    assert group.letter == "p"
    assert group.stand(epoch, said)[4:] == (True, [], [event])
    later = group.say(2)
    assert group.stand(epoch, said)[4:] == (True, later, [event])


def test_of_a_burst_every_deletion_is_told_though_it_ran_ahead_of_the_clock(group: Group) -> None:
    """The later ones first: an older message's deletion is after the newest that was ever seen."""
    epoch = group.stand().epoch
    said = group.say(500)
    events = [group.recall(ts) for ts in reversed(said[-20:])]
    stand = group.stand(epoch, said[-1])
    assert stand[4:] == (True, [], sorted(events))


def test_a_deletion_that_was_told_before_is_not_told_for_ever(group: Group) -> None:
    """Only those since the position."""
    epoch = group.stand().epoch
    said = group.say(2)
    group.recall(said[0])
    time.sleep(0.05)
    (later,) = group.say()
    assert group.stand(epoch, later)[4:] == (True, [], [])


# Where something may be missing


def lose(group: Group) -> None:
    group.redis.delete(LIST)


LOSSES: dict[str, Callable[[Group], object]] = {
    "deleted": lose,
    "expired": lambda group: group.redis.pexpire(LIST, 0),
    "renamed": lambda group: group.redis.rename(LIST, "elsewhere"),
    "cut to nothing": lambda group: group.redis.ltrim(LIST, 1, 0),
    "flushed": lambda group: group.redis.flushall(),
    "its life lost": lambda group: group.redis.delete(LIFE),
    "its life another thing": lambda group: (
        group.redis.lpush(LIFE, "x") if group.redis.delete(LIFE) else None
    ),
    "its life no life": lambda group: group.redis.set(LIFE, "life"[::-1]),
}


@pytest.mark.parametrize("goes_on", ["silent", "said", "said by another", "purged"])
@pytest.mark.parametrize("loss", LOSSES)
def test_nobody_recovers_where_the_list_was_lost(group: Group, loss: str, goes_on: str) -> None:
    """Whoever goes on, and whether somebody looked in between; there is a new life for all."""
    for is_looked_at in (False, True):
        group.redis.flushall()
        epoch = group.stand().epoch
        said = group.say(3)
        group.say()
        LOSSES[loss](group)
        if is_looked_at:
            assert group.stand().epoch != epoch
        if goes_on == "said":
            group.say(2)
        elif goes_on == "said by another":
            group.write(said[-1] + 10)
        elif goes_on == "purged":
            group.purge()
            group.say()
        for since in said:
            assert not group.stand(epoch, since).is_recovered
        now = group.stand()
        assert group.stand(now.epoch, now.ts).is_recovered


@pytest.mark.parametrize("since", ["future", "between", "stolen", "trimmed by another"])
def test_a_position_that_is_not_there_recovers_nobody(group: Group, since: str) -> None:
    """Of a message that nobody has said, or that is gone without a deletion of ours."""
    epoch = group.stand().epoch
    said = group.say(2)
    time.sleep(0.05)
    said += group.say(2)
    position = {"future": said[-1] + 1, "between": said[1] + 1}.get(since, said[1])
    if since == "stolen":
        entry = codec.message_prefix("1", "3", "hi") + b"%d}" % said[1]
        assert group.redis.lrem(LIST, 0, entry.decode()) == 1
    elif since == "trimmed by another":
        group.redis.ltrim(LIST, 2, -1)
    assert not group.stand(epoch, position).is_recovered
    group.recall(said[3])
    assert not group.stand(epoch, position).is_recovered
    assert group.stand(epoch, said[2]).is_recovered


def test_who_was_trimmed_past_has_not_recovered(redis: Redis) -> None:
    """Who was not, has; also when the position was recalled, or the list begun with a trim."""
    group = Group(redis, longest=3)
    epoch = group.stand().epoch
    said = group.say(3)
    assert group.letter == "l"
    assert group.stand(epoch, 0)[4:] == (True, said, [])
    said += group.say(2)
    assert group.letter == "t"
    assert group.listed == said[2:]
    assert [group.stand(epoch, ts).is_recovered for ts in (0, *said)] == [False] * 3 + [True] * 3
    event = group.recall(said[2])
    assert not group.stand(epoch, said[2]).is_recovered, "an older one may have been trimmed"
    assert group.stand(epoch, said[3])[4:] == (True, said[4:], [event])
    group.purge()
    assert group.letter == "p"
    later = group.say(5)
    assert group.letter == "t"
    assert group.stand(epoch, later[1]).is_recovered is False
    assert group.stand(epoch, later[2])[4:6] == (True, later[3:])


def test_a_trimmed_list_that_recalls_emptied_is_as_good_as_lost(redis: Redis) -> None:
    """Its oldest went unseen, and nothing is left that says so."""
    group = Group(redis, longest=1)
    epoch = group.stand().epoch
    first, second, third = group.say(3, batch=False)
    assert group.listed == [third]
    group.recall(third)
    assert not group.stand(epoch, third).is_recovered
    group.redis.delete(REMOVALS)
    later = group.say()
    for since in (0, first, second, third):
        assert not group.stand(epoch, since).is_recovered
    assert group.stand(group.stand().epoch, later[0]).is_recovered


def test_a_list_that_another_has_begun_is_lost_with_what_we_said(group: Group) -> None:
    """A life that waits for its first message has it then, whoever has said it."""
    for is_looked_at in (False, True):
        group.redis.flushall()
        stand = group.stand()
        group.write(group.stand().latest - 60_000)
        if is_looked_at:
            assert group.stand().epoch == stand.epoch
        (said,) = group.say()
        assert group.letter == "l"
        assert group.stand(stand.epoch, 0).messages[1:] == [said]
        lose(group)
        assert not group.stand(stand.epoch, said).is_recovered
        assert not group.stand(stand.epoch, 0).is_recovered


@pytest.mark.parametrize("kind", ["lost", "text", "begun anew"])
def test_deletions_that_are_forgotten_recover_nobody(group: Group, kind: str) -> None:
    """Whose position is before one of them; others recover, and a recall works all the same."""
    epoch = group.stand().epoch
    said = group.say(4)
    group.recall(said[0])
    group.redis.delete(REMOVALS)
    if kind == "text":
        group.redis.set(REMOVALS, "x")
    elif kind == "begun anew":
        group.recall(said[1])
        assert group.redis.zcard(REMOVALS) == 1
    for since in (0, said[2], said[3]):
        assert group.stand(epoch, since)[4:] == (False, [], [])
    time.sleep(0.05)
    (later,) = group.say()
    assert group.stand(group.stand().epoch, later).is_recovered
    event = group.recall(said[2])
    now = group.stand()
    is_of_another_type = kind == "text"
    assert (now.epoch != epoch) == is_of_another_type
    assert group.stand(epoch, said[3]).is_recovered is False
    if not is_of_another_type:
        assert group.stand(epoch, later)[4:] == (True, [], [event])
    assert group.stand(now.epoch, later).is_recovered
    again = group.recall(said[3])
    expected = [again] if is_of_another_type else sorted([event, again])
    assert group.stand(now.epoch, later)[4:] == (True, [], expected)


def test_so_many_deletions_are_remembered(group: Group) -> None:
    """Who missed as many may have missed more; who missed fewer is told them."""
    epoch = group.stand().epoch
    said = group.say(REMEMBERED + 3)
    events = [group.recall(ts) for ts in said[: REMEMBERED - 1]]
    assert group.stand(epoch, said[-1]).gone == sorted(events)
    group.recall(said[-2])
    assert not group.stand(epoch, said[-1]).is_recovered
    group.recall(said[-3])
    assert group.redis.zcard(REMOVALS) == REMEMBERED
    assert not group.stand(epoch, said[-1]).is_recovered
    assert 98 <= group.redis.ttl(REMOVALS) <= 100


@pytest.mark.parametrize("is_recalled", [False, True])
def test_a_ts_that_was_given_twice_is_no_position(group: Group, is_recalled: bool) -> None:
    """Of two Java servers: the client may have seen one of them alone."""
    epoch = group.stand().epoch
    ts, *_ = said = group.say(2)
    group.write(said[1], "3" if is_recalled else "4")
    group.write(said[1] + 5)
    if is_recalled:
        group.recall(said[1])
    assert not group.stand(epoch, said[1]).is_recovered
    assert group.stand(epoch, ts).is_recovered
    assert group.stand(epoch, said[1] + 5).is_recovered


def test_a_message_out_of_order_is_not_missed(group: Group) -> None:
    """Who comes back goes on in the list's order: what stands behind the position is new."""
    epoch = group.stand().epoch
    (ts,) = group.say()
    order = [ts + n for n in (10, 30, 20, 40)]
    for each in order:
        group.write(each)
    for index, each in enumerate(order):
        assert group.stand(epoch, each)[4:6] == (True, order[index + 1 :])


def test_more_than_is_caught_up_with_is_not_recovered(group: Group) -> None:
    """By messages, and by the bytes of them and of the deletions."""
    epoch = group.stand().epoch
    said = group.say(5)
    size = len(group.stand().tail)
    assert group.stand(epoch, said[0], most=4).messages == said[1:]
    assert not group.stand(epoch, said[0], most=3).is_recovered
    assert group.stand(epoch, said[4], most=0).is_recovered
    assert group.stand(epoch, said[0], size=4 * size).messages == said[1:]
    assert not group.stand(epoch, said[0], size=4 * size - 1).is_recovered
    event = group.recall(said[4])
    assert group.stand(epoch, said[0], size=3 * size + len(event)).gone == [event]
    assert group.stand(epoch, said[0], size=3 * size + len(event) - 1)[4:] == (False, [], [])


def test_a_foreign_message_that_is_recalled_makes_no_deletion_last(group: Group) -> None:
    """Its ts is no measure, and what was deleted before it is told no longer than else."""
    epoch = group.stand().epoch
    (said,) = group.say()
    group.write(said + 10**9, "3")
    event = group.recall(said + 10**9)
    assert group.stand(epoch, said)[4:] == (True, [], [event])
    time.sleep(0.05)
    (later,) = group.say()
    assert group.stand(epoch, later)[4:] == (True, [], [])


# The life itself


def test_a_life_is_kept_while_it_is_asked_for(group: Group) -> None:
    """An append and a deletion leave its time as it is; who asks renews it when half is over."""
    group.stand()
    assert KEPT - 2 <= group.redis.ttl(LIFE) <= KEPT
    for left, renewed in ((KEPT // 2 + 50, False), (KEPT // 2 - 50, True)):
        for ask in (group.stand, group.history):
            group.redis.expire(LIFE, left)
            said = group.say(2)
            group.recall(said[0])
            group.purge()
            assert left - 5 <= group.redis.ttl(LIFE) <= left
            ask()
            assert (group.redis.ttl(LIFE) > left) is renewed
            group.say()


@pytest.mark.parametrize("life", ["p:x", "l:x:y:z", "x1:0:0", "", "p1:0"])
def test_a_life_that_is_none_holds_up_nothing(group: Group, life: str) -> None:
    """It may be anything: messages come and go, and who asks begins another, or goes on with it."""
    for _ in range(2):
        group.redis.set(LIFE, life)
        said = group.say(2)
        group.recall(said[0])
        group.say()
        group.purge()
        group.say()
        stand = group.stand()
        assert stand.epoch
        assert group.stand(stand.epoch, stand.ts).is_recovered


def test_lists_that_nobody_comes_back_to_have_no_life(group: Group) -> None:
    """A message costs Redis no key more, and a deletion is remembered for those who come."""
    said = group.say(2)
    group.recall(said[0])
    group.purge()
    group.say()
    assert not group.redis.exists(LIFE)


def test_where_nothing_can_be_written_the_group_can_be_read(group: Group) -> None:
    """As when Redis is out of memory: nobody comes back to such a life."""
    waiting = group.stand()
    said = [waiting.latest - 60_000]
    group.write(said[0])  # that there is something now cannot be noted
    group.redis.config_set("maxmemory", "1")
    try:
        stand, page = group.stand(), group.history()
        assert stand.ts == said[-1]
        assert page[3] == said
        assert len({waiting.epoch, stand.epoch, page[0]}) == 3
    finally:
        group.redis.config_set("maxmemory", "0")
    assert not group.stand(stand.epoch, said[0]).is_recovered


# A page of the history


def test_history_is_a_page_either_way(group: Group) -> None:
    """After a ts or before it, newest first when it goes back; at most so many, and bytes."""
    assert group.history()[1:] == (0, True, [])
    assert group.history(reverse=True)[1:] == (0, True, [])
    said = group.say(6)
    epoch = group.stand().epoch
    size = len(group.stand().tail)

    def page(since: int | str = "", **how: Any) -> list[int]:
        found = group.history(epoch, since, **how)
        assert found[:3] == (epoch, said[-1], True)
        return found[3]

    back = said[::-1]
    assert page() == said
    assert page(reverse=True) == back
    for count in range(8):
        assert page(count=count) == said[:count]
        assert page(count=count, reverse=True) == back[:count]
        for index, ts in enumerate(said):
            assert page(ts, count=count) == said[index + 1 :][:count]
            assert page(ts, count=count, reverse=True) == said[:index][::-1][:count]
    for most in range(1, 5):
        assert page(size=most * size) == said[:most]
        assert page(size=most * size + size - 1, reverse=True) == back[:most]
    assert page(size=1) == said[:1]


def test_history_of_another_life_is_none(group: Group) -> None:
    """It says which one there is."""
    said = group.say(2)
    epoch = group.stand().epoch
    assert group.history("another", said[0]) == (epoch, said[-1], False, [])
    lose(group)
    later = group.say()
    now = group.stand()
    assert group.history(epoch, 0) == (now.epoch, later[0], False, [])
    assert group.history(now.epoch, 0)[2:] == (True, later)


# Whatever happens, in whatever order


class Client(NamedTuple):
    """Somebody who has gone.

    ``said`` and ``told`` are how many messages and deletions there had been, ``lost`` how many
    losses.
    """

    epoch: str
    offset: int
    said: int
    told: int
    lost: int


class Story:
    """Everything that happens to a group, and what clients may be told of it."""

    def __init__(self, redis: Redis, seed: int, *, harms: bool, longest: int) -> None:
        redis.flushall()
        self.group = Group(redis, longest)
        self.chance = random.Random(seed)
        self.harms = harms
        self.said: list[int] = []
        self.told: list[bytes] = []
        self.losses = 0
        self.gone: list[Client] = []
        self.recovered = 0
        self.done: list[str] = []

    def go_on(self) -> None:
        """One thing happens."""
        deeds = ["say"] * 4 + ["recall"] * 3 + ["purge", "go", "go", "go", "come", "come"]
        if self.harms:
            deeds += ["lose", "steal", "cut", "forget", "forget_life", "write", "flush"]
        deed = self.chance.choice(deeds)
        self.done.append(deed)
        getattr(self, deed)()

    def say(self) -> None:
        self.said += self.group.say(self.chance.choice([1, 1, 2, 5, 60]))

    def recall(self) -> None:
        listed = self.group.listed
        if listed:
            ts = self.chance.choice([listed[-1], self.chance.choice(listed)])
            user = self._user_of(ts)
            if user == "3":
                self.told.append(self.group.recall(ts))

    def purge(self) -> None:
        self.told += self.group.purge()

    def go(self) -> None:
        """A client that knows all goes away."""
        stand = self.group.stand()
        counts = len(self.said), len(self.told), self.losses
        self.gone.append(Client(stand.epoch, stand.ts, *counts))

    def lose(self) -> None:
        self.losses += self.group.redis.delete(LIST)

    def flush(self) -> None:
        self.losses += 1
        self.group.redis.flushall()

    def steal(self) -> None:
        """Another program takes a message."""
        listed: list[bytes] = self.group.redis.lrange(LIST, 0, -1)  # type: ignore[assignment]
        if listed:
            self.group.redis.lrem(LIST, 1, self.chance.choice(listed).decode())
            self.losses += len(listed) == 1

    def cut(self) -> None:
        """Another program takes the oldest."""
        count = self.chance.randrange(1, 5)
        length = self.group.redis.llen(LIST)
        self.group.redis.ltrim(LIST, count, -1)
        self.losses += 0 < length <= count

    def forget(self) -> None:
        self.group.redis.delete(REMOVALS)

    def forget_life(self) -> None:
        self.losses += self.group.redis.delete(LIFE)

    def write(self) -> None:
        """Another server stores one, behind others: whether it begins the list nobody can know."""
        if self.group.listed:
            self.group.heard = max(self.said) + 1
            self.said.append(self.group.heard)
            self.group.write(self.group.heard)

    def come(self) -> None:
        """Somebody comes back."""
        if not self.gone:
            return
        client = self.chance.choice(self.gone)
        stand = self.group.stand(client.epoch, client.offset)
        where = f"{self.done} {client} {stand} {self.group.redis.get(LIFE)!r}"
        missed = self.said[client.said :]
        if not self.harms and not self.group.longest:
            assert stand.is_recovered, where
        if not stand.is_recovered:
            assert (stand.messages, stand.gone) == ([], [])
            return
        self.recovered += 1
        assert client.lost == self.losses, where
        listed = self.group.listed
        assert stand.messages == [ts for ts in listed if ts in missed], where
        told = set(self.told[client.told :])
        assert set(stand.gone) <= set(self.told), where
        assert len(set(stand.gone)) == len(stand.gone)
        untold = told - set(stand.gone)
        assert not untold or self.harms, where
        assert self._are_purged(untold, stand.gone), where
        if not self.harms:
            assert self._is_explained(set(missed) - set(listed), told), where

    def _are_purged(self, recalls: set[bytes], gone: list[bytes]) -> bool:
        """Whether recalls went with a purge that is told: the position was stolen before them."""
        until = max((json.loads(event).get("until", 0) for event in gone), default=0)
        events = [json.loads(event) for event in recalls]
        return all("until" not in each and each["ts"] <= until for each in events)

    def _is_explained(self, absent: set[int], told: set[bytes]) -> bool:
        """Whether what is missing was deleted."""
        events = [json.loads(event) for event in told]
        until = max((each.get("until", 0) for each in events), default=0)
        return absent <= {each["ts"] for each in events} | {ts for ts in absent if ts <= until}

    def _user_of(self, ts: int) -> str:
        entries: list[bytes] = self.group.redis.lrange(LIST, 0, -1)  # type: ignore[assignment]
        found = [json.loads(entry) for entry in entries]
        return next(str(each["userId"]) for each in found if each["ts"] == ts)


@pytest.mark.parametrize("longest", [0, 7, 70])
@pytest.mark.parametrize("harms", [False, True])
def test_nobody_is_told_to_have_recovered_who_misses_something(
    redis: Redis, harms: bool, longest: int
) -> None:
    """Seeded stories: what is given is all that there is, and every deletion is told.

    At least ten, and as many as it takes that somebody comes back to something.
    """
    first = random.randrange(10**9)
    recovered = 0
    for number in range(100):
        story = Story(redis, first + number, harms=harms, longest=longest)
        for _ in range(60):
            story.go_on()
        recovered += story.recovered
        if number >= 9 and recovered > 5:
            return
    raise AssertionError("nobody comes back to anything")
