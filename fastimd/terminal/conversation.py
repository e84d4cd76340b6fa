"""One user in one group, over as many connections as it takes.

``ts`` is a message's id and increases within the group, so the newest ``ts`` that was told says
what is missing after a broken connection: what the next greeting has beyond it, and what lies
between the two, which is read from the history. What was sent and has not come back by then, and is
not among it, was not sent: it is told, never repeated.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection

from ..base.codec import CorruptEntry, Message, decode_message
from .account import CLOSE_SECONDS, Account
from .events import Back, Declined, Event, Heard, Joined, Lost, NotSent
from .failures import ChatError, TokenLost, TurnedOut, Unreachable
from .outgoing import Outgoing

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 10.0
"""A connection that lived so long was a good one: the pauses begin anew."""
END_SECONDS = 5.0
"""How long leaving may take after a signal, also where nobody reads what is told."""
GREETING_SECONDS = 30.0
PING_SECONDS = 20.0
PONG_SECONDS = 20.0
FAR_TS = (1 << 53) - 1
"""The latest that a server takes."""
PAGE = 200
"""Messages of the history that are asked for at once."""

_TOKEN_LOST = "440"  # noqa: S105
_RESTART = "restart "


class _Greeting(msgspec.Struct):
    entries: list[msgspec.Raw] = msgspec.field(name="list")
    total: int


class _Declined(msgspec.Struct):
    """What the server says of a text that it does not take."""

    code: int
    msg: str
    data: str


@dataclass(frozen=True, slots=True)
class _Loss:
    """How a connection ended; ``seconds`` is the pause that the server asks for."""

    reason: str
    seconds: float | None = None


class Conversation:
    """A user's place in a group.

    Args:
        events: gets all that happens; closed when the conversation has ended.
        history: how many messages to tell at first; None for those of the greeting.
    """

    def __init__(
        self,
        account: Account,
        group: str,
        events: trio.MemorySendChannel[Event],
        history: int | None = None,
    ) -> None:
        self.group = group
        self.outgoing = Outgoing()
        self.is_connected = False
        self.ended: ChatError | None = None
        """Why it ended by itself."""
        self._account = account
        self._events = events
        self._history = history
        self._newest: int | None = None
        self._failures = 0
        self._is_lost = False
        self._scope = trio.CancelScope()
        self._left = trio.Event()

    def say(self, text: str) -> None:
        """Say something, now or when the connection stands again."""
        self.outgoing.say(text)

    def leave(self) -> None:
        """End it: the socket is closed with 1000."""
        self._left.set()
        if not self.is_connected:
            self._scope.cancel()

    async def run(self) -> None:
        """Be in the group until it is left, or until ``ended`` says why not."""
        async with self._events:
            with self._scope:
                try:
                    while not self._left.is_set():
                        await self._stay()
                except ChatError as exc:
                    self.ended = exc
                finally:
                    self.is_connected = False

    async def older(self, message: Message | None, count: int) -> list[Message]:
        """The ``count`` messages before one, oldest first, read page by page; the last, if None."""
        # The server need not have it: it gives those with a smaller ts.
        message = message or Message(self.group, self._account.user, "", FAR_TS)
        pages: list[list[Message]] = []
        while count > 0:
            page = await self._account.before(message, min(count, PAGE))
            if not page:
                break
            pages.append(page)
            count -= len(page)
            message = page[0]
        return [each for page in reversed(pages) for each in page]

    async def _stay(self) -> None:
        """One connection, and the pause after it."""
        began, token = trio.current_time(), self._account.token
        try:
            loss = await self._visit()
        except TokenLost:
            await self._renew_token(token)
            return
        except Unreachable as exc:
            if not self._account.was_greeted:
                raise
            loss = _Loss(str(exc), exc.retry_after or None)
        if self._left.is_set():
            return
        if self.is_connected and trio.current_time() - began > STEADY_SECONDS:
            self._failures = 0
        await self._tell_lost(loss.reason)
        await trio.sleep(self._pause(loss))

    async def _renew_token(self, lost: str) -> None:
        await self._tell_lost("login required")
        try:
            await self._account.log_in_again(lost)
        except Unreachable as exc:
            if not self._account.was_greeted:
                raise
            await trio.sleep(self._pause(_Loss(str(exc))))

    async def _tell_lost(self, reason: str) -> None:
        """Tell it once, however often it is tried again in vain."""
        self.is_connected = False
        if self._account.was_greeted and not self._is_lost:
            self._is_lost = True
            await self._events.send(Lost(reason))

    def _pause(self, loss: _Loss) -> float:
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * (1 << self._failures))
        self._failures = min(self._failures + 1, 10)
        if loss.seconds is not None:
            return min(loss.seconds, LONGEST_PAUSE_SECONDS)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret

    async def _visit(self) -> _Loss:
        closed: CloseReason | None = None
        async with self._account.open_socket(self._account.chat_path(self.group)) as socket:
            try:
                await self._greet(await self._receive_greeting(socket))
                self.is_connected = self._account.was_greeted = True
                self._is_lost = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._speak, socket)
                    nursery.start_soon(_watch, socket, nursery.cancel_scope)
                    nursery.start_soon(self._close_when_left, socket)
                    closed = await self._listen(socket)
                    nursery.cancel_scope.cancel()
            except ConnectionClosed as exc:
                closed = exc.reason
        loss = _judge(closed)
        if not self._account.was_greeted:
            raise Unreachable(f"{self._account.address} lets nobody in: {loss.reason}")
        return loss

    async def _receive_greeting(self, socket: WebSocketConnection) -> bytes:
        with trio.move_on_after(GREETING_SECONDS):
            return await self._receive(socket)
        raise Unreachable(f"{self._account.address} opens a socket and says nothing")

    async def _receive(self, socket: WebSocketConnection) -> bytes:
        """The next frame.

        Raises:
            ConnectionClosed: there is none.
            TokenLost: it says so.
        """
        frame = await socket.get_message()
        if frame == _TOKEN_LOST:
            raise TokenLost("login required")
        return frame.encode() if isinstance(frame, str) else frame

    async def _greet(self, frame: bytes) -> None:
        try:
            greeting = msgspec.json.decode(frame, type=_Greeting)
            messages = [decode_message(bytes(entry)) for entry in greeting.entries]
        except (msgspec.MsgspecError, CorruptEntry) as exc:
            raise self._account.no_fastimd(f"its greeting: {exc}") from exc
        if self._newest is None:
            await self._open(messages, greeting.total)
        else:
            await self._catch_up(self._newest, messages, greeting.total)

    async def _open(self, messages: list[Message], total: int) -> None:
        """The first greeting."""
        shown = messages
        if self._history is not None:
            shown = messages[-self._history :] if self._history else []
            if self._history > len(messages) and len(messages) < total and messages:
                older = await self.older(messages[0], self._history - len(messages))
                shown = [*older, *messages]
        await self._events.send(Joined(shown, total))
        self._newest = messages[-1].ts if messages else 0

    async def _catch_up(self, newest: int, messages: list[Message], total: int) -> None:
        """A greeting after a broken connection: tell what was missed."""
        pages = [messages]
        if len(messages) < total:
            while pages[-1] and pages[-1][0].ts > newest:
                pages.append(await self._account.before(pages[-1][0], PAGE))
        missed = [each for page in reversed(pages) for each in page if each.ts > newest]
        await self._events.send(Back(len(missed)))
        for message in missed:
            await self._hear(message)
        for text in self.outgoing.unanswered:
            await self._events.send(NotSent(text))
        self.outgoing.forget_sent()

    async def _listen(self, socket: WebSocketConnection) -> CloseReason | None:
        """Tell what the group says, until the socket is closed."""
        try:
            while True:
                await self._take(await self._receive(socket))
        except ConnectionClosed as exc:
            return exc.reason
        except TokenLost:
            return CloseReason(1008, "login required")

    async def _take(self, frame: bytes) -> None:
        """A message, or an answer to this client; other frames are those of later versions."""
        with suppress(CorruptEntry):
            await self._hear(decode_message(frame))
            return
        with suppress(msgspec.MsgspecError):
            answer = msgspec.json.decode(frame, type=_Declined)
            await self._events.send(Declined(answer.data, answer.msg))
            self.outgoing.decline(answer.data)

    async def _hear(self, message: Message) -> None:
        await self._events.send(Heard(message))
        self._newest = max(self._newest or 0, message.ts)
        if message.userId == self._account.user:
            self.outgoing.hear(message.info)

    async def _speak(self, socket: WebSocketConnection) -> None:
        """Send what waits."""
        while True:
            text = await self.outgoing.wait_next()
            if socket.closed:
                return  # it waits for the next connection
            self.outgoing.take_next()
            try:
                await socket.send_message(text)
            except ConnectionClosed:
                return  # its fate is found out on the next connection

    async def _close_when_left(self, socket: WebSocketConnection) -> None:
        # Not by cancelling: the one who reads the server's answer must live on.
        await self._left.wait()
        with trio.move_on_after(CLOSE_SECONDS):
            await socket.aclose()


async def _watch(socket: WebSocketConnection, connection: trio.CancelScope) -> None:
    """End a connection at whose other end nobody is."""
    while True:
        await trio.sleep(PING_SECONDS)
        with trio.move_on_after(PONG_SECONDS) as patience:
            try:
                await socket.ping()
            except ConnectionClosed:
                return
        if patience.cancelled_caught:
            connection.cancel()
            return


def _judge(closed: CloseReason | None) -> _Loss:
    """What a close means.

    Raises:
        TokenLost: another login may help.
        TurnedOut: nothing helps.
    """
    code, reason = (closed.code, closed.reason or "") if closed else (1006, "")
    if code == 1008:
        raise TokenLost(reason) if reason == "login required" else TurnedOut(reason)
    if code == 1001 and reason.startswith(_RESTART) and reason[len(_RESTART) :].isdecimal():
        return _Loss("the server restarts", int(reason[len(_RESTART) :]) / 1000)
    if code == 1006:
        return _Loss("the network or the server went away")
    return _Loss(f"{reason or 'closed'} ({code})")
