"""What a group tells beside its messages: who is here, who types, what is unread, what is gone.

That is on the live wire, in JSON. The messages stay on the chat socket, which Fast-IM has too: so
this is a connection of its own, without which the chat goes on.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

import msgspec
import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection

from .account import Account
from .events import Acted, Came, Removed, RoomEvent, Types, Went
from .failures import ChatError, Refused, TokenLost, Unreachable
from .live import (
    Error,
    Gone,
    Info,
    ListedGroups,
    Publication,
    Push,
    Reply,
    Report,
    Reports,
    Subscribed,
)

PATH = "/connection/websocket"
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
ANSWER_SECONDS = 10.0
LATE_SECONDS = 10.0
"""How late a ping of the server may be."""
READ_SECONDS = 2.0
"""Between two read marks."""

_FINAL = 3500
"""From this close code on, coming back would not help."""
_AGAIN = 2500
"""From this code on, the end of a subscription asks to subscribe again."""
_INVALID_TOKEN = "invalid token"  # noqa: S105
LIMIT_EXCEEDED, NOT_AVAILABLE = 106, 108

_T = TypeVar("_T")


class _Lost(Exception):
    """The connection is over; another one may be had."""


class NotServed(Refused):
    """An error of the live wire."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.is_temporary = error.temporary


class Room:
    """A user's view of a group beside its messages.

    Args:
        tell: gets what happens.
    """

    def __init__(
        self, account: Account, group: str, tell: Callable[[RoomEvent], Awaitable[None]]
    ) -> None:
        self._account = account
        self._group = group
        self._tell = tell
        self._socket: WebSocketConnection | None = None
        self._stand: Subscribed | None = None
        self._offset = 0
        self._numbers = itertools.count(1)
        self._asked: dict[int, trio.MemorySendChannel[Reply]] = {}
        self._patience = math.inf
        self._failures = 0
        self._may_type = True
        self._read = self._told_read = 0

    async def run(self) -> None:
        """Be there until cancelled, or until the server ends it for good."""
        while True:
            token = self._account.token
            try:
                await self._visit()
            except TokenLost:
                with suppress(ChatError):  # the chat socket tells it
                    await self._account.log_in_again(token)
            except Refused as exc:
                if not (isinstance(exc, NotServed) and exc.is_temporary):
                    return
            except (_Lost, Unreachable):
                pass
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * (1 << self._failures))
            self._failures = min(self._failures + 1, 10)
            await trio.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - no secret

    async def who(self) -> tuple[int, list[str]]:
        """How many users are here, and who; of more than the server lists, nobody.

        Raises:
            ChatError: it is not told.
        """
        about = {"channel": self._group}
        try:
            reply = await self._ask({"presence": about})
        except NotServed as exc:
            if exc.code != LIMIT_EXCEEDED:
                raise
            return (await self._ask({"presence_stats": about})).presence_stats.num_users, []
        users = sorted({each.user for each in reply.presence.presence.values()})
        return len(users), users

    async def unread(self) -> dict[str, int]:
        """How many messages of each of the user's groups are not read.

        Raises:
            ChatError: it is not told.
        """
        self._told_read = 0
        await self._tell_read()  # they are counted in the order of what is asked
        listed = await self.call("groups", ListedGroups)
        return {each.channel: each.unread for each in listed.groups}

    async def act(self, method: str, data: dict[str, object]) -> None:
        """Do what a moderator may. Errors as with ``call``."""
        await self.call(method, dict, channel=self._group, **data)

    async def reports(self) -> list[Report]:
        """What was reported. Errors as with ``call``."""
        return (await self.call("reports", Reports, channel=self._group)).reports

    async def typing(self) -> None:
        """Tell the others that the user is typing, if that may be told."""
        if self._socket is None or not self._may_type:
            return
        try:
            await self.call("typing", dict, channel=self._group)
        except NotServed as exc:
            self._may_type = exc.code not in (LIMIT_EXCEEDED, NOT_AVAILABLE)
        except Unreachable:
            pass

    def read(self, ts: int) -> None:
        """The user has read the group up to a message."""
        self._read = max(self._read, ts)

    async def call(self, method: str, kind: type[_T], **data: object) -> _T:
        """Call a method of the live wire; returns its result, which is of a kind.

        Raises:
            NotServed: it is refused.
            Unreachable: there is no connection, or no answer.
        """
        reply = await self._ask({"rpc": {"method": method, "data": data}})
        try:
            return msgspec.json.decode(reply.rpc.data, type=kind)
        except ValueError as exc:
            raise self._account.no_fastimd(f"its answer to {method}") from exc

    async def _ask(self, command: dict[str, object]) -> Reply:
        """Give a command; returns its reply. Errors as with ``call``."""
        if self._socket is None:
            raise Unreachable("not now: there is no connection to the live wire of the server")
        return await self._ask_on(self._socket, command)

    async def _ask_on(self, socket: WebSocketConnection, command: dict[str, object]) -> Reply:
        number = next(self._numbers)
        replies_send, replies = trio.open_memory_channel[Reply](1)
        self._asked[number] = replies_send
        try:
            with trio.fail_after(ANSWER_SECONDS):
                frame = msgspec.json.encode({"id": number, **command}).decode()
                await socket.send_message(frame)
                reply = await replies.receive()
        except (trio.TooSlowError, trio.EndOfChannel, ConnectionClosed):
            raise Unreachable("the live wire of the server gives no answer") from None
        finally:
            self._asked.pop(number, None)
        if reply.error is not None:
            raise NotServed(reply.error)
        return reply

    async def _visit(self) -> None:
        """One connection, to its end, which is an error."""
        async with self._account.open_socket(PATH) as socket, trio.open_nursery() as nursery:
            try:
                nursery.start_soon(self._listen, socket)
                await self._enter(socket)
                self._socket = socket
                self._failures, self._may_type = 0, True
                while True:
                    await self._tell_read()
                    await trio.sleep(READ_SECONDS)
            finally:
                self._socket = None
                for replies in self._asked.values():
                    replies.close()
                self._asked.clear()

    async def _enter(self, socket: WebSocketConnection) -> None:
        who = {"token": self._account.token, "data": {"userId": self._account.user}}
        connect: dict[str, object] = {"connect": {**who, "name": "fastimd chat"}}
        ping = (await self._ask_on(socket, connect)).connect.ping
        self._patience = ping + LATE_SECONDS if ping else math.inf
        subscribe: dict[str, object] = {"channel": self._group, "join_leave": True}
        if self._stand is not None:
            subscribe |= {"recover": True, "epoch": self._stand.epoch, "offset": self._offset}
        self._stand = (await self._ask_on(socket, {"subscribe": subscribe})).subscribe
        self._offset = self._stand.offset
        for publication in self._stand.publications:
            await self._take_publication(publication)

    async def _listen(self, socket: WebSocketConnection) -> NoReturn:
        while True:
            frame = b""
            with trio.move_on_after(self._patience) as patience:
                try:
                    said = await socket.get_message()
                except ConnectionClosed as exc:
                    _judge(exc.reason)
                frame = said.encode() if isinstance(said, str) else said
            if patience.cancelled_caught:
                raise _Lost
            for line in frame.split(b"\n"):
                try:
                    reply = msgspec.json.decode(line, type=Reply)
                except ValueError as exc:
                    raise self._account.no_fastimd("its live wire") from exc
                await self._take(socket, reply)

    async def _take(self, socket: WebSocketConnection, reply: Reply) -> None:
        if reply.push is not None:
            await self._take_push(reply.push)
        elif not reply.id:  # a ping
            with suppress(ConnectionClosed):
                await socket.send_message("{}")
        elif reply.id in self._asked:
            self._asked.pop(reply.id).send_nowait(reply)

    async def _take_push(self, push: Push) -> None:
        if push.pub is not None:
            await self._take_publication(push.pub)
        elif push.join is not None and push.join.info.user != self._account.user:
            await self._tell(Came(push.join.info.user))
        elif push.leave is not None and push.leave.info.user != self._account.user:
            await self._tell(Went(push.leave.info.user))
        elif push.unsubscribe is not None:
            if push.unsubscribe.code >= _AGAIN:
                raise _Lost
            raise Refused(push.unsubscribe.reason)

    async def _take_publication(self, publication: Publication) -> None:
        if publication.offset:
            self._offset = max(self._offset, publication.offset)
            return
        event = publication.tags.get("event")
        if event == "typing":
            await self._tell(Types(self._data(publication, Info).user))
        elif event == "moderation":
            await self._tell(self._data(publication, Acted))
        elif event in ("recall", "purge"):
            gone = self._data(publication, Gone)
            if event == "recall":
                await self._tell(Removed(gone.ts, gone.ts))
            else:
                await self._tell(Removed(gone.since, gone.ts, gone.user))

    def _data(self, publication: Publication, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(publication.data, type=kind)
        except ValueError as exc:
            raise self._account.no_fastimd("its live wire") from exc

    async def _tell_read(self) -> None:
        if self._read <= self._told_read:
            return
        ts = self._read
        with suppress(NotServed):  # the next mark is as good
            await self.call("read", dict, channel=self._group, ts=ts)
        self._told_read = ts


def _judge(closed: CloseReason | None) -> NoReturn:
    """What a close means.

    Raises:
        TokenLost: another login may help.
        Refused: nothing helps.
        _Lost: it may be tried again.
    """
    code, reason = (closed.code, closed.reason or "") if closed else (1006, "")
    if code < _FINAL:
        raise _Lost
    raise TokenLost(reason) if reason == _INVALID_TOKEN else Refused(reason)
