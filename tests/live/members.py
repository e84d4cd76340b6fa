"""Members of the live wire, for tests: they command, and keep what they are told beside answers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from conftest import Daemon
from raw import Message, RawLive, Wire, connected

ANSWER_SECONDS = 15.0
OUT_SECONDS = 30
"""In which the members of a killed daemon are out, as promised."""


class Member:
    """A client that is heard only while something is asked of it.

    ``pushes`` are those that came between answers.
    """

    def __init__(self, live: RawLive) -> None:
        self.live = live
        self.pushes: deque[Message] = deque()
        self._number = 0

    async def ask(self, name: str, /, **request: Any) -> Message:
        """The answer to a command: its result, or ``{"error": …}``."""
        self._number += 1
        await self.live.say({"id": self._number, name: request})
        with trio.fail_after(ANSWER_SECONDS):
            while True:
                for reply in await self._hear():
                    if reply["id"] == self._number:
                        result: Message = reply if "error" in reply else reply[name]
                        return result

    async def code(self, name: str, /, **request: Any) -> int:
        """The code of the error that a command gets, 0 for none."""
        answer = await self.ask(name, **request)
        return int(answer["error"]["code"]) if "error" in answer else 0

    async def call(self, method: str, **data: Any) -> Any:
        """What a method returns."""
        return (await self.ask("rpc", method=method, data=data)).get("data")

    async def rpc_code(self, method: str, **data: Any) -> int:
        """The code of the error that a method gets, 0 for none."""
        return await self.code("rpc", method=method, data=data)

    async def push(self, *kinds: str) -> Message:
        """The next push of one of these kinds, without those before it."""
        with trio.fail_after(ANSWER_SECONDS):
            while True:
                while self.pushes:
                    push = self.pushes.popleft()
                    if set(kinds) & push.keys():
                        return push
                assert not await self._hear()

    async def hears(self) -> Any:
        """The data of the next publication."""
        return (await self.push("pub"))["pub"]["data"]

    async def counts(self, group: str) -> tuple[int, int]:
        """Connections and users in a group."""
        stats = await self.ask("presence_stats", channel=group)
        return stats["num_clients"], stats["num_users"]

    async def users(self, group: str) -> list[str]:
        """Of all connections in a group."""
        present = (await self.ask("presence", channel=group))["presence"]
        return sorted(one["user"] for one in present.values())

    async def wait_counts(self, group: str, expected: tuple[int, int]) -> None:
        """Other daemons note who comes and goes in a moment."""
        with trio.fail_after(OUT_SECONDS):
            while (found := await self.counts(group)) != expected:  # noqa: ASYNC110
                await trio.sleep(0.02 if sum(found) < 10 else 0.1)

    async def come_or_gone(self) -> tuple[str, str]:
        """The next join or leave: which it is, and of whom."""
        push = await self.push("join", "leave")
        ((kind, told),) = [each for each in push.items() if each[0] in ("join", "leave")]
        return kind, told["info"]["user"]

    async def come_or_gone_in_time(self) -> tuple[str, str]:
        """The same, however long one is told nothing else before."""
        with trio.fail_after(OUT_SECONDS):
            while not any({"join", "leave"} & push.keys() for push in self.pushes):
                await self.ask("ping")
                await trio.sleep(0.2)
        return await self.come_or_gone()

    async def closed(self) -> tuple[int, str | None]:
        """Code and reason of the close, whatever comes before it."""
        with trio.fail_after(2 * ANSWER_SECONDS):
            while self.live.close is None:
                await self._hear(may_close=True)
        return self.live.close

    async def _hear(self, *, may_close: bool = False) -> list[Message]:
        """Answers that came; pushes are kept."""
        told = await self.live.hear(ANSWER_SECONDS)
        assert may_close or told is not None, f"closed: {self.live.close}"
        replies = told or []
        self.pushes.extend(reply["push"] for reply in replies if "push" in reply)
        return [reply for reply in replies if "push" not in reply]


@asynccontextmanager
async def stranger(
    daemon: Daemon, wire: Wire = "json", *, answers_pings: bool = True
) -> AsyncIterator[Member]:
    """A client that has said nothing."""
    async with connected(daemon.address, wire, answers_pings=answers_pings) as live:
        yield Member(live)


@asynccontextmanager
async def member(
    daemon: Daemon, user: str, *groups: str, wire: Wire = "json", **connect: Any
) -> AsyncIterator[Member]:
    """A client that is connected and in groups; further arguments are for its connect."""
    async with stranger(daemon, wire) as client:
        assert "client" in await client.ask("connect", data={"userId": user}, **connect)
        for group in groups:
            assert await client.code("subscribe", channel=group) == 0
        yield client
