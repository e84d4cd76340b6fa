"""A cluster behind a password, ACLs or TLS: the chat works, or the log says why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from clients import CLOSE, RawClient, kick, log_in, post
from clusters import Cluster, able_server, cluster
from conftest import Daemon, make_certificate, run_daemon, run_fastimd, server_with_tls, wait_for
from faults import unavailable
from members import member

from fastimd.redis.cluster.slots import slot_of

SECRET, SECRET_OF_CHAT = "pass-of-redis", "pass-of-chat"
LEAST = (
    "~gml:* ~ugs:* ~login:* ~*fastimd:* resetchannels &*mq:* &fastimd:*"
    " +@all -@dangerous +info +cluster|slots"
)
"""What a user may who can harm nobody, as docs/OPERATION.md has it."""


OPTIONS: dict[str, Any] = {
    "password": SECRET,
    "replicas": 0,
    "settings": [
        f"user chat on >{SECRET_OF_CHAT} {LEAST}",
        "cluster-allow-replica-migration no",
    ],
}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a password, and a user who may little.

    The last node has no slots, and does not know the user.
    """
    with cluster(tmp_path_factory.mktemp("locked") / "redis", **OPTIONS) as made:
        spare = made.add()
        spare.start()
        spare.ask("ACL", "DELUSER", "chat")
        made.meet(spare)
        yield made


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same with TLS everywhere."""
    folder = tmp_path_factory.mktemp("encrypted")
    certificate = make_certificate(folder / "certificate.pem", "IP:127.0.0.1")
    server = able_server([server_with_tls()])
    with cluster(folder / "redis", server, tls=certificate, **OPTIONS) as made:
        yield made


def seeds_of(spread: Cluster) -> str:
    """The nodes that the cluster's URL names, without a login."""
    return urlsplit(spread.url).netloc.rpartition("@")[2]


def groups_of(spread: Cluster) -> list[str]:
    """A group on each master."""
    homes: dict[int, str] = {}
    for number in range(100):
        homes.setdefault(spread.master_of(f"group-{number}").port, f"group-{number}")
    return list(homes.values())


@contextmanager
def daemon_on(folder: Path, url: str, **options: Any) -> Iterator[Daemon]:
    """A daemon that must end well, and shows no password."""
    daemon = run_daemon(folder, url, **options)
    try:
        yield daemon
        assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
        assert not [line for line in daemon.lines if "exception" in line]
        for secret in (SECRET, SECRET_OF_CHAT, "wr0ng"):
            assert secret not in daemon.log_path.read_text()
    finally:
        daemon.process.kill()
        daemon.process.wait()


def join(daemon: Daemon, group: str, user: str) -> RawClient:
    """A member that has had its greeting."""
    client = RawClient(daemon.address, f"/group/chat/{group}/{user}/t")
    assert '"list"' in client.next_text()
    return client


def hears(client: RawClient, info: str) -> int:
    """The next message is this one: its ts."""
    message = json.loads(client.next_text())
    assert message["info"] == info
    return int(message["ts"])


async def talk(daemon: Daemon, group: str) -> None:
    """Members of both wires say and hear, go back, and what was said is recalled."""
    with join(daemon, group, "ann") as ann, join(daemon, group, "bob") as bob:
        ann.say("first")
        ts = hears(ann, "first")
        assert hears(bob, "first") == ts
        async with member(daemon, "carl", group) as carl:
            assert (await carl.call("send", channel=group, data="second", nonce="n"))["ts"] > ts
            assert hears(ann, "second") == hears(bob, "second")
            assert await carl.hears() == "second"
            headers = log_in(daemon, "ann")
            recalled = post(daemon, "/group/delMessage", {"groupId": group, "ts": ts}, headers)
            assert recalled.json["code"] == 200, recalled.body
            assert (await carl.push("pub"))["pub"]["tags"]["event"] == "recall"
            history = await carl.ask("history", channel=group, limit=10)
            assert [each["data"] for each in history["publications"]] == ["second"]


async def go_around(daemon: Daemon, groups: list[str]) -> None:
    """Group lists, and what travels over the channel of the whole cluster: joins and kicks."""
    headers = log_in(daemon, "dora")
    for group in groups[:-1]:
        joined = post(daemon, "/user/joinGroup", {"groupId": group}, headers)
        assert joined.json["code"] == 200, joined.body
    with RawClient(daemon.address, "/group/list/dora/t") as listing:
        assert len(json.loads(listing.next_text())) == len(groups) - 1
        post(daemon, "/user/joinGroup", {"groupId": groups[-1]}, headers)
        while len(json.loads(listing.next_text())) < len(groups):
            pass
    with join(daemon, groups[0], "dora") as dora:
        await kick(daemon, "dora")
        while (frame := dora.next_frame()) is not None and frame.opcode != CLOSE:
            pass
        assert frame is not None


@pytest.mark.parametrize("lock", ["password", "ACL and TLS"])
async def test_the_chat_works_behind_a_lock(
    lock: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On each master, for everything that asks Redis; nobody is shown a password."""
    spread: Cluster = request.getfixturevalue("locked" if lock == "password" else "encrypted")
    url = spread.url
    if lock != "password":
        url = url.replace(f":{SECRET}@", f"chat:{SECRET_OF_CHAT}@")
    with daemon_on(tmp_path, url, group_list__update_rate="0.05") as daemon:
        groups = groups_of(spread)
        assert len(groups) == 3
        for group in groups:
            await talk(daemon, group)
        await go_around(daemon, groups)
        bind = daemon.admin.removeprefix("http://")
        shown = json.loads(run_fastimd("status", "--json", admin__bind=bind).stdout)["redis"]
        assert shown["address"] == f"{urlsplit(url).scheme}://{seeds_of(spread)}"
        assert (shown["commands"], shown["messages"]) == (None, None)
        assert not [line for line in daemon.lines if line["level"] != "info"]
    for node in spread.nodes:
        node.ask("FLUSHALL")


@pytest.mark.parametrize("login", [":wr0ng@", "chat:wr0ng@", ""])
def test_a_wrong_login_ends_the_start(login: str, locked: Cluster) -> None:
    """As with one Redis: the line has what Redis says, and no password."""
    url = f"redis-cluster://{login}{seeds_of(locked)}"
    ended = run_fastimd("serve", redis__url=url, admin__bind="", log__format="json")
    assert ended.returncode == 78
    said = "WRONGPASS" if login else "NOAUTH"
    assert f"fastimd: redis.url: {seeds_of(locked)} refuses the login: " in ended.stderr
    for seed in seeds_of(locked).split(","):
        assert f"{seed}: {said} " in ended.stderr
    assert "wr0ng" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_master_that_does_not_know_the_user_ends_nobody(locked: Cluster, tmp_path: Path) -> None:
    """No node tells another of its users. While it is mended there all others are spoken with, and
    what was said meanwhile is heard.
    """
    spare = locked.nodes[-1]
    locked.wait_known(spare)
    slot = slot_of("gml:lonely")
    source = locked.owner_of(slot)
    url = f"redis-cluster://chat:{SECRET_OF_CHAT}@127.0.0.1:{spare.port},{seeds_of(locked)}"
    others = [group for group in groups_of(locked) if slot_of(f"gml:{group}") != slot]
    with daemon_on(tmp_path, url) as daemon, join(daemon, "lonely", "ann") as ann:
        locked.give(slot, spare)
        try:
            ann.say("hello")
            for purpose in ("commands", "messages"):
                [line, *_] = wait_for(partial(unavailable, daemon, purpose), daemon)
                assert line["address"] == f"127.0.0.1:{spare.port}"
                assert line["error"].startswith("WRONGPASS ")
            for group in others:
                with join(daemon, group, "bob") as bob:
                    bob.say("as ever")
                    hears(bob, "as ever")
            spare.ask("ACL", "SETUSER", "chat", "on", f">{SECRET_OF_CHAT}", *LEAST.split())
            hears(ann, "hello")
        finally:
            spare.ask("FLUSHALL")
            spare.ask("ACL", "DELUSER", "chat")
            locked.give(slot, source)


UNTRUSTED = {
    "rediss-cluster": "certificate verify failed: self-signed certificate;"
    " ?ssl_ca_certs=/path in redis.url names the certificate of the CA",
    "redis-cluster": "the port may be one with TLS, which needs rediss:// in redis.url",
}


@pytest.mark.parametrize("scheme", UNTRUSTED)
def test_what_is_wrong_with_tls_is_told(scheme: str, encrypted: Cluster, tmp_path: Path) -> None:
    """In the log, of each node: it may be mended there, and the daemon begins then."""
    url = f"{scheme}://:{SECRET}@{seeds_of(encrypted)}"
    with daemon_on(tmp_path, url, wait_serving=False) as daemon:
        lines = wait_for(partial(unavailable, daemon, "messages"), daemon)
        lines += wait_for(partial(daemon.events, "redis.cluster_incomplete"), daemon)
        for line in lines:
            assert line["error"].count(UNTRUSTED[scheme]) == len(seeds_of(encrypted).split(","))
