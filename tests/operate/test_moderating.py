"""What operators do as moderators do, and more, from the command line."""

from __future__ import annotations

import json
import subprocess
import time
from functools import partial

import pytest
import trio
from clients import closing, message, metrics, stored
from conftest import Daemon, ShareDaemon, connect, receive, run_fastimd
from redis import Redis


class Operator:
    """Somebody with a shell."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        bind = self.daemon.admin.removeprefix("http://")
        return await trio.to_thread.run_sync(partial(run_fastimd, *arguments, admin__bind=bind))

    async def do(self, *arguments: str) -> str:
        """What a command prints that is carried out."""
        ended = await self.run(*arguments)
        assert (ended.returncode, ended.stderr) == (0, ""), ended
        return ended.stdout


@pytest.fixture
def operator(share_daemon: ShareDaemon) -> Operator:
    return Operator(share_daemon())


async def test_the_banned_and_the_muted(operator: Operator) -> None:
    """They are told why; a user of the list of moderators is no exception."""
    daemon = operator.daemon
    async with connect(daemon.chat_url("7", "3")) as chat:
        await receive(chat)
        assert await operator.do("moderator", "7", "--add", "3", "--add", "5") == "3\n5\n"
        assert await operator.do("mute-all", "7", "on") == ""
        await chat.send_message("a moderator speaks")
        assert (await receive(chat))["info"] == "a moderator speaks"
        assert await operator.do("moderator", "7", "--remove", "3") == "5\n"
        await chat.send_message("hi")
        refused = await receive(chat)
        assert refused["msg"] == "该群组已开启全员禁言 (only moderators may write now)"
        await operator.do("mute-all", "7", "off")
        await operator.do("mute", "7", "3", "--for", "60", "--reason", "spam")
        await chat.send_message("hi")
        assert "(muted until " in (await receive(chat))["msg"]
        await operator.do("unmute", "7", "3")
        await operator.do("slow", "7", "60")
        await chat.send_message("one")
        assert (await receive(chat))["info"] == "one"
        await chat.send_message("two")
        assert "slow mode: wait" in (await receive(chat))["msg"]
        await operator.do("slow", "7", "0")
        await operator.do("moderator", "7", "--add", "3")
        await operator.do("ban", "7", "3")
        assert await closing(chat) == (1008, "banned")
    await operator.do("unban", "7", "3")
    async with connect(daemon.chat_url("7", "3")) as chat:
        await receive(chat)
    acts = [line["act"] for line in daemon.events("moderation.act")]
    assert acts == [
        *("moderator_added", "moderator_added", "mute_all", "moderator_removed", "unmute_all"),
        *("mute", "unmute", "slow_mode", "slow_mode", "moderator_added", "ban", "unban"),
    ]
    assert not [line for line in daemon.events("moderation.act") if line.get("by")]
    counted = metrics(daemon)
    assert counted['fastimd_moderation_acts_total{act="ban"}'] >= 1
    assert counted['fastimd_messages_restrained_total{why="mute_all"}'] >= 1


async def test_messages_and_reports(operator: Operator, redis: Redis) -> None:
    """A message, all of a user's, and what members have reported."""
    now = int(time.time() * 1000) - 10**8
    redis.rpush("gml:7", *(message(now + n, group="7", user=str(n % 2)) for n in range(6)))
    report = {"ts": now, "user": "0", "by": "3\x1b[2J", "at": now, "reason": "rude"}
    redis.zadd("fastimd:reports:7", {json.dumps(report): now})
    shown = await operator.do("reports", "7")
    assert shown.endswith(f" 3\\x1b[2J reports {now} of 0: rude\n")
    assert json.loads(await operator.do("reports", "7", "--json")) == {"reports": [report]}
    assert await operator.do("delete", "7", str(now)) == "messages deleted: 1\n"
    assert await operator.do("reports", "7") == "no reports\n"
    assert await operator.do("delete", "7", "--of", "1") == "messages deleted: 3\n"
    assert len(stored(redis, "7")) == 2
    ended = await operator.run("delete", "7", str(now))
    assert (ended.returncode, ended.stderr) == (1, "fastimd: no such message\n")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("ban", "7", ""), "user"),
        (("ban", "7", "3", "--for", "-1"), "seconds"),
        (("mute", "7", "3", "--for", str(10**12)), "seconds"),
        (("mute", "7", "3", "--reason", "x" * 257), "reason"),
        (("slow", "7", "-1"), "seconds"),
        (("moderator", "", "--add", "3"), "channel"),
        (("moderator", "7", "--add", ""), "add"),
        (("delete", "7", "0"), "ts"),
        (("delete", "7", "--of", ""), "user"),
        (("reports", ""), "channel"),
    ],
)
async def test_a_bad_argument_is_named(
    operator: Operator, arguments: tuple[str, ...], field: str
) -> None:
    """In one line, with exit status 1."""
    ended = await operator.run(*arguments)
    assert ended.returncode == 1
    assert field in ended.stderr
    assert ended.stderr.count("\n") == 1
