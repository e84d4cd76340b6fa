"""The soak: its judge finds each broken promise, and a short run keeps them all."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from soak import FORMS
from soaking.books import Books
from soaking.counts import (
    PROMISES,
    Counts,
    Spoken,
    Stored,
    Stretch,
    judge,
    message_id,
    read_text,
    write_text,
)
from soaking.daemons import Daemon
from soaking.harm import Dealer, Harm
from soaking.health import GROWN_FILES, Growth, Health, Taken
from soaking.people import Person
from soaking.redises import OneRedis, RedisServer
from soaking.report import Report
from soaking.stage import Stage
from soaking.wires import JSON, PROTOBUF, Reply

from fastimd.bench.protobuf import varint, write_message

SOAK = Path(__file__).parents[2] / "bench" / "soak.py"
SECONDS = 30


# The judge


@dataclass
class Talk:
    """What was said in a group, and what one member heard of it: all is well."""

    stored: list[Stored] = field(default_factory=list)
    spoken: Spoken = field(default_factory=Spoken)
    stretch: Stretch = field(default_factory=lambda: Stretch("mara", 0))

    @classmethod
    def of(cls, length: int) -> Talk:
        talk = cls()
        for number in range(1, length + 1):
            message, ts = message_id(7, number), 1000 + 10 * number
            talk.stored.append((ts, message))
            talk.spoken.acknowledged[message] = ts + 1
            talk.stretch.hear(ts, message)
        return talk

    def rehear(self, heard: list[Stored]) -> None:
        """Let the member have heard this instead."""
        self.stretch = Stretch("mara", self.stretch.since, is_open=self.stretch.is_open)
        for ts, message in heard:
            self.stretch.hear(ts, message)

    def judge(self, *fail_overs: tuple[int, int]) -> Counts:
        return judge("7", self.stored, self.spoken, [self.stretch], fail_overs)


def loses(talk: Talk, at: int) -> None:
    """Acknowledged, heard by nobody, and not in the list."""
    del talk.stored[at]
    talk.rehear(talk.stored)


def stores_twice(talk: Talk, at: int) -> None:
    """The same message twice, and both are heard as what they are."""
    ts, message = talk.stored[at]
    talk.stored.insert(at + 1, (ts + 1, message))


def repeats(talk: Talk, at: int) -> None:
    """The member gets a message twice."""
    talk.rehear([*talk.stored[: at + 1], *talk.stored[at:]])


def passes_over(talk: Talk, at: int) -> None:
    """The member does not get a message, but later ones."""
    talk.rehear(talk.stored[:at] + talk.stored[at + 1 :])


def exchanges(talk: Talk, at: int) -> None:
    """Two messages come in the wrong order."""
    heard = talk.stored[:]
    heard[at], heard[at + 1] = heard[at + 1], heard[at]
    talk.rehear(heard)


def disorders_the_list(talk: Talk, at: int) -> None:
    """A ts steps back in the list, and its members hear it so."""
    talk.stored[at + 1] = (talk.stored[at][0] - 1, talk.stored[at + 1][1])
    talk.stretch = Stretch("mara", talk.stored[-1][0])


def denies(talk: Talk, at: int) -> None:
    """A message is refused with an error that says it is not stored."""
    message = talk.stored[at][1]
    del talk.spoken.acknowledged[message]
    talk.spoken.refused.append(message)


def invents(talk: Talk, at: int) -> None:
    """The member hears what is not in the list."""
    talk.rehear([*talk.stored[: at + 1], (talk.stored[at][0] + 1, message_id(8, 1))])
    talk.stored = talk.stored[: at + 1]
    talk.spoken.acknowledged = {message: 1 for _, message in talk.stored}


def swallows(talk: Talk, at: int) -> None:
    """A message vanishes, and its talker is told nothing."""
    _, message = talk.stored.pop(at)
    del talk.spoken.acknowledged[message]
    talk.spoken.swallowed.append(message)
    talk.rehear(talk.stored)


FAULTS: dict[Callable[[Talk, int], None], str] = {
    loses: "lost",
    stores_twice: "stored_twice",
    repeats: "heard_twice",
    passes_over: "missed",
    exchanges: "disordered",
    disorders_the_list: "disordered",
    denies: "refused_and_stored",
    invents: "heard_and_not_stored",
    swallows: "swallowed",
}


@given(length=st.integers(0, 20), since=st.integers(0, 2000))
def test_what_is_well_is_well(length: int, since: int) -> None:
    """Whoever came in the middle, and heard all that was said since, has missed nothing."""
    talk = Talk.of(length)
    talk.stretch = Stretch("mara", since, is_open=True)
    talk.rehear([each for each in talk.stored if each[0] > since])
    counts = talk.judge()
    assert counts.broken == {}
    assert (counts.said, counts.stored) == (length, length)
    assert counts.heard == len(talk.stretch.ts)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@given(length=st.integers(4, 20), data=st.data())
def test_each_broken_promise_is_found(
    fault: Callable[[Talk, int], None], length: int, data: st.DataObject
) -> None:
    """One fault is one count, wherever it is, and is told in full."""
    talk = Talk.of(length)
    fault(talk, data.draw(st.integers(1, length - 3)))
    counts = talk.judge()
    assert counts.broken == {FAULTS[fault]: 1}
    assert len(counts.examples) == 1


def test_every_promise_has_a_fault() -> None:
    """No count can be broken without a test."""
    assert set(FAULTS.values()) == set(PROMISES)


def test_the_end_is_missed_only_by_those_who_are_there() -> None:
    """A connection may end before the last message; who is there at the end must have heard it."""
    talk = Talk.of(5)
    talk.rehear(talk.stored[:-2])
    assert talk.judge().broken == {}
    talk.stretch.is_open = True
    assert talk.judge().broken == {"missed": 2}


def test_a_fail_over_may_lose_what_was_said_around_it() -> None:
    """That is counted apart; what was said at another time may not be lost."""
    talk = Talk.of(10)
    acknowledged = list(talk.spoken.acknowledged.values())
    lost = talk.stored.pop(4)
    around = (acknowledged[4] - 5, acknowledged[4] + 5)
    counts = talk.judge(around)
    assert counts.broken == {}
    assert (counts.lost_to_fail_over, counts.gone_in_fail_over) == (1, 1)
    talk.spoken.acknowledged[lost[1]] = acknowledged[7]
    assert talk.judge(around).broken == {"lost": 1}


@given(st.integers(0, 2**31), st.integers(0, 2**31), st.sampled_from(("", "....")))
def test_a_text_is_that_of_its_message(talker: int, number: int, filler: str) -> None:
    """Whatever it is filled with."""
    message = message_id(talker, number)
    assert read_text(write_text(message, filler)) == message


# The rest


def growth(first: float, last: float, files: int = 0) -> Growth:
    """Of a process, in MB, that has opened so many more descriptors."""
    return Growth(Taken(int(first * 1e6), 20), Taken(int(last * 1e6), 20 + files))


@pytest.mark.parametrize(
    ("name", "found", "complaints"),
    [
        ("daemon 0, worker 1", growth(60, 71), 0),  # more than 10 MB, but not than 20 %
        ("daemon 0, worker 1", growth(60, 73), 1),
        ("daemon 0, worker 1", growth(20, 29), 0),  # more than 20 %, but not than 10 MB
        ("daemon 0, worker 1", growth(60, 60, GROWN_FILES + 1), 1),
        ("daemon 0, worker 1", growth(0, 60), 0),  # there was none at first
        ("Redis", growth(60, 600), 0),  # keeps everything
    ],
)
def test_what_has_grown_is_told(name: str, found: Growth, complaints: int) -> None:
    """By both measures."""
    health = Health()
    health.growths[name] = found
    assert len(list(health.grown())) == complaints


def report(counts: Counts, books: Books, complaints: Counter[str]) -> Report:
    """One of a run without faults."""
    return Report(60.0, counts, books, Health(), Dealer([], "", 0), Counter(), complaints)


@pytest.mark.parametrize("name", PROMISES)
def test_a_broken_promise_is_the_exit_status(name: str) -> None:
    """And is told below the tables."""
    counts = Counts()
    assert report(counts, Books(), Counter()).status == 0
    counts.note(name, "an example")
    found = report(counts, Books(), Counter())
    assert found.status == 1
    assert "an example" in found.table()


def test_surprises_are_the_exit_status() -> None:
    """A close that no fault explains, and a line at error in a log."""
    books = Books()
    books.note_close(1013, "slow")
    assert report(Counts(), books, Counter()).status == 0
    assert report(Counts(), books, Counter({"task.crashed": 1})).status == 1
    books.note_close(1011, "internal error")
    assert report(Counts(), books, Counter()).status == 1


def deal(seed: str, seconds: float) -> tuple[list[str], Dealer]:
    """The names of what was done, in order."""
    done: list[str] = []

    def harm(name: str) -> Harm:
        async def do(rng: random.Random) -> None:
            done.append(f"{name} {rng.random()}")

        return Harm(name, name, do)

    dealer = Dealer([harm(name) for name in "abcde"], seed, per_minute=60)

    async def main() -> None:
        await dealer.run(trio.current_time() + seconds)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return done, dealer


def test_a_seed_deals_the_same_harm() -> None:
    """And each kind once, before one comes again."""
    done, dealer = deal("1", 600)
    assert done == deal("1", 600)[0]
    assert done != deal("2", 600)[0]
    assert 400 < len(done) < 800
    names = [each[0] for each in done]
    assert all(set(names[at : at + 5]) == set("abcde") for at in range(0, len(names) - 5, 5))
    assert sum(dealer.done.values()) == len(done)


def _subscribed(publications: list[tuple[str, int]]) -> tuple[bytes, bytes]:
    """An answer to ``subscribe``, in JSON and in Protobuf."""
    told = [{"data": text, "offset": offset} for text, offset in publications]
    place = {"epoch": "e", "offset": 9, "recovered": True, "publications": told}
    within = b"".join(
        write_message({7: write_message({4: json.dumps(text).encode(), 6: offset})})
        for text, offset in publications
    )
    reply = write_message({1: 3, 6: write_message({6: b"e", 8: 1, 9: 9}) + within})
    return json.dumps({"id": 3, "subscribe": place}).encode(), varint(len(reply)) + reply


def _pushed(code: int) -> tuple[bytes, bytes]:
    """The end of a subscription."""
    push = {"channel": "7", "unsubscribe": {"code": code, "reason": "r"}}
    within = write_message({2: b"7", 7: write_message({2: code, 3: b"r"})})
    reply = write_message({4: within})
    return json.dumps({"push": push}).encode(), varint(len(reply)) + reply


def _refused(code: int) -> tuple[bytes, bytes]:
    """A temporary error."""
    error = {"code": code, "message": "m", "temporary": True}
    reply = write_message({1: 4, 2: write_message({1: code, 2: b"m", 3: 1})})
    return json.dumps({"id": 4, "error": error}).encode(), varint(len(reply)) + reply


@pytest.mark.parametrize(
    "frames",
    [_subscribed([]), _subscribed([("7 1 ", 5), ("7 2 .", 6)]), _pushed(2500), _refused(100)],
    ids=["subscribed", "recovered", "unsubscribed", "refused"],
)
def test_both_encodings_are_read_alike(frames: tuple[bytes, bytes]) -> None:
    """And nothing is left out of either."""
    json_frame, protobuf_frame = frames
    replies = list(JSON.replies(json_frame))
    assert replies == list(PROTOBUF.replies(protobuf_frame))
    assert len(replies) == 1
    assert replies != [Reply()]
    with pytest.raises(ValueError, match=r"."):
        list(PROTOBUF.replies(protobuf_frame[:-1]))


def test_a_ping_is_neither_an_answer_nor_a_push() -> None:
    """In both encodings."""
    assert list(JSON.replies(b"{}")) == list(PROTOBUF.replies(b"\x00")) == [Reply()]


@pytest.mark.parametrize("members", [20, 40, 200])
def test_every_group_has_members_on_both_wires(members: int, tmp_path: Path) -> None:
    """Half of the places are on each, and those of the live wire are in both encodings."""
    form = OneRedis(tmp_path)
    form.server = RedisServer(tmp_path)
    stage = Stage(tmp_path, form, "1", members, 30)
    seeds = Counter(group for person in stage.people for group in _groups_on(person, "group"))
    live = Counter(group for person in stage.people for group in _groups_on(person, "connection"))
    assert set(seeds) == set(live) == set(stage.groups)
    assert seeds.total() == live.total() == members // 2
    targets = Counter(person.target for person in stage.people if "/connection/" in person.target)
    assert max(targets.values()) - min(targets.values()) <= 1
    assert len(targets) == 2


def _groups_on(person: Person, wire: str) -> Sequence[str]:
    return person.groups if person.target.startswith(f"/{wire}/") else ()


def test_the_log_of_every_life_is_read(tmp_path: Path) -> None:
    """A line at error that a killed worker explains is none of its complaints; a traceback is."""
    form = OneRedis(tmp_path)
    form.server = RedisServer(tmp_path)
    daemon = Daemon(tmp_path, 0, form)
    crash = {"level": "critical", "event": "task.crashed", "task": "door", "error": "it ended"}
    died = {"level": "error", "event": "worker.died", "worker": 1}
    fine = {"level": "warning", "event": "redis.unavailable"}
    (daemon.folder / "log-1").write_text("\n".join(map(json.dumps, (crash, died, fine))))
    (daemon.folder / "log").write_text(f"{json.dumps(crash)}\nTraceback (most recent call last):\n")
    assert daemon.log_complaints() == {
        "task.crashed door it ended": 2,
        "Traceback (most recent call last):": 1,
    }


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", FORMS)
async def test_a_form_of_redis_outlives_its_harms(kind: str, tmp_path: Path) -> None:
    """The harm that is worst for it, and what was stored long before is there."""
    with FORMS[kind](tmp_path) as form:
        names = {harm.name: harm for harm in form.harms}
        client = form.client()
        told = {"groupId": "7", "userId": "mara", "info": write_text(5), "ts": 12}
        client.rpush(form.key("7"), json.dumps(told))
        client.close()
        await trio.sleep(1.0)  # a replica has it, too
        before = set(form.processes().values())
        await names["Redis killed" if kind == "one" else "master killed"].do(random.Random(1))
        assert form.read("7") == [(12, 5)]
        after = set(form.processes().values())
        assert len(before - after) == 1
        assert len(form.fail_overs) == (kind != "one")


@pytest.mark.timeout(SECONDS + 150)
def test_a_short_run_keeps_every_promise() -> None:
    """With every fault in it; its seed comes first."""
    command = [sys.executable, str(SOAK), "--minutes", str(SECONDS / 60), "--seed", "5"]
    small = ["--members", "40", "--messages", "60", "--faults-per-minute", "40"]
    done = subprocess.run(
        [*command, *small], capture_output=True, text=True, check=False, timeout=SECONDS + 140
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("seed 5\n")
    assert done.stdout.endswith("All promises were kept.\n")
    numbers = dict(re.findall(r"^\| ([\w ]+) \| (\d+) \|$", done.stdout, re.M))
    assert int(numbers["said"]) > 500
    assert int(numbers["heard"]) > 2 * int(numbers["said"])
    assert not any(int(numbers[name.replace("_", " ")]) for name in PROMISES)
    faults = re.search(r"\| fault \| times \|\n(?:.*\n)+?\n", done.stdout)
    assert faults is not None
    assert " | 0 |" not in faults[0]
