"""Try the drivers on Centrifugo itself: ``python against_centrifugo.py CENTRIFUGO [KIND ...]``.

So one knows that they are right before a daemon of ours is judged by them. It needs a redis-server,
and no test runs it. Centrifugo 6.9.1 is what it was written with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import jwt  # noqa: E402 - as all below, from the folders of the tests
import trio  # noqa: E402
from conftest import redis_servers, run_redis  # noqa: E402
from faults import free_port  # noqa: E402
from sdks import KINDS, Client, Refused, command_of, running  # noqa: E402

SECRET = "a secret of at least thirty-two bytes"
SAID: list[Any] = ["plain", "你好 🙂", {"text": "a", "n": [1, 2]}, [1, "two", {}]]


class Centrifugo:
    """A server on a port that stays the same."""

    def __init__(self, executable: str, redis: str, folder: Path) -> None:
        self.port = free_port()
        self._executable = executable
        self._config = folder / "config.json"
        allowed = ("publish", "subscribe", "history", "presence")
        channel: dict[str, Any] = {f"allow_{each}_for_client": True for each in allowed}
        channel |= {"history_size": 1000, "history_ttl": "1h", "presence": True}
        channel |= {"join_leave": True, "force_recovery": True}
        self._config.write_text(
            json.dumps(
                {
                    "http_server": {"address": "127.0.0.1", "port": self.port},
                    "engine": {"type": "redis", "redis": {"address": redis}},
                    "client": {
                        "token": {"hmac_secret_key": SECRET},
                        "allowed_origins": ["*"],
                    },
                    "channel": {"without_namespace": channel},
                    "usage_stats": {"disabled": True},
                    "log": {"level": "error"},
                }
            )
        )
        self.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/connection/websocket"

    def start(self) -> None:
        self._process = subprocess.Popen([self._executable, "-c", str(self._config)])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def try_kind(kind: str, server: Centrifugo) -> None:
    """All that a driver can do, once."""
    channel = f"try-{kind}"
    async with running(command_of(kind)) as driver:
        ann, ben = driver.client("ann"), driver.client("ben")
        for client in (ann, ben):
            token = jwt.encode({"sub": client.name, "exp": time.time() + 2}, SECRET, "HS256")
            refresh = jwt.encode({"sub": client.name, "exp": time.time() + 60}, SECRET, "HS256")
            connected = await client.connect(server.url, token=token, refresh=refresh)
            assert connected["client"]
            subscribed = await client.subscribe(channel, join_leave=True)
            assert subscribed["recoverable"], subscribed
            assert subscribed["streamPosition"]["epoch"], subscribed
        assert (await ann.next("join", channel=channel, user="ben"))["client"]
        for data in SAID:
            await ann.publish(channel, data)
        heard = await ben.hears(channel, SAID)
        assert {each["user"] for each in heard} == {"ann"}
        assert [each["offset"] for each in heard] == [1, 2, 3, 4]
        await requests(ben, channel)
        for client in (ann, ben):
            await client.next("renewal", channel=None)
        await trio.sleep(1)
        assert len(ben.told("connecting")) == 1, ben.events
        server.kill()
        await ann.next("connecting")  # the first
        lost = await ann.next("connecting")
        assert lost["code"], lost
        server.start()
        await recovered(ben, channel)
        await ann.publish(channel, "back")
        await ben.hears(channel, [*SAID, "back"])
        await ben.do("unsubscribe", channel=channel)
        assert (await ben.next("unsubscribed", channel=channel))["code"] == 0
        await ann.next("leave", channel=channel, user="ben")
        await ben.do("disconnect")
        assert (await ben.next("disconnected"))["code"] == 0


async def requests(client: Client, channel: str) -> None:
    """History, presence and what is refused."""
    page = await client.ask("history", channel=channel, limit=2)
    assert [each["data"] for each in page["publications"]] == SAID[:2], page
    since = {"offset": page["publications"][-1]["offset"], "epoch": page["epoch"]}
    page = await client.ask("history", channel=channel, limit=10, since=since)
    assert [each["data"] for each in page["publications"]] == SAID[2:], page
    page = await client.ask("history", channel=channel, limit=1, reverse=True)
    assert [each["data"] for each in page["publications"]] == SAID[-1:], page
    present = await client.ask("presence", channel=channel)
    assert sorted(each["user"] for each in present["clients"]) == ["ann", "ben"], present
    assert await client.ask("presence_stats", channel=channel) == {"clients": 2, "users": 2}
    try:
        await client.ask("rpc", method="nothing", data={})
    except Refused as refused:
        print("  rpc:", refused)
    else:
        raise AssertionError("there is no such method")


async def recovered(client: Client, channel: str) -> None:
    """It has connected again, and missed nothing."""
    again = await client.next("subscribed", channel=channel)
    assert again["wasRecovering"], again
    assert again["recovered"], again


async def main(executable: str, *kinds: str) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        run_redis(redis_servers()[0], Path(folder)) as redis,
    ):
        server = Centrifugo(executable, redis, Path(folder))
        try:
            await trio.sleep(1)
            for kind in kinds or KINDS:
                started = time.monotonic()
                print(kind)
                await try_kind(kind, server)
                print(f"  good, {time.monotonic() - started:.1f} s")
        finally:
            server.kill()


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
