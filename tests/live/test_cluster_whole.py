"""All of fastimd on a cluster: what is asked of one Redis is asked of many, and finds its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest
from clients import CLOSE, RawClient, log_in, post
from clusters import Cluster, cluster
from conftest import Daemon, run_daemon, run_fastimd
from members import member
from raw import Wire

from fastimd.redis.cluster.slots import slot_of

GROUPS = [
    "7",
    "a{b}c",
    "{}",
    "{x",
    "}{y}",
    "with space",
    "ü 世界",
    "a:b",
    "{a}{b}",
    "dialog#ann,bob",
]


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for all tests: each has groups and users of its own."""
    with cluster(tmp_path_factory.mktemp("cluster") / "redis") as made:
        yield made


@pytest.fixture(scope="module")
def daemons(spread: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two on it."""
    folder = tmp_path_factory.mktemp("daemons")
    running = [run_daemon(folder, spread.url, group_list__update_rate="0.05") for _ in range(2)]
    yield running
    for daemon in running:
        assert daemon.stop() == 0
        assert not [line for line in daemon.lines if "exception" in line], daemon.log_path


def join(daemon: Daemon, group: str, user: str) -> RawClient:
    """A member that has had its greeting."""
    client = RawClient(daemon.address, f"/group/chat/{quote(group, safe='')}/{user}/t")
    assert '"list"' in client.next_text()
    return client


def info_of(client: RawClient) -> str:
    return str(json.loads(client.next_text())["info"])


def keys_of(spread: Cluster) -> list[bytes]:
    """All keys of all masters."""
    return [key for node in spread.nodes[:3] for key in node.client.scan_iter()]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_may_have_any_id(daemons: list[Daemon], spread: Cluster, group: str) -> None:
    """Members of two daemons hear each other, and what was said is read again."""
    with join(daemons[0], group, "ann") as ann, join(daemons[1], group, "bob") as bob:
        for number in range(3):
            ann.say(f"word {number}")
            assert info_of(ann) == info_of(bob) == f"word {number}"
        bob.say("last")
        assert info_of(ann) == info_of(bob) == "last"
    stored: Any = spread.client_of(group).lrange(f"gml:{group}", 0, -1)
    assert [json.loads(entry)["info"] for entry in stored] == [
        *(f"word {n}" for n in range(3)),
        "last",
    ]
    look = json.loads(
        run_fastimd(
            "group", group, "--json", admin__bind=daemons[0].admin.removeprefix("http://")
        ).stdout
    )
    assert look["messages"] == 4


def test_what_belongs_to_a_group_lies_in_its_slot(daemons: list[Daemon], spread: Cluster) -> None:
    """Its floor, its life, the mark of each daemon: whatever the group's id is."""
    with ExitStack() as stack:
        for group in GROUPS:
            member = stack.enter_context(join(daemons[0], group, "ann"))
            member.say("x")
            info_of(member)
    beside = [
        key for key in keys_of(spread) if b"fastimd:" in key and not key.startswith(b"fastimd:")
    ]
    assert beside
    slots = {slot_of(f"gml:{group}") for group in GROUPS}
    assert {slot_of(key) for key in beside} <= slots
    for key in beside:
        assert key.startswith(b"{")


def test_many_groups_are_spread(daemons: list[Daemon], spread: Cluster) -> None:
    """Over all masters, and one daemon speaks in all of them at once."""
    with ExitStack() as stack:
        members = [
            stack.enter_context(join(daemons[number % 2], f"many-{number}", "ann"))
            for number in range(40)
        ]
        for member in members:
            member.say("hello")
        assert {info_of(member) for member in members} == {"hello"}
    homes = {spread.master_of(f"many-{number}").port for number in range(40)}
    assert len(homes) == 3


def test_the_routes_of_fast_im(daemons: list[Daemon]) -> None:
    """Logging in, joining, group lists, history and recalls, each at the other daemon."""
    headers = log_in(daemons[0], "carl")
    for group in ("list-1", "list-2"):
        joined = post(daemons[1], "/user/joinGroup", {"groupId": group}, headers)
        assert joined.json["code"] == 200, joined.body
    with RawClient(daemons[0].address, "/group/list/carl/t") as listing:
        assert [each["total"] for each in json.loads(listing.next_text())] == [0, 0]
        with join(daemons[1], "list-1", "carl") as carl:
            for text in ("kept", "gone"):
                carl.say(text)
                ts = json.loads(carl.next_text())["ts"]
        while "gone" not in listing.next_text():
            pass
        recalled = post(daemons[0], "/group/delMessage", {"groupId": "list-1", "ts": ts}, headers)
        assert recalled.json["code"] == 200, recalled.body
        while "kept" not in listing.next_text():
            pass
    page = {"groupId": "list-1", "startPage": 0, "endPage": -1}
    history = post(daemons[1], "/group/listMessage", page, headers)
    assert "kept" in history.body.decode()
    assert "gone" not in history.body.decode()
    left = post(daemons[1], "/user/leaveGroup", {"groupId": "list-2"}, headers)
    assert left.json["code"] == 200
    groups = post(daemons[0], "/user/listGroup", {}, headers)
    assert "list-2" not in groups.body.decode()


def test_an_operator_reaches_every_daemon(daemons: list[Daemon], spread: Cluster) -> None:
    """Whichever master tells it."""
    admin = daemons[0].admin.removeprefix("http://")
    with join(daemons[0], "ops", "ann") as ann, join(daemons[1], "ops", "bob") as bob:
        assert run_fastimd("say", "ops", "hear", "--as", "op", admin__bind=admin).returncode == 0
        assert info_of(ann) == info_of(bob) == "hear"
        kicked = run_fastimd("kick", "bob", admin__bind=admin)
        assert kicked.stdout == "daemons told: 2\n"
        frame = bob.next_frame()
        assert frame is not None
        assert frame.opcode == CLOSE
    purged = run_fastimd("purge", "ops", "--yes", admin__bind=admin)
    assert purged.stdout == "messages deleted: 1\n"
    status = json.loads(run_fastimd("status", "--json", admin__bind=admin).stdout)
    assert status["redis"]["address"] == spread.url
    assert (status["redis"]["commands"], status["redis"]["messages"]) == (None, None)


@pytest.mark.parametrize("wire", ["json", "protobuf"])
async def test_the_live_wire(daemons: list[Daemon], wire: Wire) -> None:
    """A message with a nonce is one, at two daemons; whoever returns goes on where it was."""
    group = f"live-{wire}"
    async with (
        member(daemons[0], "ann", group, wire=wire) as ann,
        member(daemons[1], "bob", wire=wire) as bob,
    ):
        entered = await bob.ask("subscribe", channel=group, recoverable=True)
        stamps = {
            (await each.call("send", channel=group, data="once", nonce="n"))["ts"]
            for each in (ann, ann)
        }
        assert len(stamps) == 1
        assert await bob.hears() == "once"
        assert await ann.code("publish", channel=group, data="twice") == 0
        assert await bob.hears() == "twice"
        [ts] = stamps
        assert (await ann.call("recall", channel=group, ts=ts)) is not None
        recalled = (await bob.push("pub"))["pub"]
        assert recalled["tags"]["event"] == "recall"
    async with member(daemons[0], "bob", wire=wire) as bob:
        back = await bob.ask(
            "subscribe",
            channel=group,
            recover=True,
            epoch=entered["epoch"],
            offset=entered.get("offset", 0),
        )
        assert back["recovered"] is True
        assert [each["data"] for each in back["publications"] if "data" in each][-1] == "twice"
        history = await bob.ask("history", channel=group, limit=10)
        assert [each["data"] for each in history["publications"]] == ["twice"]


@pytest.mark.parametrize("wire", ["json", "protobuf"])
async def test_an_inbox_of_groups_on_all_masters(daemons: list[Daemon], wire: Wire) -> None:
    """What is read at one daemon is read at the other, whatever the ids."""
    user = f"reader {wire}"
    async with (
        member(daemons[0], user, *GROUPS[:-1], wire=wire) as one,
        member(daemons[1], user, wire=wire) as other,
    ):
        said = [
            [(await one.call("send", channel=group, data=text))["ts"] for text in "abc"]
            for group in GROUPS[:-1]
        ]
        for group, stamps in zip(GROUPS[:-1], said, strict=True):
            assert await one.call("read", channel=group, ts=stamps[-2]) == {}
        listed = (await other.call("groups"))["groups"]
        assert {each["channel"]: each["unread"] for each in listed} == dict.fromkeys(GROUPS[:-1], 1)
