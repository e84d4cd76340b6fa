"""The driver with the PyPI package centrifuge-python: ``python asyncio_driver.py json|protobuf``.

It runs on asyncio, as that package does, and so in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from centrifuge import (
    Client,
    ClientEventHandler,
    ClientInfo,
    Publication,
    StreamPosition,
    Subscription,
    SubscriptionEventHandler,
)

RETRY_SECONDS = {"min_reconnect_delay": 0.1, "max_reconnect_delay": 0.5}


def tell(**fields: Any) -> None:
    """Give an event."""
    print(json.dumps(fields, ensure_ascii=False), flush=True)


def failure(error: BaseException) -> dict[str, Any]:
    """What went wrong, as all drivers tell it."""
    return {
        "code": getattr(error, "code", 0),
        "message": str(error) or type(error).__name__,
        "temporary": getattr(error, "temporary", False),
    }


class Data:
    """How what is published travels: as it is, or as the bytes of its JSON."""

    def __init__(self, encoding: str) -> None:
        self.is_binary = encoding == "protobuf"

    def encode(self, data: Any) -> Any:
        return json.dumps(data).encode() if self.is_binary else data

    def decode(self, data: Any) -> Any:
        if self.is_binary and isinstance(data, bytes):
            return json.loads(data) if data else None
        return data

    def published(self, publication: Publication) -> dict[str, Any]:
        return {
            "data": self.decode(publication.data),
            "user": publication.info.user if publication.info else None,
            "offset": publication.offset,
            "tags": publication.tags or {},
        }


def position(at: StreamPosition | None) -> dict[str, Any] | None:
    """Where a stream stands."""
    return {"offset": at.offset, "epoch": at.epoch} if at else None


def member(info: ClientInfo) -> dict[str, Any]:
    """Who came, went or is here."""
    return {"user": info.user, "client": info.client}


class ClientEvents(ClientEventHandler):  # type: ignore[misc]  # it comes without types
    """Tells what becomes of a connection."""

    def __init__(self, name: str, data: Data) -> None:
        self._name = name
        self._data = data

    def _tell(self, event: str, **fields: Any) -> None:
        tell(**{"as": self._name, "event": event, **fields})

    async def on_connecting(self, ctx: Any) -> None:
        self._tell("connecting", code=int(ctx.code), reason=ctx.reason)

    async def on_connected(self, ctx: Any) -> None:
        self._tell("connected", client=ctx.client, data=self._data.decode(ctx.data))

    async def on_disconnected(self, ctx: Any) -> None:
        self._tell("disconnected", code=int(ctx.code), reason=ctx.reason)

    async def on_error(self, ctx: Any) -> None:
        self._tell("error", **failure(ctx.error))


class SubscriptionEvents(SubscriptionEventHandler):  # type: ignore[misc]  # as above
    """Tells what becomes of a subscription."""

    def __init__(self, name: str, channel: str, data: Data) -> None:
        self._always = {"as": name, "channel": channel}
        self._data = data

    def _tell(self, event: str, **fields: Any) -> None:
        tell(**self._always, event=event, **fields)

    async def on_subscribing(self, ctx: Any) -> None:
        self._tell("subscribing", code=int(ctx.code), reason=ctx.reason)

    async def on_subscribed(self, ctx: Any) -> None:
        self._tell(
            "subscribed",
            recoverable=ctx.recoverable,
            positioned=ctx.positioned,
            wasRecovering=ctx.was_recovering,
            recovered=ctx.recovered,
            streamPosition=position(ctx.stream_position),
        )

    async def on_unsubscribed(self, ctx: Any) -> None:
        self._tell("unsubscribed", code=int(ctx.code), reason=ctx.reason)

    async def on_publication(self, ctx: Any) -> None:
        self._tell("publication", **self._data.published(ctx.pub))

    async def on_join(self, ctx: Any) -> None:
        self._tell("join", **member(ctx.info))

    async def on_leave(self, ctx: Any) -> None:
        self._tell("leave", **member(ctx.info))

    async def on_error(self, ctx: Any) -> None:
        self._tell("subscription_error", **failure(ctx.error))


def renewal(name: str, refresh: str | None) -> Callable[..., Awaitable[str]] | None:
    """What gives a new token when the library asks for one; without it the library gives up."""
    if not refresh:
        return None

    async def renew(channel: str | None = None) -> str:
        tell(**{"as": name, "event": "renewal", "channel": channel})
        return refresh

    return renew


class Driver:
    """Carries out commands."""

    def __init__(self, encoding: str) -> None:
        self._data = Data(encoding)
        self._clients: dict[str, Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def carry_out(self, command: dict[str, Any]) -> None:
        """Do it, or begin it if it has an answer."""
        name, channel = command["as"], command.get("channel", "")
        if command["do"] == "connect":
            await self._connect(command)
        elif command["do"] == "disconnect":
            await self._clients[name].disconnect()
        elif command["do"] == "subscribe":
            await self._subscribe(command)
        elif command["do"] == "unsubscribe":
            subscription = self._clients[name].get_subscription(channel)
            assert subscription is not None
            await subscription.unsubscribe()
        else:
            task = asyncio.create_task(self._answer(command))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, command: dict[str, Any]) -> None:
        name, data = command["as"], command.get("data")
        client = Client(
            command["url"],
            events=ClientEvents(name, self._data),
            token=command.get("token") or "",
            get_token=renewal(name, command.get("refresh")),
            data=None if data is None else self._data.encode(data),
            use_protobuf=self._data.is_binary,
            **RETRY_SECONDS,
        )
        self._clients[name] = client
        await client.connect()

    async def _subscribe(self, command: dict[str, Any]) -> None:
        client, channel = self._clients[command["as"]], command["channel"]
        is_recoverable = bool(command.get("recoverable"))
        subscription: Subscription = client.get_subscription(channel) or client.new_subscription(
            channel,
            events=SubscriptionEvents(command["as"], channel, self._data),
            token=command.get("token") or "",
            get_token=renewal(command["as"], command.get("refresh")),
            recoverable=is_recoverable,
            positioned=is_recoverable,
            join_leave=bool(command.get("joinLeave")),
            min_resubscribe_delay=0.1,
            max_resubscribe_delay=0.5,
        )
        await subscription.subscribe()

    async def _answer(self, command: dict[str, Any]) -> None:
        outcome: dict[str, Any]
        try:
            outcome = {"result": await getattr(self, f"_{command['do']}")(command)}
        except Exception as exc:
            outcome = {"error": failure(exc)}
        tell(**{"as": command["as"], "event": "reply", "id": command["id"], **outcome})

    async def _publish(self, command: dict[str, Any]) -> dict[str, Any]:
        client, data = self._clients[command["as"]], self._data.encode(command["data"])
        subscription = client.get_subscription(command["channel"])
        sending: Awaitable[Any] = (
            subscription.publish(data)
            if subscription is not None
            else client.publish(command["channel"], data)
        )
        await sending
        return {}

    async def _history(self, command: dict[str, Any]) -> dict[str, Any]:
        since = command.get("since")
        result = await self._clients[command["as"]].history(
            command["channel"],
            limit=command.get("limit") or 0,
            since=StreamPosition(**since) if since else None,
            reverse=bool(command.get("reverse")),
        )
        publications = [self._data.published(each) for each in result.publications]
        return {"publications": publications, "offset": result.offset, "epoch": result.epoch}

    async def _rpc(self, command: dict[str, Any]) -> dict[str, Any]:
        client = self._clients[command["as"]]
        result = await client.rpc(command["method"], self._data.encode(command.get("data")))
        return {"data": self._data.decode(result.data)}

    async def _presence(self, command: dict[str, Any]) -> dict[str, Any]:
        result = await self._clients[command["as"]].presence(command["channel"])
        return {"clients": [member(info) for info in result.clients.values()]}

    async def _presence_stats(self, command: dict[str, Any]) -> dict[str, Any]:
        result = await self._clients[command["as"]].presence_stats(command["channel"])
        return {"clients": result.num_clients, "users": result.num_users}


async def main(encoding: str) -> None:
    """Take commands until standard input ends."""
    driver = Driver(encoding)
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        await driver.carry_out(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
