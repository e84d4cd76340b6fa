"""What the API has for the console: rights, a group's policy, search, status, drain, dismissing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import trio
from clients import closing, message
from conftest import Daemon, ShareDaemon, StartDaemon, connect, receive, wait_for
from operators import call, done, settings_with_keys
from redis import Redis

from fastimd.api.console import SEARCHED
from fastimd.api.methods import METHODS


def report(redis: Redis, group: str, ts: int, user: str, by: str, reason: str = "spam") -> None:
    """What Redis has of a report."""
    told = {"ts": ts, "user": user, "by": by, "at": ts, "reason": reason}
    redis.zadd(f"fastimd:reports:{group}", {json.dumps(told): ts})


def test_an_operator_may_do_everything(share_daemon: ShareDaemon) -> None:
    """On the daemon's own machine no key is needed."""
    rights = done(share_daemon(), "whoami")
    assert rights == {"name": "operator", "methods": list(METHODS), "groups": ["*"]}


def test_a_key_is_told_its_rights(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Also one that may not ask for anything else; what spans groups needs all of them."""
    config = settings_with_keys(
        tmp_path,
        all={},
        few={"methods": ["mute", "un*", "channels"], "groups": ["guild", "club-*"]},
        none={"methods": []},
    )
    daemon = start_daemon(config)
    assert done(daemon, "whoami", key="all")["methods"] == list(METHODS)
    few = done(daemon, "whoami", key="few")
    assert (few["name"], few["groups"]) == ("few", ["guild", "club-*"])
    assert sorted(few["methods"]) == ["mute", "unban", "unmute", "unsubscribe", "whoami"]
    assert done(daemon, "whoami", key="none")["methods"] == ["whoami"]
    assert call(daemon, "whoami", key="another")["error"]["code"] == 101
    for method in ("status", "drain"):
        assert call(daemon, method, {"daemon": "x"}, key="few")["error"]["code"] == 103
    body: dict[str, object] = {"channel": "town"}
    for method in ("policy", "search"):
        assert call(daemon, method, body, key="few")["error"]["code"] == 103


def test_the_policy_is_what_moderators_decided(share_daemon: ShareDaemon) -> None:
    """What has been lifted, or is over, is not in it."""
    daemon = share_daemon()
    assert done(daemon, "policy", {"channel": "guild"}) == {
        "bans": [],
        "mutes": [],
        "moderators": [],
        "slow_mode": 0,
        "mute_all": False,
    }
    for method, body in (
        ("ban", {"user": "eve", "seconds": 0, "reason": "insults"}),
        ("mute", {"user": "tom", "seconds": 600}),
        ("mute", {"user": "ann", "seconds": 1}),
        ("mute", {"user": "bob", "seconds": 600}),
        ("unmute", {"user": "bob"}),
        ("moderators", {"add": ["mara", "ada"]}),
        ("slow_mode", {"seconds": 30}),
        ("mute_all", {"on": True}),
    ):
        done(daemon, method, {"channel": "guild", **body})
    wait_for(lambda: len(done(daemon, "policy", {"channel": "guild"})["mutes"]) == 1, daemon)
    policy = done(daemon, "policy", {"channel": "guild"})
    [mute] = policy.pop("mutes")
    assert 590 < mute.pop("until") / 1000 - time.time() < 610
    assert mute == {"user": "tom", "reason": "", "by": ""}
    assert policy == {
        "bans": [{"user": "eve", "until": 0, "reason": "insults", "by": ""}],
        "moderators": ["ada", "mara"],
        "slow_mode": 30,
        "mute_all": True,
    }


def fill(redis: Redis, count: int) -> None:
    """A group's messages, from the ts 1 on: every tenth is eve's, every hundredth about gold."""
    entries = [
        message(
            ts,
            group="guild",
            user="mara" if ts % 10 else "eve",
            info=f"no {ts}" if ts % 100 else f"GOLD Straße {ts}",
        )
        for ts in range(1, count + 1)
    ]
    for at in range(0, count, 1000):
        redis.rpush("gml:guild", *entries[at : at + 1000])


def found(daemon: Daemon, **query: object) -> tuple[list[int], int]:
    result = done(daemon, "search", {"channel": "guild", **query})
    return [each.get("offset", 0) for each in result["publications"]], result["before"]


def test_a_search_finds_by_user_and_text(share_daemon: ShareDaemon, redis: Redis) -> None:
    """In letters of either case, newest first, and goes on where it stopped."""
    daemon = share_daemon()
    fill(redis, 1000)
    assert found(daemon, text="gold") == ([*range(1000, 0, -100)], 0)
    assert found(daemon, text="STRASSE 1") == ([1000, 100], 0)
    assert found(daemon, user="mara", text="gold") == ([], 0)
    assert found(daemon, user="eve", text="no", limit=3) == ([990, 980, 970], 970)
    assert found(daemon, user="eve", text="no", limit=3, before=970) == ([960, 950, 940], 940)
    assert found(daemon, user="ev") == ([], 0)
    assert found(daemon)[0] == [*range(1000, 900, -1)]
    assert found(daemon, before=3) == ([2, 1], 0)
    result = done(daemon, "search", {"channel": "guild", "text": "GOLD", "limit": 1})
    [publication] = result["publications"]
    assert publication["data"] == "GOLD Straße 1000"
    assert publication["info"]["user"] == "eve"
    assert found(daemon, text="gold", channel="town") == ([], 0)


def test_a_search_looks_through_so_many(share_daemon: ShareDaemon, redis: Redis) -> None:
    """What stands further back is found by the next one."""
    daemon = share_daemon()
    fill(redis, SEARCHED + 150)
    assert found(daemon, text="no 99", user="nobody") == ([], 151)
    assert found(daemon, text="gold", before=151) == ([100], 0)


def test_a_search_passes_over_what_is_no_message(share_daemon: ShareDaemon, redis: Redis) -> None:
    """Nor do messages with a time that cannot be keep it from its end."""
    daemon = share_daemon()
    fill(redis, 300)
    redis.lset("gml:guild", 150, "no message")
    redis.rpush("gml:guild", message(2**52, group="guild", user="eve", info="gold of tomorrow"))
    assert found(daemon, text="gold") == ([0, 300, 200, 100], 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"text": "x" * 257}, "text"),
        ({"user": "x" * 129}, "user"),
        ({"before": -1}, "before"),
        ({"channel": ""}, "channel"),
    ],
)
def test_a_search_that_cannot_be_meant(
    share_daemon: ShareDaemon, body: dict[str, object], field: str
) -> None:
    """The error names what is wrong."""
    error = call(share_daemon(), "search", {"channel": "guild", **body})["error"]
    assert error["code"] == 107
    assert field in error["message"]


async def test_the_status_is_of_all_daemons(start_daemon: StartDaemon) -> None:
    """Each says what it has counted, and of its troubles."""
    daemons = [start_daemon(), start_daemon()]
    async with connect(daemons[1].chat_url("guild", "3")) as chat:
        await receive(chat)
        await chat.send_message("hello")
        await receive(chat)
        for asked in daemons:
            status = done(asked, "status")
            assert sorted(status) == ["daemons"]
            by_pid = {each["pid"]: each for each in status["daemons"]}
            first, second = (by_pid[each.process.pid] for each in daemons)
            assert (sum(first["sockets"].values()), sum(second["sockets"].values())) == (0, 1)
            assert (first["counters"]["messages"], second["counters"]["messages"]) == (0, 1)
            assert second["counters"]["deliveries"] == 1
            assert second["bytes_sent"] > first["bytes_sent"] == 0
            assert (second["ready"], second["reasons"], second["troubles"]) == (True, [], [])
            assert second["redis"]["commands"] is None


def uid_of(daemon: Daemon) -> str:
    """By which the others know a daemon."""
    daemons = done(daemon, "status")["daemons"]
    [uid] = [each["uid"] for each in daemons if each["pid"] == daemon.process.pid]
    return str(uid)


async def test_a_daemon_drains_when_it_is_asked(start_daemon: StartDaemon) -> None:
    """As on SIGTERM; the other one goes on."""
    asked, drained = start_daemon(), start_daemon()
    uid = uid_of(drained)
    assert call(asked, "drain", {"daemon": "x"})["error"]["code"] == 404
    assert call(asked, "drain", {"daemon": ""})["error"]["code"] == 107
    async with connect(drained.chat_url("guild", "3")) as chat:
        await receive(chat)
        done(asked, "drain", {"daemon": uid})
        code, reason = await closing(chat)
        assert (code, (reason or "").partition(" ")[0]) == (1001, "restart")
    assert await trio.to_thread.run_sync(drained.process.wait, 20) == 0
    assert drained.events("daemon.drain_asked")
    assert drained.process.pid not in [each["pid"] for each in done(asked, "status")["daemons"]]


def test_a_daemon_that_drains_itself_still_answers(start_daemon: StartDaemon) -> None:
    """The call that has asked for it is answered first."""
    daemon = start_daemon()
    assert done(daemon, "drain", {"daemon": uid_of(daemon)}) == {}
    assert daemon.process.wait(20) == 0


def test_a_dismissed_report_is_gone(share_daemon: ShareDaemon, redis: Redis) -> None:
    """All reports of that message, and no other; the message stays."""
    daemon = share_daemon()
    redis.rpush("gml:guild", *(message(ts, group="guild", user="eve") for ts in (1, 2)))
    for ts, by in ((1, "tom"), (1, "ann"), (2, "tom")):
        report(redis, "guild", ts, "eve", by)
    assert done(daemon, "dismiss", {"channel": "guild", "ts": 1}) == {}
    left = done(daemon, "reports", {"channel": "guild"})["reports"]
    assert [(each["ts"], each["by"]) for each in left] == [(2, "tom")]
    assert redis.llen("gml:guild") == 2
    assert done(daemon, "dismiss", {"channel": "guild", "ts": 1}) == {}
    [act] = daemon.events("moderation.act")
    assert (act["act"], act["group"], act["message_ts"]) == ("dismiss", "guild", 1)
    done(daemon, "delete_message", {"channel": "guild", "ts": 2})
    assert done(daemon, "reports", {"channel": "guild"}) == {"reports": []}
