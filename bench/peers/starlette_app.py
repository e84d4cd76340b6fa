"""A group chat on Starlette, uvicorn and redis.asyncio: what one writes by hand with asyncio.

``ws://HOST:PORT/group/chat/{group}/{user}/{token}``. The greeting comes first, then each message as
it is in Redis. What a member says goes to Redis in one round trip, by a script that stores and
publishes it; one task reads what is published, and sends it to the members one after another. That
is the fastest way, but a client that reads slowly holds up all others.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

GREETING_MESSAGES = 50
EXPIRY_SECONDS = 604800
SOURCE = Path(__file__).with_name("append.lua").read_text()


class Member:
    """A socket, and what was said in its group before it was greeted."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.early: list[str] | None = []


class Group:
    """The members of a group that are here."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.subscribed = asyncio.Event()

    async def deliver(self, message: str) -> None:
        """Send a message to all; those who have no greeting yet get it after that."""
        for member in tuple(self.members):
            if member.early is not None:
                member.early.append(message)
                continue
            try:
                await member.socket.send_text(message)
            except (WebSocketDisconnect, RuntimeError):  # it is gone
                self.members.discard(member)


class Chat:
    """Groups, and the one subscription that hears them all."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(url, max_connections=50)
        self.redis = Redis(connection_pool=pool)
        self.append = self.redis.register_script(SOURCE)
        self.pubsub = Redis.from_url(url).pubsub()
        self.groups: dict[str, Group] = {}

    async def connect(self) -> None:
        """Connect to Redis to hear what is said; that needs a subscription, if to nothing."""
        await self.pubsub.subscribe("bench:none")

    async def run(self) -> None:
        """Hear what is said, and tell the members, until cancelled."""
        async for event in self.pubsub.listen():
            group = self.groups.get(event["channel"].decode())
            if group is None:
                continue
            if event["type"] == "message":
                await group.deliver(event["data"].decode())
            elif event["type"] == "subscribe":
                group.subscribed.set()

    async def serve(self, socket: WebSocket) -> None:
        """Serve a member until its socket closes."""
        name, user = socket.path_params["group"], socket.path_params["user"]
        channel, keys = f"mq:{name}", [f"gml:{name}", f"bench:newest:{name}"]
        await socket.accept()
        member = Member(socket)
        group = await self._enter(channel, member)
        try:
            await self._greet(group, member, keys[0])
            while True:
                start = _start(name, user, await socket.receive_text())
                await self.append(keys=keys, args=[start, EXPIRY_SECONDS, channel])
        except WebSocketDisconnect:
            pass
        finally:
            await self._leave(channel, group, member)

    async def _enter(self, channel: str, member: Member) -> Group:
        group = self.groups.get(channel)
        if group is not None:
            group.members.add(member)
            return group
        group = self.groups[channel] = Group()
        group.members.add(member)
        await self.pubsub.subscribe(channel)
        return group

    async def _leave(self, channel: str, group: Group, member: Member) -> None:
        group.members.discard(member)
        if not group.members and self.groups.get(channel) is group:
            del self.groups[channel]
            await self.pubsub.unsubscribe(channel)

    async def _greet(self, group: Group, member: Member, key: str) -> None:
        await group.subscribed.wait()
        async with self.redis.pipeline() as pipeline:
            pipeline.lrange(key, -GREETING_MESSAGES, -1)
            pipeline.llen(key)
            found, total = await pipeline.execute()
        messages = [message.decode() for message in found]
        await member.socket.send_text(f'{{"list":[{",".join(messages)}],"total":{total}}}')
        newest = json.loads(messages[-1])["ts"] if messages else 0
        while member.early:
            message = member.early.pop(0)
            if json.loads(message)["ts"] > newest:
                await member.socket.send_text(message)
        member.early = None


def _start(group: str, user: str, info: str) -> str:
    """A message's JSON up to its ts."""
    fields = {"groupId": group, "userId": user, "info": info}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[:-1] + ',"ts":'


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The chat lives as long as the server."""
    chat: Chat = app.state.chat
    packages = ("starlette", "uvicorn", "uvloop", "httptools", "websockets", "redis")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"version: Python {platform.python_version()}, {versions}", flush=True)
    await chat.connect()
    reader = asyncio.create_task(chat.run())
    yield
    reader.cancel()


async def serve_socket(socket: WebSocket) -> None:
    """The route of a member's socket."""
    chat: Any = socket.app.state.chat
    await chat.serve(socket)


app = Starlette(
    routes=[WebSocketRoute("/group/chat/{group}/{user}/{token}", serve_socket)],
    lifespan=lifespan,
)
app.state.chat = Chat(os.environ["REDIS_URL"])
