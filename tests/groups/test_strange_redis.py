"""What another hand, or an accident, may do to the database while members talk.

Whatever stands in Redis concerns its own group: nobody else notices, no daemon crashes, and when it
is put right the group works again. And whatever becomes of lists and clocks, for each member that
stays connected ``ts`` is unique and increasing, and what is stored is delivered once.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clients import CLOSE, PING, TEXT, Answer, RawClient, log_in, message, metrics, post
from conftest import Daemon, redis_servers, run_daemon, wait_for
from faults import (
    Member,
    Message,
    MortalRedis,
    Proxy,
    StartDaemons,
    Talk,
    WallClock,
    check_once,
    check_order,
    check_unharmed,
    list_messages,
    running_daemons,
    shorten,
)

TRY_AGAIN = (1013, "try again later")
NEAR_MS = 61_000
"""A ``ts`` may be so far ahead of the clock of Redis, and no message of ours farther."""
YEARS_MS = 10 * 365 * 24 * 3600 * 1000
FOREIGN = "foreign"
"""The user of everything that no member has said."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    """A Redis of the test's own."""
    server = MortalRedis(redis_servers()[0], tmp_path / "redis")
    yield server
    server.close()


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "clock")


@pytest.fixture
def clocked_redis(clock: WallClock, tmp_path: Path) -> Iterator[MortalRedis]:
    """A Redis under that clock."""
    server = MortalRedis(redis_servers()[0], tmp_path / "redis", clock.environment)
    yield server
    server.close()


@pytest.fixture
def start_daemons(tmp_path: Path) -> Iterator[StartDaemons]:
    """Start daemons; at the end each must stop cleanly, with no crash in its log."""
    with running_daemons(tmp_path) as start:
        yield start


@dataclass
class House:
    """A Redis and two daemons."""

    redis: MortalRedis
    daemons: list[Daemon]


class Houses:
    """Builds one house, and another one when that is torn down."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._house: House | None = None

    def find(self) -> House:
        if self._house is None:
            folder = self._folders.mktemp("house")
            redis = MortalRedis(redis_servers()[0], folder / "redis")
            self._house = House(redis, [run_daemon(folder, redis.url) for _ in range(2)])
        return self._house

    def tear_down(self) -> None:
        if self._house is not None:
            for daemon in self._house.daemons:
                daemon.process.kill()
                daemon.process.wait()
            self._house.redis.close()
            self._house = None


# What holds for a group


def opening(daemon: Daemon, group: str) -> tuple[int, str]:
    """The close that somebody gets who opens a group's socket."""
    with RawClient(daemon.address, f"/group/chat/{group}/comer/t") as comer:
        frame = comer.next_frame()
        assert frame is not None
        assert frame.opcode == CLOSE, frame
        return frame.closing


def next_message(client: RawClient) -> Message:
    """The next message that a client gets."""
    while (frame := client.next_frame()) is not None:
        if frame.opcode == TEXT:
            return Message.read(frame.payload)
        assert frame.opcode == PING, frame.closing
        client.answer(frame)
    raise AssertionError("the stream ends")


def check_works(daemons: Sequence[Daemon], group: str) -> None:
    """Members of a group on every daemon hear what each of them says, once."""
    text = f"all is well at {time.monotonic_ns()} says "
    clients = [
        RawClient(daemon.address, f"/group/chat/{group}/tester-{number}/t")
        for number, daemon in enumerate(daemons)
    ]
    try:
        for client in clients:
            greeting = client.next_text()
            assert '"list":[' in greeting, greeting
        heard: list[list[Message]] = [[] for _ in clients]
        for number, client in enumerate(clients):
            client.say(f"{text}{number}")
            for hearer, messages in zip(clients, heard, strict=True):
                while not (message := next_message(hearer)).info.startswith(text):
                    pass  # others may still talk
                messages.append(message)
        expected = [f"{text}{number}" for number in range(len(clients))]
        for messages in heard:
            assert [each.info for each in messages] == expected
            check_order(messages, "at a tester")
    finally:
        for client in clients:
            client.stream.close()


def wait_working(daemons: Sequence[Daemon], group: str, seconds: float = 5) -> None:
    """The group works again, soon; until then who comes is told to try again."""
    deadline = time.monotonic() + seconds
    for daemon in daemons:
        while True:
            with RawClient(daemon.address, f"/group/chat/{group}/comer/t") as comer:
                frame = comer.next_frame()
                assert frame is not None
                if frame.opcode == TEXT:
                    break
                assert frame.closing == TRY_AGAIN
            assert time.monotonic() < deadline, "who comes is still told to try again"
            time.sleep(0.1)
    check_works(daemons, group)


def own(messages: Sequence[Message]) -> list[Message]:
    """The messages of members."""
    return [each for each in messages if each.user != FOREIGN]


def forget_lost(talk: Talk, killed_at: float) -> None:
    """Do not wait for what a Redis had stored and told nobody when it was killed, and lost.

    It was said less than a second before, and whoever said it has heard later texts of its own.
    """
    talk.go_on(20)
    for member in talk.members:
        lost = {text for text in tuple(member.unseen) if member.said[text] < killed_at}
        assert all(member.said[text] > killed_at - 1 for text in lost)
        for text in lost:
            member.unseen.discard(text)
            del member.said[text]


def check_told(talk: Talk, redis: MortalRedis) -> None:
    """Finish a talk whose list was lost on the way.

    Each member's ``ts`` increases, nothing comes twice, what each said it has heard in its order,
    and what is stored now is the end of what all have heard.
    """
    talk.finish()
    talk.check_open()
    stored = own(list_messages(redis.client, talk.group))
    assert stored
    for member in talk.members:
        heard = own(member.heard)
        where = f"at {member.user}"
        check_once([each.info for each in heard], where)
        check_order(heard, where)
        missing = [each.info for each in stored if each not in set(heard)]
        assert heard[-len(stored) :] == stored, f"{where} missing: {shorten(missing)}"
        echoes = [each.info for each in heard if each.user == member.user]
        assert echoes == list(member.said)


def check_near_clock(messages: Sequence[Message], redis: MortalRedis) -> None:
    """No member's message has a ``ts`` that is far ahead of the clock."""
    latest = redis.now() + NEAR_MS
    far = [each for each in own(messages) if each.ts > latest]
    assert not far, f"far ahead of the clock: {far[:5]}"


def kill_listeners(redis: MortalRedis) -> None:
    """Redis ends the connections that listen to channels."""
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")


def kill_listeners_and_wait(redis: MortalRedis, daemons: Sequence[Daemon]) -> None:
    """The same, and the daemons listen again."""
    before = redis.listeners()
    kill_listeners(redis)
    wait_for(lambda: len(redis.listeners() - before) >= len(daemons))


# A key of another type

KINDS: dict[str, tuple[str, ...]] = {
    "string": ("SET", "gml:bad", "x"),
    "hash": ("HSET", "gml:bad", "field", "value"),
    "set": ("SADD", "gml:bad", "member"),
    "zset": ("ZADD", "gml:bad", "1", "member"),
    "stream": ("XADD", "gml:bad", "*", "field", "value"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)

ROUTES: dict[str, tuple[str, dict[str, object]]] = {
    "history": ("/group/listMessage", {"groupId": "bad", "startPage": 0, "endPage": -1}),
    "older, by the old route": (
        "/group/listMessage",
        {"groupId": "bad", "userId": "1", "ts": 1, "count": 5},
    ),
    "older": ("/group/listOldMessage", {"groupId": "bad", "userId": "1", "ts": 1, "count": 5}),
    "recall": ("/group/delMessage", {"groupId": "bad", "ts": 1}),
}


def unusable_lines(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.events("store.key_unusable") if line["key"] == "gml:bad"]


def check_logged(daemon: Daemon) -> None:
    """There are warnings that name the key, at most one a second."""
    lines = unusable_lines(daemon)
    assert lines
    assert {line["level"] for line in lines} == {"warning"}
    moments = [line["ts"] for line in lines]
    seconds = [seconds_of(moment) for moment in moments]
    for before, after in itertools.pairwise(seconds):
        assert after - before > 0.8, f"{len(lines)} lines, {after - before:.3f} s apart"


def seconds_of(moment: str) -> float:
    """Seconds of a log line's ``ts`` within the day."""
    found = re.search(r"T(\d+):(\d+):([\d.]+)", moment)
    assert found is not None, moment
    return float(found[1]) * 3600 + float(found[2]) * 60 + float(found[3])


def check_refused_routes(daemon: Daemon, headers: dict[str, str]) -> None:
    """HTTP says 500 with the key: of the list, or of the group's policy, which is read first."""
    for name, (path, fields) in ROUTES.items():
        answer = post(daemon, path, fields, headers)
        assert (answer.status, answer.json["code"]) == (500, 500), name
        assert re.search("(gml|fastimd:policy):bad", answer.json["msg"]), name


@every_kind
def test_a_key_of_another_type_concerns_its_group_alone(
    kind: str, redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Who comes gets 1013 and HTTP 500; group lists and other groups go on; then all is well."""
    daemons = start_daemons(redis.url)
    headers = log_in(daemons[0])
    redis.client.sadd("ugs:ann", "bad", "good")
    redis.ask(*KINDS[kind])
    with (
        Talk(daemons, each=2, group="good") as talk,
        RawClient(daemons[0].address, "/group/list/ann/t") as lists,
    ):
        before = [metrics(daemon)["fastimd_unusable_keys_total"] for daemon in daemons]
        for daemon, _ in itertools.product(daemons, range(5)):
            assert opening(daemon, "bad") == TRY_AGAIN
        check_refused_routes(daemons[0], headers)
        for daemon, count in zip(daemons, before, strict=True):
            assert metrics(daemon)["fastimd_unusable_keys_total"] >= count + 5
            check_logged(daemon)
        totals = [{each["total"] for each in json.loads(lists.next_text())} for _ in range(2)]
        assert 0 in totals[-1]
        assert max(totals[-1]) > 0
        talk.go_on(5)
        redis.client.delete("gml:bad")
        check_works(daemons, "bad")
        for name, (path, fields) in ROUTES.items():
            assert post(daemons[0], path, fields, headers).status == 200, name
        talk.settle(redis.client)


@every_kind
def test_a_list_that_becomes_something_else_is_told_to_its_members_alone(
    kind: str, redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Its gap cannot be repaired: 1013 for its sockets, and another group misses nothing."""
    daemons = start_daemons(redis.url)
    redis.client.sadd("ugs:ann", "bad", "good")
    with (
        Talk(daemons, group="good", names="good-") as talk,
        Talk(daemons, each=2, loop=False, group="bad", names="bad-") as bad,
        RawClient(daemons[0].address, "/group/list/ann/t") as lists,
    ):
        for member in bad.members:
            bad.say(member, f"{member.user} is here")
        bad.wait_seen()
        for _ in range(2):
            redis.client.delete("gml:bad")
            redis.ask(*KINDS[kind])
            kill_listeners(redis)
            bad.wait_closed(*bad.members, seconds=10)
            talk.wait_further()
        for member in bad.members:
            assert member.closed == TRY_AGAIN, member.user
        for daemon in daemons:
            assert opening(daemon, "bad") == TRY_AGAIN
            check_logged(daemon)
        redis.client.delete("gml:bad")
        wait_working(daemons, "bad")
        assert json.loads(lists.next_text())
        kill_listeners(redis)
        talk.wait_further()
        wait_working(daemons, "bad")
        talk.settle(redis.client)


def test_who_speaks_to_a_list_that_is_none_is_told(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """The speaker gets 1013; the silent stay, and hear the group when it is put right."""
    daemons = start_daemons(redis.url)
    with (
        Talk(daemons, group="good", names="good-") as talk,
        Talk(daemons, each=2, loop=False, group="bad", names="bad-") as bad,
    ):
        speaker, *others = bad.members
        for member in bad.members:
            bad.say(member, f"{member.user} is here")
        bad.wait_seen()
        redis.client.delete("gml:bad")
        redis.client.set("gml:bad", "x")
        bad.say(speaker, *(f"too bad {number}" for number in range(20)))
        bad.wait_closed(speaker, seconds=5)
        assert speaker.closed is not None
        assert speaker.closed[0] == 1013
        talk.go_on(5)
        redis.client.delete("gml:bad")
        for member in others:
            bad.say(member, f"{member.user} is still here")
        bad.finish()
        bad.check_open([speaker])
        for member in others:
            assert member.heard == others[0].heard
            check_order(member.heard, f"at {member.user}")
        assert "too bad 0" not in {each.info for each in list_messages(redis.client, "bad")}
        talk.settle(redis.client)


@pytest.mark.parametrize("floor", ["list", "abc", "1e400", "nan", "-inf", "9007199254740993", ""])
def test_a_floor_that_is_none_concerns_its_group_alone(
    floor: str, redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Who speaks is heard, with a ``ts`` near the clock, or told 1013; then all is well."""
    daemons = start_daemons(redis.url)
    headers = [log_in(daemon, f"bad-{number}") for number, daemon in enumerate(daemons)]
    key = "fastimd:floor:bad"
    with (
        Talk(daemons, group="good", names="good-") as talk,
        Talk(daemons, each=1, loop=False, group="bad", names="bad-") as bad,
    ):
        for member in bad.members:
            bad.say(member, f"{member.user} is here")
        bad.wait_seen()
        if floor == "list":
            redis.client.delete(key)  # the daemon may have raised one
            redis.client.rpush(key, "x")
        else:
            redis.client.set(key, floor)
        for number, member in enumerate(bad.members):
            bad.say(member, f"{member.user} says something")
            wait_for(partial(is_answered, member))
            newest = list_messages(redis.client, "bad")[-1]
            fields = {"groupId": "bad", "ts": newest.ts}
            answer = post(daemons[number], "/group/delMessage", fields, headers[number])
            assert answer.status in (200, 500)
        check_near_clock(list_messages(redis.client, "bad"), redis)
        kill_listeners(redis)
        talk.wait_further()
        redis.client.delete(key)
        wait_working(daemons, "bad")
        for member in bad.members:
            assert member.closed is None or member.closed[0] == 1013
            check_order(member.heard, f"at {member.user}")
            check_near_clock(member.heard, redis)
        talk.settle(redis.client)


def is_answered(member: Member) -> bool:
    """Whether all that a member said has come back, or it was closed."""
    return not member.unseen or member.closed is not None


# A permission that is missing

EVERYTHING = ("on", ">secret", "+@all")


def url_of_user(redis: MortalRedis) -> str:
    return f"redis://chat:secret@127.0.0.1:{redis.port}/0"


def test_a_key_that_must_not_be_touched_concerns_its_group_alone(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """NOPERM for ``gml:bad``: as with a wrong type."""
    patterns = ("~fastimd:*", "~ugs:*", "~login:*", "~gml:good*")
    redis.ask("ACL", "SETUSER", "chat", *EVERYTHING, "allchannels", *patterns)
    daemons = start_daemons(url_of_user(redis))
    headers = log_in(daemons[0])
    with Talk(daemons, group="good") as talk:
        for daemon in daemons:
            for _ in range(3):
                assert opening(daemon, "bad") == TRY_AGAIN
            assert metrics(daemon)["fastimd_unusable_keys_total"] >= 3
            check_logged(daemon)
        check_refused_routes(daemons[0], headers)
        talk.go_on(5)
        redis.ask("ACL", "SETUSER", "chat", "~gml:bad")
        check_works(daemons, "bad")
        talk.settle(redis.client)


def test_a_key_whose_permission_is_taken_concerns_its_group_alone(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """While its members talk, too: they get 1013, and another group misses nothing."""
    redis.ask("ACL", "SETUSER", "chat", *EVERYTHING, "allchannels", "allkeys")
    daemons = start_daemons(url_of_user(redis))
    patterns = ("~fastimd:*", "~ugs:*", "~login:*", "~gml:good*")
    with (
        Talk(daemons, group="good", names="good-") as talk,
        Talk(daemons, group="bad", names="bad-") as bad,
    ):
        bad.go_on(20)
        redis.ask("ACL", "SETUSER", "chat", "resetkeys", *patterns)
        bad.wait_closed(*bad.members, seconds=10)
        bad.check_open(bad.members)
        kill_listeners(redis)
        talk.wait_further()
        redis.ask("ACL", "SETUSER", "chat", "allkeys")
        wait_working(daemons, "bad")
        talk.settle(redis.client)


def test_a_channel_that_must_not_be_heard_concerns_its_group_alone(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """NOPERM for SUBSCRIBE: that socket gets 1013, and the connection to Redis stays."""
    channels = ("resetchannels", "&fastimd:*", "&mq:good*")
    redis.ask("ACL", "SETUSER", "chat", *EVERYTHING, "allkeys", *channels)
    daemons = start_daemons(url_of_user(redis))
    with Talk(daemons, group="good") as talk:
        listening = redis.listeners()
        for daemon in daemons:
            for _ in range(3):
                assert opening(daemon, "bad") == TRY_AGAIN
        talk.go_on(20)
        assert redis.listeners() == listening
        kill_listeners(redis)
        for daemon in daemons:
            assert opening(daemon, "bad") == TRY_AGAIN
        talk.wait_further()
        redis.ask("ACL", "SETUSER", "chat", "&mq:bad")
        wait_working(daemons, "bad")
        talk.settle(redis.client)


def test_a_channel_whose_permission_is_taken_concerns_its_group_alone(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Redis ends the connections that listened to it; its members get 1013, others miss nothing."""
    redis.ask("ACL", "SETUSER", "chat", *EVERYTHING, "allkeys", "allchannels")
    daemons = start_daemons(url_of_user(redis))
    with (
        Talk(daemons, group="good", names="good-") as talk,
        Talk(daemons, group="bad", names="bad-") as bad,
    ):
        bad.go_on(20)
        redis.ask("ACL", "SETUSER", "chat", "resetchannels", "&fastimd:*", "&mq:good*")
        bad.wait_closed(*bad.members, seconds=10)
        bad.check_open(bad.members)
        talk.wait_further()
        redis.ask("ACL", "SETUSER", "chat", "allchannels")
        wait_working(daemons, "bad")
        talk.settle(redis.client)


# A fail-over, and clocks


@pytest.mark.parametrize(
    ("is_empty", "steps"),
    [(True, (-6,)), (False, (-6,)), (True, (6, 0)), (False, (6, 0)), (True, (-3, -6, 2, -6))],
    ids=["empty, behind", "kept, behind", "empty, to and fro", "kept, to and fro", "empty, often"],
)
def test_a_restart_with_another_clock_lets_ts_increase(
    is_empty: bool,
    steps: tuple[int, ...],
    clock: WallClock,
    clocked_redis: MortalRedis,
    start_daemons: StartDaemons,
) -> None:
    """Redis comes back with a clock that is seconds behind, with its data or without."""
    redis = clocked_redis
    daemons = start_daemons(redis.url)
    with Talk(daemons) as talk:
        for step in steps:
            talk.go_on(50)
            killed_at = time.monotonic()
            redis.kill()
            if is_empty:
                redis.wipe()
            clock.move(step)
            redis.start()
            talk.wait_further()
            if is_empty:
                forget_lost(talk, killed_at)
        talk.go_on(50)
        check_told(talk, redis)
        for member in talk.members:
            check_near_clock(member.heard, redis)


def test_a_fail_over_to_an_empty_redis_lets_ts_increase(
    clock: WallClock, redis: MortalRedis, tmp_path: Path, start_daemons: StartDaemons
) -> None:
    """The address leads to another server, which has nothing and is 6 s behind."""
    clock.move(-6)
    other = MortalRedis(redis.executable, tmp_path / "other", clock.environment)
    proxy = Proxy(redis.port)
    try:
        with Talk(start_daemons(proxy.url)) as talk:
            talk.go_on(50)
            proxy.target = other.port
            killed_at = time.monotonic()
            redis.kill()
            talk.wait_further()
            forget_lost(talk, killed_at)
            talk.go_on(50)
            check_told(talk, other)
    finally:
        proxy.close()
        other.close()


def test_a_clock_that_is_set_back_while_a_list_is_lost_lets_ts_increase(
    clock: WallClock, clocked_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Nothing breaks: the clock is moved, and then all is thrown away."""
    redis = clocked_redis
    with Talk(start_daemons(redis.url)) as talk:
        for ahead in (8, 0, -8, 0, -4):
            talk.go_on(20)
            clock.move(ahead)
            talk.go_on(5)
            redis.client.flushall()
            talk.wait_further()
        check_told(talk, redis)


# A list that is lost while ts is ahead of the clock


def flush_all(redis: MortalRedis) -> None:
    redis.client.flushall()


def delete_list(redis: MortalRedis) -> None:
    redis.client.delete("gml:1")


def unlink_list_and_floor(redis: MortalRedis) -> None:
    redis.client.unlink("gml:1", "fastimd:floor:1")


def rename_list(redis: MortalRedis) -> None:
    redis.client.rename("gml:1", "kept")


def expire_list(redis: MortalRedis) -> None:
    """Our next message may come first and renew the expiry: then again."""
    while redis.client.lindex("gml:1", 0) == (first := redis.client.lindex("gml:1", 0)):
        redis.client.pexpire("gml:1", 1)
        time.sleep(0.003)
        if redis.client.lindex("gml:1", 0) != first:
            return


def evict_list(redis: MortalRedis) -> None:
    """Other keys need so much memory that Redis throws the list away."""
    [first] = redis.client.lrange("gml:1", 0, 0)
    redis.client.config_set("maxmemory-policy", "allkeys-random")
    used = redis.client.info("memory")["used_memory"]
    redis.client.config_set("maxmemory", used + 1_000_000)
    for number in range(5000):
        redis.client.set(f"filler-{number}", "x" * 10_000)
        if redis.client.lrange("gml:1", 0, 0) != [first]:
            break
    else:
        pytest.fail("the list was not thrown away")
    redis.client.config_set("maxmemory", 0)
    redis.client.config_set("maxmemory-policy", "noeviction")


LOSSES = [
    flush_all,
    delete_list,
    unlink_list_and_floor,
    rename_list,
    expire_list,
    evict_list,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_list_that_is_lost_while_ts_is_ahead_lets_ts_increase(
    lose: Callable[[MortalRedis], None], redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """An entry 20 s ahead of the clock has carried ``ts`` along, as a long burst does."""
    with Talk(start_daemons(redis.url)) as talk:
        for _ in range(3):
            talk.go_on(10)
            redis.client.rpush("gml:1", message(redis.now() + 20_000, user=FOREIGN))
            talk.go_on(10)
            lose(redis)
            talk.wait_further(count=5)
        check_told(talk, redis)
        for member in talk.members:
            check_near_clock(member.heard, redis)


@pytest.mark.parametrize("lose", [flush_all, delete_list])
def test_a_list_that_is_lost_after_a_burst_lets_ts_increase(
    lose: Callable[[MortalRedis], None], redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """So many messages in so little time that ``ts`` is more than a second ahead of the clock."""
    with Talk(start_daemons(redis.url), each=1, loop=False) as talk:
        for wave in itertools.count():
            for member in talk.members:
                talk.say(member, *(f"{member.user} {wave} {number}" for number in range(2500)))
            talk.wait_seen()
            if list_messages(redis.client)[-1].ts - redis.now() > 1000:
                break
            if wave == 3:
                pytest.skip("this machine is too slow to bring ts ahead of the clock")
        lose(redis)
        for member in talk.members:
            talk.say(member, f"{member.user} goes on")
        talk.wait_seen()
        check_told(talk, redis)


# What somebody else writes and publishes


def foreign(ts: object, group: str = "1", info: str = "from elsewhere") -> str:
    """A message that none of the daemons has stored; ``ts`` as it stands in the JSON."""
    return f'{{"groupId":"{group}","userId":"{FOREIGN}","info":"{info}","ts":{ts}}}'


def ten_years_on() -> int:
    return int(time.time() * 1000) + YEARS_MS


def largest() -> int:
    return 2**53 - 1


FAR: dict[str, Callable[[], int]] = {"ten years": ten_years_on, "2^53-1": largest}
"""They are messages, though their ``ts`` means nothing."""

CORRUPT: dict[str, str] = {
    "2^53": foreign(2**53),
    "2^53+1": foreign(2**53 + 1),
    "2^63": foreign(2**63),
    "2^64": foreign(2**64),
    "20 digits": foreign(10**20 - 1),
    "400 digits": foreign("9" * 400),
    "1e400": foreign("1e400"),
    "an object": foreign('{"ts":1}'),
    "an array": foreign("[1]"),
    "a text": foreign('"1648368380132"'),
    "a fraction": foreign("1648368380132.5"),
    "null": foreign("null"),
    "true": foreign("true"),
    "none": f'{{"groupId":"1","userId":"{FOREIGN}","info":"x"}}',
    "nested": "[" * 5000,
    "nested objects": foreign('{"a":' * 2000 + "1" + "}" * 2000),
    "wrapped": json.dumps(foreign(2**53)),
    "garbage": "\x00\x01 no message",
    "empty": "",
}
"""They are no messages."""
NEGATIVE = foreign(-5)
"""It may be either."""


def kinds_heard(member: Member) -> int:
    """How many foreign messages a member has heard."""
    return sum(each.user == FOREIGN for each in member.heard)


@pytest.mark.parametrize("kind", FAR)
def test_a_published_ts_far_ahead_is_shown_once_and_spoils_nothing(
    kind: str, redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """It is logged and counted; what is said later is delivered, through reconnections, too."""
    daemons = start_daemons(redis.url)
    with Talk(daemons, each=2) as talk:
        talk.go_on(5)
        redis.client.publish("mq:1", foreign(FAR[kind]()))
        for daemon in daemons:
            wait_for(partial(daemon.events, "relay.foreign_ts"), daemon)
            [line] = daemon.events("relay.foreign_ts")
            assert (line["level"], line["group"]) == ("warning", "1")
            assert metrics(daemon)["fastimd_foreign_ts_total"] >= 1
        for _ in range(3):
            talk.go_on(5)
            kill_listeners(redis)
            talk.wait_further()
        check_works(daemons, "1")
        talk.finish()
        talk.check_open()
        listed = [each for each in list_messages(redis.client) if "all is well" not in each.info]
        for member in talk.members:
            heard = [each for each in own(member.heard) if "all is well" not in each.info]
            assert heard == listed, member.user
            check_order(own(member.heard), f"at {member.user}")
            assert kinds_heard(member) == 1
        check_near_clock(listed, redis)


def test_a_published_ts_far_ahead_in_a_gap_spoils_nothing(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Connections are killed all the while, and one of them heard it last."""
    daemons = start_daemons(redis.url)
    with Talk(daemons, each=2) as talk:
        for _ in range(10):
            talk.go_on(2)
            for _ in range(3):
                redis.client.publish("mq:1", foreign(ten_years_on()))
                kill_listeners(redis)
                time.sleep(0.03)
            talk.wait_further()
        talk.finish()
        talk.check_open()
        listed = list_messages(redis.client)
        check_order(listed, "in the list")
        for member in talk.members:
            assert own(member.heard) == listed, member.user
        check_near_clock(listed, redis)


def test_what_is_published_and_no_message_is_left_out(
    redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """It is counted, nobody hears it, and what is said around it is delivered once."""
    daemons = start_daemons(redis.url)
    with Talk(daemons, each=2) as talk:
        talk.go_on(5)
        before = [metrics(daemon)["fastimd_corrupt_entries_total"] for daemon in daemons]
        for text in CORRUPT.values():
            redis.client.publish("mq:1", text)
            talk.go_on(1)
        for daemon, count in zip(daemons, before, strict=True):
            assert metrics(daemon)["fastimd_corrupt_entries_total"] == count + len(CORRUPT)
        heard = [kinds_heard(member) for member in talk.members]
        assert not any(heard), heard
        redis.client.publish("mq:1", NEGATIVE)
        kill_listeners(redis)
        talk.wait_further()
        talk.finish()
        listed = list_messages(redis.client)
        check_near_clock(listed, redis)
        check_order(listed, "in the list")
        for member in talk.members:
            assert own(member.heard) == listed, member.user


PLACES = ("head", "amid", "tail")
ENTRIES = 400
"""Of such a list one looks into the middle, and into the middle of a half, and so on."""
COPIES = 12
"""So many foreign entries stand together amid a list, that whoever looks there meets one."""


def fill(redis: MortalRedis, group: str, entry: str, place: str) -> list[Message]:
    """A list of a user's messages, the last of them a second old, with a foreign entry."""
    latest = redis.now() - 1000
    messages = [
        Message(latest - 100 * (ENTRIES - number), "own", f"old {number}")
        for number in range(ENTRIES)
    ]
    texts = [message(each.ts, group=group, user=each.user, info=each.info) for each in messages]
    at = {"head": 0, "amid": ENTRIES // 2, "tail": ENTRIES}[place]
    texts[at:at] = [entry] * (COPIES if place == "amid" else 1)
    redis.client.rpush(f"gml:{group}", *texts)
    return messages


def history(answer: Answer) -> list[Message]:
    assert (answer.status, answer.json["code"]) == (200, 200), answer.body
    return [Message.read(text.encode()) for text in answer.json["data"]]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [*FAR, *CORRUPT, "negative"])
def test_a_foreign_entry_spoils_nothing_around_it(kind: str, place: str, house: House) -> None:
    """Greeting, history, recall, repair and the next ``ts`` are right; what is none is left out."""
    redis, daemons = house.redis, house.daemons
    texts = {**{name: foreign(make()) for name, make in FAR.items()}, **CORRUPT}
    entry = texts.get(kind, NEGATIVE)
    group = f"{place}-{[*texts, 'negative'].index(kind)}"
    messages = fill(redis, group, entry, place)
    before = metrics(daemons[0])["fastimd_corrupt_entries_total"]
    headers = log_in(daemons[0], "own")
    with Talk(daemons, each=2, loop=False, group=group) as talk:
        for member in talk.members:
            assert member.greeting is not None
            assert member.greeting[-1] == messages[-1] or place == "tail"
            check_shown(member.greeting, kind)

        # what is said next, by who came first and by who comes now
        for member in talk.members:
            talk.say(member, f"{member.user} speaks")
        talk.wait_seen()
        check_works(daemons, group)

        # history, and what stands before a message
        listing = {"groupId": group, "startPage": 0, "endPage": -1}
        listed = history(post(daemons[0], "/group/listMessage", listing, headers))
        check_shown(listed, kind)
        assert own(listed)[:ENTRIES] == messages  # the order of the list
        for index in (6, 150, 198, 201, 203, 380, ENTRIES - 1):
            named = messages[index]
            fields = {"groupId": group, "userId": "own", "ts": named.ts, "count": 5}
            older = own(history(post(daemons[0], "/group/listOldMessage", fields, headers)))
            assert older == messages[index - len(older) : index], index
            least = index - ENTRIES // 2 if place == "amid" and 200 <= index < 205 else 4
            assert len(older) >= least, index

        # the gap after a broken connection
        for member in talk.members:
            talk.say(member, *(f"{member.user} says {number}" for number in range(20)))
            kill_listeners(redis)
        talk.finish()
        talk.check_open()
        stored = [
            each
            for each in read_list(redis, group)[ENTRIES:]
            if each.user.startswith(("member", "tester"))
        ]
        check_order(stored, "in the list")
        check_near_clock(stored, redis)
        assert stored[0].ts >= messages[-1].ts
        for member in talk.members:
            heard = [each for each in member.heard if each.user.startswith(("member", "tester"))]
            assert heard == stored, member.user

        # recall
        for index in (ENTRIES - 1, 203, 199):
            fields = {"groupId": group, "ts": messages[index].ts}
            answer = post(daemons[0], "/group/delMessage", fields, headers)
            assert (answer.status, answer.json["code"]) == (200, 200), (index, answer.body)
            assert messages[index] not in read_list(redis, group)
    if kind in CORRUPT:
        assert metrics(daemons[0])["fastimd_corrupt_entries_total"] > before


def read_list(redis: MortalRedis, group: str) -> list[Message]:
    """The members' messages of a list that has something else, too."""
    entries: Any = redis.client.lrange(f"gml:{group}", 0, -1)
    return [
        Message.read(entry)
        for entry in entries
        if FOREIGN.encode() not in entry and entry.startswith(b'{"groupId"')
    ]


def check_shown(messages: Sequence[Message], kind: str) -> None:
    """What is no message is not among these."""
    if kind in CORRUPT:
        assert FOREIGN not in {each.user for each in messages}


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Houses]:
    """Redis and daemons for many tests."""
    houses = Houses(tmp_path_factory)
    yield houses
    houses.tear_down()


@pytest.fixture
def house(houses: Houses) -> Iterator[House]:
    """A Redis and two daemons that have served others; they must be unharmed after the test."""
    house = houses.find()
    yield house
    try:
        for daemon in house.daemons:
            check_unharmed(daemon)
    except AssertionError:
        houses.tear_down()
        raise
