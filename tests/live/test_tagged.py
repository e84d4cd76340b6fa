"""Messages that an ``on_message`` hook has tagged, on both wires."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon, StartDaemon, connect, receive
from members import member
from raw import Wire
from redis import Redis

HANDLER = """
from dataclasses import replace


def on_message(message):
    if message.info == "plain":
        return message
    return replace(message, info=message.info.upper(), tags={"kind": "gift", "字": '"\\\\'})
"""
TAGS = {"kind": "gift", "字": '"\\'}


@pytest.fixture
def tagging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_daemon: StartDaemon
) -> Callable[..., Daemon]:
    """Start daemons whose hook tags all messages but ``plain``."""
    (tmp_path / "tagging.py").write_text(HANDLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return lambda **given: start_daemon(hooks__handler="tagging", **given)


def shown(publication: Any) -> tuple[Any, dict[str, str]]:
    return publication["data"], publication.get("tags", {})


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("wire", ["json", "protobuf"])
async def test_tags_reach_everybody(
    tagging: Callable[..., Daemon], redis: Redis, wire: Wire, level: str
) -> None:
    """From either wire, live, in the history, in the inbox and after a return."""
    daemon = tagging(log__level=level)
    async with (
        member(daemon, "ann", wire=wire) as ann,
        connect(daemon.chat_url("1", "bob")) as bob,
    ):
        entered = await ann.ask("subscribe", channel="1")
        await receive(bob)
        await bob.send_message("one")
        first = await receive(bob)
        assert await ann.code("publish", channel="1", data="two") == 0
        assert await ann.call("send", channel="1", data="three", nonce="n")
        await bob.send_message("plain")
        heard = [shown((await ann.push("pub"))["pub"]) for _ in range(4)]
        assert heard == [("ONE", TAGS), ("TWO", TAGS), ("THREE", TAGS), ("plain", {})]
        listed = [first, *[await receive(bob) for _ in range(3)]]
        page = await ann.ask("history", channel="1", limit=10)
        assert [shown(each) for each in page["publications"]] == heard
        assert (await ann.call("groups"))["groups"][0]["last"]["data"] == "plain"
    async with member(daemon, "ann", wire=wire) as again:
        since = {"recover": True, "epoch": entered["epoch"], "offset": first["ts"]}
        back = await again.ask("subscribe", channel="1", **since)
        assert [shown(each) for each in back["publications"]] == heard[1:]
    for message, (info, tags) in zip(listed, heard, strict=True):
        expected = {"groupId": "1", "userId": message["userId"], "info": info}
        with_tags = {**expected, "tags": tags} if tags else expected
        assert list(message.items()) == list({**with_tags, "ts": message["ts"]}.items())
    entries: Any = redis.lrange("gml:1", 0, -1)
    assert [json.loads(entry) for entry in entries] == listed
