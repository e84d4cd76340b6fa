"""A real daemon with a room over its budget: what is heard and what is missed is what was said."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from clients import metrics
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from members import Member, member
from raw import Wire
from redis import Redis
from shedding import SAY, urgent

GROUP = "stadium"
PER_SECOND = 40
"""Deliveries; of four members that is ten messages a second."""


@pytest.fixture
def house(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(room__max_deliveries_per_second=str(PER_SECOND))


def say_urgent(redis: Redis, text: str) -> int:
    ts: int = redis.eval(SAY, 2, f"gml:{GROUP}", f"mq:{GROUP}", urgent(GROUP, text))
    return ts


def stored(redis: Redis) -> list[dict[str, Any]]:
    """The history."""
    return [json.loads(entry) for entry in redis.lrange(f"gml:{GROUP}", 0, -1)]


async def hear_until(client: Member, last: int) -> list[dict[str, Any]]:
    """Every publication up to the one with that ts."""
    heard: list[dict[str, Any]] = []
    while not heard or heard[-1].get("offset") != last:
        push = await client.push("pub")
        heard.append(push["pub"])
    return heard


def account(said: list[int], heard: list[dict[str, Any]]) -> int:
    """Walk through what was said by what somebody was told; returns how much was missed."""
    at = missed = 0
    for each in heard:
        if (each.get("tags") or {}).get("event") == "gap":
            told = each["data"]
            assert "offset" not in each or not each["offset"]
            assert (told["from"], told["to"]) == (said[at], said[at + told["missed"] - 1])
            at += told["missed"]
            missed += told["missed"]
        else:
            assert each["offset"] == said[at]
            at += 1
    assert at == len(said)
    return missed


async def crowd_talks(daemon: Daemon, redis: Redis, messages: int) -> list[int]:
    """So many talk at once on the seed's wire; twice something urgent is said amid it."""
    urgent = []
    async with connect(daemon.chat_url(GROUP, "crowd")) as talker:
        await receive(talker)
        for number in range(messages):
            await talker.send_message(f"hooray {number}")
            if number in (messages // 3, messages // 2):
                urgent.append(await trio.to_thread.run_sync(say_urgent, redis, "goal"))
        await trio.to_thread.run_sync(
            wait_for, lambda: len(stored(redis)) >= messages + len(urgent), daemon
        )
    return urgent


@pytest.mark.parametrize("wire", ["json", "protobuf"])
async def test_everybody_hears_what_passes_and_is_told_what_did_not(
    house: Daemon, redis: Redis, wire: Wire
) -> None:
    """Members of each wire hear the same; the sums are what was said, and the history has all."""
    async with (
        member(house, "ann", GROUP, wire=wire) as ann,
        member(house, "bob", GROUP) as bob,
        connect(house.chat_url(GROUP, "carl")) as carl,
    ):
        await receive(carl)
        urgent = await crowd_talks(house, redis, 300)
        last = await trio.to_thread.run_sync(say_urgent, redis, "the end")
        by_ann, by_bob = await hear_until(ann, last), await hear_until(bob, last)
        by_carl: list[int] = []
        while not by_carl or by_carl[-1] != last:
            by_carl.append((await receive(carl))["ts"])
    history = stored(redis)
    said = [each["ts"] for each in history]
    assert sum(each["info"].startswith("hooray") for each in history) == 300
    missed = account(said, by_ann)
    assert missed == account(said, by_bob) >= 100
    heard = [each["offset"] for each in by_ann if each.get("offset")]
    assert by_carl == heard
    assert {*urgent, last} <= {*heard}
    numbers = await trio.to_thread.run_sync(metrics, house)
    assert numbers["fastimd_messages_shed_total"] == missed
    assert numbers["fastimd_deliveries_shed_total"] >= 3 * missed
    [begun] = house.events("room.shedding")
    assert begun["group"] == GROUP
    ended = await trio.to_thread.run_sync(wait_for, lambda: house.events("room.shed"), house, 15)
    assert ended[0]["messages"] == missed


async def test_a_gap_at_the_end_is_told(house: Daemon, redis: Redis) -> None:
    """When the room falls silent, without another message."""
    async with member(house, "ann", GROUP) as ann:
        await crowd_talks(house, redis, 200)
        said = [each["ts"] for each in stored(redis)]
        heard: list[dict[str, Any]] = []
        known = 0
        while known < len(said):
            heard.append((await ann.push("pub"))["pub"])
            data = heard[-1]["data"]
            known += data["missed"] if isinstance(data, dict) else 1
    assert account(said, heard) > 0


async def test_who_comes_back_recovers_what_was_left_out_since(house: Daemon, redis: Redis) -> None:
    """What was left out before its last message it was told of; what is behind that, it gets."""
    async with member(house, "ann") as ann:
        position = await ann.ask("subscribe", channel=GROUP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd_talks, house, redis, 200)
            heard = [(await ann.push("pub"))["pub"] for _ in range(5)]
            while not heard[-1].get("offset"):
                heard.append((await ann.push("pub"))["pub"])
            await ann.ask("unsubscribe", channel=GROUP)
    # It may have heard more before it was out; that is part of where it goes on from.
    heard += [push["pub"] for push in ann.pushes if "pub" in push]
    while not heard[-1].get("offset"):
        heard.pop()
    async with member(house, "ann") as ann:
        answer = await ann.ask(
            "subscribe",
            channel=GROUP,
            recover=True,
            epoch=position["epoch"],
            offset=heard[-1]["offset"],
        )
    assert answer["recovered"] is True
    said = [each["ts"] for each in stored(redis)]
    assert account(said, heard + answer["publications"]) < 200
