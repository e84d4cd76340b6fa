"""Plays scripts against a server, and tells what came so that two servers can be compared.

What must differ is a symbol: offsets by their order (``OFFSET1``), clients, epochs, times. A zero
and an empty list are left out, for Protobuf has no others. Of each step and client the replies and
the pushes are told apart, for a reply may come before or behind the push of what it answers.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import jwt
import trio
from raw import SUBPROTOCOLS, HandshakeError, Message, RawLive, Wire, connected, encode
from scripts import SCRIPTS
from steps import END_ID, Script, Step

SECRET = "a-secret-that-only-the-tests-know"
TOKENS = {"TOKEN", "FOREIGN", "EXPIRED", "EXPIRING", "INVITED", "TOLD", "ENTRY"}
AT_ONCE = 64
QUIET_SECONDS = 0.3
ANSWER_SECONDS = 5.0
FRAME_SECONDS = 4.0
"""How long something is awaited of a frame that may have no answer."""
OTHER_WIRE: dict[Wire, Wire] = {"json": "protobuf", "protobuf": "json"}
NOTHINGS: tuple[tuple[str, object], ...] = (("offset", 0), ("publications", []), ("user", ""))
LONGEST = 65_536
TOO_LONG = (1009, "or the end of the stream: the server has not read all that was sent")
MANY = 20
"""More replies, or publications, are counted instead of written out."""

Transcript = list[dict[str, Any]]


def token(kind: str, user: str, channel: str) -> str:
    """A JWT for a placeholder: ``TOKEN mara`` for a connection, ``ENTRY mara`` for the channel."""
    claims: dict[str, Any] = {"sub": user}
    if kind.startswith("ENTRY"):
        claims["channel"] = "elsewhere" if kind.endswith("ELSEWHERE") else channel
    if kind.endswith("EXPIRED"):
        claims["exp"] = int(time.time()) - 3600
    elif kind.endswith("EXPIRING"):
        claims["exp"] = int(time.time()) + 3600
    elif kind == "INVITED":
        claims["channels"] = [channel]
    elif kind == "TOLD":
        claims["info"] = {"name": "Mara"}
    secret = SECRET[::-1] if kind.endswith("FOREIGN") else SECRET
    return jwt.encode(claims, secret, algorithm="HS256")


class Player:
    """Plays one script on one wire."""

    def __init__(
        self, address: str, channel: str, script: Script, wire: Wire, expected: Transcript
    ) -> None:
        self._address = address
        self._expected = [step for step in expected if "subprotocol" not in step]
        self._script = script
        self._wire = wire
        self._channel = channel
        self._clients: dict[str, RawLive] = {}
        self._offsets: set[int] = set()
        self._symbols: dict[str, str] = {}
        self._told: list[dict[str, list[Message]]] = []
        self._closes: list[dict[str, tuple[int, str | None]]] = []

    async def play(self) -> Transcript:
        """All steps, and what came of them."""
        async with AsyncExitStack() as stack:
            for step in self._script.steps:
                if step.client not in self._clients:
                    self._clients[step.client] = await stack.enter_async_context(
                        self._connected(step.client)
                    )
                await self._take(step)
            pings = {name: client.pings for name, client in self._clients.items()}
            offered = self._clients["a"].subprotocol
        transcript = self._normalised()
        if self._wire in SUBPROTOCOLS:
            transcript.insert(0, {"subprotocol": offered})
        if any(step.pause for step in self._script.steps):
            transcript.append({"pinged": {name: bool(number) for name, number in pings.items()}})
        return transcript

    def _connected(self, name: str) -> AbstractAsyncContextManager[RawLive]:
        wire = self._wire if name != "other" else OTHER_WIRE[self._wire]
        return connected(self._address, wire, answers_pings=self._script.answers_pings)

    async def _take(self, step: Step) -> None:
        client = self._clients[step.client]
        was_closed = {name for name, one in self._clients.items() if one.close is not None}
        told: dict[str, list[Message]] = {name: [] for name in self._clients}
        commands = [self._filled(command) for command in step.commands]
        frame = encode(client.wire, commands) if commands else self._filled_frame(step.frame)
        if frame is not None:
            await client.send(frame)
        awaited = {one["id"] for one in commands if one.get("id", 0) and "send" not in one}
        seconds = ANSWER_SECONDS if awaited else step.pause or FRAME_SECONDS
        deadline = trio.current_time() + seconds
        while client.close is None and (left := deadline - trio.current_time()) > 0:
            replies = await client.hear(left)
            told[step.client] += replies or ()
            awaited -= {reply.get("id") for reply in replies or ()}
            if not awaited and told[step.client] and not step.pause:
                break
        await self._hear_out(told)
        self._told.append(told)
        is_too_long = frame is not None and len(frame) > LONGEST
        self._closes.append(
            {
                name: TOO_LONG if is_too_long and one.close[0] in (1006, 1009) else one.close
                for name, one in self._clients.items()
                if one.close is not None and name not in was_closed
            }
        )
        for reply in (reply for replies in told.values() for reply in replies):
            self._learn(reply)

    async def _hear_out(self, told: dict[str, list[Message]]) -> None:
        """Hear what comes to all clients: what is expected first, and then until it is quiet."""
        step = self._expected[len(self._told)] if len(self._told) < len(self._expected) else {}
        for name, client in self._clients.items():
            expected = step.get(name, {})
            number = _count(expected)
            deadline = trio.current_time() + ANSWER_SECONDS
            while (left := deadline - trio.current_time()) > 0 and (
                len(told[name]) < number or ("close" in expected and client.close is None)
            ):
                replies = await client.hear(left)
                told[name] += replies or ()
                if client.close is not None:
                    break
            while (replies := await client.hear(QUIET_SECONDS)) is not None:
                told[name] += replies

    def _learn(self, value: Any, key: str = "") -> None:
        """Note what has to become symbols."""
        if isinstance(value, dict):
            for name, inner in value.items():
                self._learn(inner, name)
        elif isinstance(value, list):
            for inner in value:
                self._learn(inner)
        elif key == "offset" and value:
            self._offsets.add(value)
        elif key in ("client", "epoch", "session", "node"):
            numbers = sum(name.startswith(key.upper()) for name in self._symbols.values())
            self._symbols.setdefault(value, f"{key.upper()}{numbers + 1}")

    def _filled(self, value: Any) -> Any:
        """A command with the values that its placeholders stand for."""
        if isinstance(value, dict):
            return {self._filled(name): self._filled(inner) for name, inner in value.items()}
        if not isinstance(value, str):
            return value
        if value == "CHANNEL":
            return self._channel
        kind, _, rest = value.partition(" ")
        if kind.partition("_")[0] in TOKENS:
            return token(kind, rest, self._channel)
        if value == "OFFSET_FUTURE":
            return max(self._offsets) + 1_000_000_000
        if found := re.fullmatch(r"OFFSET(\d+)", value):
            return sorted(self._offsets)[int(found[1]) - 1]
        if value.startswith("EPOCH"):
            return {symbol: one for one, symbol in self._symbols.items()}.get(value, value)
        return value

    def _filled_frame(self, frame: str | bytes | None) -> str | bytes | None:
        if frame is None:
            return None
        if isinstance(frame, str):
            return frame.replace("CHANNEL", self._channel)
        return frame.replace(b"CHANNEL", self._channel.encode())

    def _normalised(self) -> Transcript:
        ranks = {offset: f"OFFSET{n}" for n, offset in enumerate(sorted(self._offsets), 1)}
        steps = []
        for told, closes in zip(self._told, self._closes, strict=True):
            if any(reply.get("id") == END_ID for reply in told.get("a", ())):
                steps.append({"open": True})
                continue
            step: dict[str, Any] = {}
            for name, replies in told.items():
                plain = [self._symbolic(reply, ranks) for reply in replies]
                heard: dict[str, Any] = {
                    "replies": _folded([one for one in plain if "push" not in one]),
                    "pushes": _folded([one["push"] for one in plain if "push" in one]),
                    "close": list(closes.get(name, ())),
                }
                if heard := {key: value for key, value in heard.items() if value}:
                    step[name] = heard
            steps.append(step)
        return steps

    def _symbolic_name(self, name: str) -> str:
        return "CHANNEL" if name == self._channel else self._symbols.get(name, name)

    def _symbolic(self, value: Any, ranks: Mapping[int, str], key: str = "") -> Any:
        if isinstance(value, dict):
            return {
                self._symbolic_name(name): self._symbolic(inner, ranks, name)
                for name, inner in sorted(value.items())
                if (name, inner) not in NOTHINGS
            }
        if isinstance(value, list):
            shown = [self._symbolic(inner, ranks) for inner in value]
            return shown if key != "publications" else _folded(shown)
        if key == "offset":
            return ranks.get(value, value)
        if key in ("time", "ttl", "version"):
            return key.upper()
        if key in ("client", "epoch", "session", "node"):
            return self._symbols[value]
        if key == "channel":
            return "CHANNEL" if value == self._channel else value
        if key == "user" and re.fullmatch(r"guest-[0-9a-f]{16}", value):
            return "GUEST"
        if isinstance(value, str) and len(value) > 1000:
            return f"{value[:10]}… of {len(value)}"
        return value


def _count(expected: Mapping[str, Any]) -> int:
    """How many replies and pushes there are in what a client has heard of a step."""
    heard = (*expected.get("replies", ()), *expected.get("pushes", ()))
    return sum(item.get("times", 1) for item in heard)


def _folded(items: list[Any]) -> list[Any]:
    """Many items as the different ones that they are, without ids and offsets, and how many."""
    if len(items) <= MANY:
        return items
    counts: dict[str, int] = {}
    for item in items:
        plain = json.dumps({name: inner for name, inner in item.items() if name != "id"})
        plain = re.sub(r'"OFFSET\d+"', '"OFFSET"', re.sub(r'"EPOCH\d+"', '"EPOCH"', plain))
        counts[plain] = counts.get(plain, 0) + 1
    return [{"times": number, "what": json.loads(plain)} for plain, number in counts.items()]


Plays = Iterable[tuple[str, Wire]]
Played = dict[tuple[str, Wire], Transcript]


async def play_all(address: str, plays: Plays, expected: Played | None = None) -> Played:
    """Play scripts, several at once; what came of them by name and wire.

    Args:
        expected: is waited for, and so a busy machine makes no difference.
    """
    played: Played = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(number: int, name: str, wire: Wire) -> None:
        awaited = expected[name, wire] if expected is not None else []
        # As long as CHANNEL, so that it can be put in its place in Protobuf, too.
        player = Player(address, f"c{number:06}", SCRIPTS[name], wire, awaited)
        async with limit:
            try:
                played[name, wire] = await player.play()
            except (HandshakeError, AssertionError, ValueError, LookupError) as exc:
                # The others are wanted all the same.
                played[name, wire] = [{"failed": f"{type(exc).__name__}: {exc}"}]

    async with trio.open_nursery() as nursery:
        for number, (name, wire) in enumerate(plays):
            nursery.start_soon(one, number, name, wire)
    return played
