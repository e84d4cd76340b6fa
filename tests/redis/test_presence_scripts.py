"""The scripts of presence on every real redis-server of the machine, beside a model of them."""

from __future__ import annotations

import random
from typing import Any, cast

import msgspec
import pytest
from presence_model import Model
from redis import Redis
from structlog.testing import capture_logs

from fastimd.base.metrics import Metrics
from fastimd.groups.store.keyspace import Keyspace
from fastimd.groups.store.presence import (
    Change,
    How,
    Letter,
    Place,
    Presences,
    Roll,
    places_of,
    value_of,
)
from fastimd.redis import scripts
from fastimd.redis.scripts import Script

EVERY_REDIS = True
LEASE = 3_600_000


def inboxes(redis: Redis) -> Any:
    """A connection that hears all letters."""
    channel: Any = redis.pubsub()  # type: ignore[no-untyped-call]
    channel.psubscribe("fastimd:to:*")
    return channel


class Sent:
    """A script that was run at once."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def reply(self) -> Any:
        return self.answer


class Client:
    """In place of the daemon's client: runs scripts over redis-py, and counts them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.lease = LEASE
        self.calls = 0

    def send_script(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Sent:
        self.calls += 1
        if script is scripts.PRESENT:
            places = int(arguments[0])
            arguments = (*arguments[: places + 1], self.lease, *arguments[places + 2 :])
        elif script is scripts.RENEW:
            arguments = (arguments[0], self.lease, *arguments[2:])
        found: Any = self._redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]
        return Sent(found)


def presences(client: Client, daemon: str) -> Presences:
    made = Presences(Keyspace(client, Metrics()))  # type: ignore[arg-type]
    made.daemon = daemon
    return made


class Daemon:
    """Notes changes in the model and in Redis, and compares what both tell."""

    def __init__(self, redis: Redis, model: Model, name: str) -> None:
        self.client = Client(redis)
        self.keys = presences(self.client, name)
        self.model = model
        self.here: dict[str, bytes] = {}
        self.wants = False
        # The versions after the last change in Redis, and in the model.
        self.noted = self.noted_there = 0

    async def note(
        self,
        values: list[tuple[str, bytes]],
        how: How,
        *,
        announced: int,
        listed: int,
        is_last: bool,
    ) -> Roll | None:
        had = len(self.here)
        if how == "anew":
            self.here.clear()
        for user, value in values:
            if value:
                self.here[user] = value
            else:
                self.here.pop(user, None)
        present = [value for value in self.here.values() if value != b"[]"]
        clients = sum(len(msgspec.json.decode(value)) for value in present)
        counts = clients, len(present), len(self.here), had
        change = Change(self.wants, how, *counts, self.noted, values)
        self.client.lease = -2 if is_last else LEASE
        call = self.keys.send("g", change, announced, listed)
        told = await self.keys.reply(call, "g", change, announced, listed)
        expected = self.model.present(
            "g",
            self.keys.daemon,
            change._replace(noted=self.noted_there),
            announced,
            listed,
            0,
            -2 if is_last else LEASE,
        )
        assert (told is None) == (expected is None)
        if told is None or expected is None:
            return None
        self.noted, self.noted_there = told.version, expected.version
        compared = ("clients", "users", "fields", "has_died", "come", "gone")
        assert [getattr(told, each) for each in compared] == [
            getattr(expected, each) for each in compared
        ]
        # In Redis versions begin with the moment of the birth, in the model with 0.
        assert told.before - int(told.born) == expected.before
        assert told.version - int(told.born) == expected.version
        assert (told.all is None) == (expected.all is None)
        assert sorted(told.all or ()) == sorted(expected.all or ())
        return told

    async def renew(self, *, is_last: bool) -> None:
        lease = self.client.lease = -2 if is_last else LEASE
        call = self.keys.renew("g", len(self.here), self.noted)
        is_renewed = await self.keys.is_renewed(call, "g")
        assert cast(Sent, call).answer == int(is_renewed)
        there = len(self.here), self.noted_there
        assert is_renewed == self.model.renew("g", self.keys.daemon, *there, 0, lease)


@pytest.mark.parametrize("seed", range(12))
async def test_present_does_what_the_model_does(redis: Redis, seed: int) -> None:
    """Random daemons come and go, die, and lose what they had; letters, counts and lists agree."""
    dice = random.Random(seed)
    expected: list[tuple[str, list[Any], list[str]]] = []
    model = Model(lambda to, _group, _version, come, gone: expected.append((to, come, gone)))
    channel = inboxes(redis)
    daemons = [Daemon(redis, model, f"d{number}") for number in range(dice.randint(1, 4))]
    versions: set[int] = set()
    for step in range(150):
        daemon = dice.choice(daemons)
        if dice.random() < 0.3:
            await daemon.renew(is_last=dice.random() < 0.05)
            continue
        daemon.wants = dice.random() < 0.5
        chosen = dice.sample([f"u{number}" for number in range(6)], dice.randint(0, 3))
        values = [
            (
                user,
                dice.choice(
                    [
                        b"",
                        b"[]",
                        value_of(Place(f"c{step}{each}") for each in range(dice.randint(1, 2))),
                    ]
                ),
            )
            for user in chosen
        ]
        how: How = dice.choices(("told", "later", "anew"), (80, 8, 12))[0]
        listed, announced = dice.choice([-1, 0, 4, 100]), dice.choice([2, 4, 100])
        roll = await daemon.note(
            values, how, announced=announced, listed=listed, is_last=dice.random() < 0.05
        )
        if roll is None:  # Redis says that it has lost what there was: all of it again
            values = list(daemon.here.items())
            roll = await daemon.note(
                values, "anew", announced=announced, listed=listed, is_last=False
            )
        assert roll is not None
        assert roll.version >= roll.before
        if dice.random() < 0.02:
            redis.flushall()
            model.lose()
        versions.add(roll.version)
    told = []
    while (message := channel.get_message(timeout=0.05)) is not None:
        if message["type"] == "pmessage":
            letter = msgspec.json.decode(message["data"], type=Letter)
            pairs = iter(letter.come)
            come = [(user, value.encode()) for user, value in zip(pairs, pairs, strict=True)]
            told.append(
                (message["channel"].decode().removeprefix("fastimd:to:"), come, letter.gone)
            )
            assert letter.group == "g"
            assert int(letter.version) in versions
    channel.close()
    assert sorted(map(repr, told)) == sorted(map(repr, expected))


async def test_nothing_is_left_of_a_group_without_members(redis: Redis) -> None:
    model = Model(lambda *_: None)
    first, second = Daemon(redis, model, "d1"), Daemon(redis, model, "d2")
    both = [("u", value_of([Place("c")]))]
    for daemon in (first, second):
        await daemon.note(both, "told", announced=0, listed=-1, is_last=False)
    assert len(redis.keys()) == 4
    lives = [redis.pttl(key) for key in cast(list[bytes], redis.keys())]
    assert all(0 < life <= LEASE + 60_000 for life in lives)
    for daemon in (first, second):
        await daemon.note([("u", b"")], "told", announced=0, listed=-1, is_last=False)
    assert redis.keys() == []


async def test_what_a_replica_has_not_heard_of_is_noticed(redis: Redis) -> None:
    """Also when there are as many users as there should be."""
    model = Model(lambda *_: None)
    daemon = Daemon(redis, model, "d1")
    value = value_of([Place("c")])
    await daemon.note([("ann", value)], "told", announced=9, listed=-1, is_last=False)
    saved = {key: redis.dump(key) for key in cast(list[bytes], redis.keys())}
    await daemon.note([("ann", b""), ("ben", value)], "told", announced=9, listed=-1, is_last=False)
    for key, dumped in saved.items():
        redis.restore(key, 60_000, cast(bytes, dumped), replace=True)
    keys, noted = daemon.keys, daemon.noted
    assert not await keys.is_renewed(keys.renew("g", 1, noted), "g")
    change = Change(False, "told", 1, 1, 1, 1, noted, [])
    assert await keys.reply(keys.send("g", change, 9, 9), "g", change, 9, 9) is None


async def test_what_a_replica_brings_back_of_nobody_is_dropped(redis: Redis) -> None:
    """When the daemon looks, that has no members there by now."""
    daemon = Daemon(redis, Model(lambda *_: None), "d1")
    value = value_of([Place("c")])
    await daemon.note([("ann", value)], "told", announced=9, listed=-1, is_last=False)
    saved = {key: redis.dump(key) for key in cast(list[bytes], redis.keys())}
    await daemon.note([("ann", b"")], "told", announced=9, listed=-1, is_last=False)
    for key, dumped in saved.items():
        redis.restore(key, 60_000, cast(bytes, dumped))
    change = Change(False, "told", 0, 0, 0, 0, 0, [])
    roll = await daemon.keys.reply(daemon.keys.send("g", change, 9, 9), "g", change, 9, 9)
    assert roll is not None
    assert (roll.clients, roll.all) == (0, [])
    assert redis.keys() == []


async def test_only_users_of_several_daemons_cost_more(redis: Redis) -> None:
    """Each of the others is a field of one daemon, and no more."""
    model = Model(lambda *_: None)
    first, second = Daemon(redis, model, "d1"), Daemon(redis, model, "d2")
    value = value_of([Place("c")])
    for daemon, users in ((first, ("ann", "both")), (second, ("ben", "both"))):
        values = [(user, value) for user in users]
        await daemon.note(values, "told", announced=0, listed=-1, is_last=False)
    assert redis.hgetall("fastimd:shared:g") == {b"both": b"2"}


async def test_what_others_wrote_into_the_index_is_passed_over(redis: Redis) -> None:
    """It is no daemon, and hides none."""
    entry = f"{2**52} 1 1 1 7"
    foreign = {"no id": entry, "": entry, "ab": "x", "cd": entry + " 1", "version ": "3"}
    redis.hset("fastimd:here:g", mapping=cast(Any, foreign))
    daemons = [presences(Client(redis), name) for name in ("d1", "d2")]
    for number, keys in enumerate(daemons):
        change = Change(True, "told", 1, 1, 1, 0, 0, [(f"u{number}", value_of([Place("c")]))])
        roll = await keys.reply(keys.send("g", change, 9, 9), "g", change, 9, 9)
        assert roll is not None
        assert (roll.clients, roll.users) == (number + 1, number + 1)


async def test_a_daemon_that_may_not_be_told_keeps_nobody_out(redis: Redis) -> None:
    """Who comes is noted though an ACL forbids the letter, and the refusal is counted."""
    model = Model(lambda *_: None)
    watcher = Daemon(redis, model, "d1")
    watcher.wants = True
    value = value_of([Place("c")])
    await watcher.note([("w", value)], "told", announced=9, listed=-1, is_last=False)
    rules = ("on", "nopass", "+@all", "allkeys", "resetchannels")
    redis.execute_command("ACL", "SETUSER", "some", *rules)  # type: ignore[no-untyped-call]
    port = redis.connection_pool.connection_kwargs["port"]
    metrics = Metrics()
    with Redis(port=port, username="some", password="x") as some:
        keys = Presences(Keyspace(Client(some), metrics))  # type: ignore[arg-type]
        keys.daemon = "d2"
        change = Change(False, "told", 1, 1, 1, 0, 0, [("ann", value)])
        with capture_logs() as logs:
            roll = await keys.reply(keys.send("g", change, 9, 9), "g", change, 9, 9)
            await keys.tell("g", Letter("g", typing="ann"))
    assert redis.execute_command("ACL", "DELUSER", "some") == 1  # type: ignore[no-untyped-call]
    assert roll is not None
    assert roll.users == 2
    assert [(line["event"], line["key"]) for line in logs] == [
        ("store.key_unusable", "fastimd:to:d1")
    ] * 2
    assert all("channel" in line["error"] for line in logs)
    assert metrics.unusable_keys == 2


async def test_a_renewal_keeps_all_keys(redis: Redis) -> None:
    model = Model(lambda *_: None)
    first, second = Daemon(redis, model, "d1"), Daemon(redis, model, "d2")
    both = [("u", value_of([Place("c")]))]
    for daemon in (first, second):
        await daemon.note(both, "told", announced=9, listed=-1, is_last=False)
    keys = cast(list[bytes], redis.keys())
    assert len(keys) == 4
    for key in keys:
        redis.pexpire(key, 5000)
    await first.renew(is_last=False)
    assert sorted(key for key in keys if redis.pttl(key) <= 5000) == [b"fastimd:members:d2:g"]


async def test_daemons_are_met_once(redis: Redis) -> None:
    """The first script that meets others is run again with their keys; later ones are not."""
    model = Model(lambda *_: None)
    daemons = [Daemon(redis, model, f"d{number}") for number in range(3)]
    for number, daemon in enumerate(daemons):
        values = [(f"u{number}", value_of([Place("c")]))]
        await daemon.note(values, "told", announced=0, listed=-1, is_last=False)
    assert [daemon.client.calls for daemon in daemons] == [1, 2, 2]
    calls = [1, 2, 2]
    for more in ([2, 2, 1], [1, 1, 1]):
        for number, daemon in enumerate(daemons):
            values = [(f"u{number}", value_of([Place(f"c{more}")]))]
            await daemon.note(values, "told", announced=0, listed=-1, is_last=False)
        calls = [before + each for before, each in zip(calls, more, strict=True)]
        assert [daemon.client.calls for daemon in daemons] == calls


async def test_where_nothing_has_changed_nobody_need_be_met(redis: Redis) -> None:
    """Counts are in the index; a list of all is not."""
    model = Model(lambda *_: None)
    daemons = [Daemon(redis, model, f"d{number}") for number in range(3)]
    for number, daemon in enumerate(daemons):
        values = [(f"u{number}", value_of([Place("c")]))]
        await daemon.note(values, "told", announced=0, listed=-1, is_last=False)
    first = daemons[0]
    await first.note([], "told", announced=0, listed=-1, is_last=False)
    assert first.client.calls == 2
    await first.note([], "told", announced=0, listed=100, is_last=False)
    assert first.client.calls == 4  # it has to be told whom to name


async def test_what_is_told_reaches_the_others(redis: Redis) -> None:
    """Those with members in the group and a lease, and not oneself."""
    model = Model(lambda *_: None)
    daemons = [Daemon(redis, model, f"d{number}") for number in range(4)]
    for number, daemon in enumerate(daemons[:3]):
        values = [(f"u{number}", value_of([Place("c")]))]
        await daemon.note(values, "told", announced=0, listed=-1, is_last=number == 2)
    channel = inboxes(redis)
    await daemons[0].keys.tell("g", Letter("g", typing='ann "{}" \u00e9'))
    heard = []
    while (message := channel.get_message(timeout=0.1)) is not None:
        heard.append(message)
    channel.close()
    (letter,) = [each for each in heard if each["type"] == "pmessage"]
    assert letter["channel"] == b"fastimd:to:d1"
    assert msgspec.json.decode(letter["data"], type=Letter).typing == 'ann "{}" \u00e9'


def test_what_a_token_says_is_kept_as_it_is() -> None:
    """And one that says nothing is told from one that says little."""
    infos = [b"null", b"{}", b'""', b"0", b'{"a":null}']
    kept = places_of(value_of(Place(f"c{at}", msgspec.Raw(info)) for at, info in enumerate(infos)))
    assert [(place.client, bytes(place.info)) for place in kept] == [
        (f"c{at}", info) for at, info in enumerate(infos)
    ]
    assert [place.has_info for place in (Place("c"), *kept)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


async def test_ids_of_every_form_survive(redis: Redis) -> None:
    """In groups, users and what tokens say of them; letters are JSON whatever stands there."""
    model = Model(lambda *_: None)
    name = 'a{b}"c\\ \u00e9\u4f60'
    channel = inboxes(redis)
    watcher, other = (presences(Client(redis), each) for each in ("a1", "b2"))
    value = value_of([Place("c", msgspec.Raw(b'{"a":[{}],"b":"\\"\xc3\xa9"}'))])
    for keys, user, wants in ((watcher, "w", True), (other, name, False)):
        change = Change(wants, "told", 1, 1, 1, 0, 0, [(user, value)])
        await keys.reply(keys.send(name, change, 9, 9), name, change, 9, 9)
    letter = None
    while letter is None or letter["type"] != "pmessage":
        letter = channel.get_message(timeout=5)
    channel.close()
    read = msgspec.json.decode(letter["data"], type=Letter)
    assert (read.group, read.come) == (name, [name, value.decode()])
    assert model.groups == {}
