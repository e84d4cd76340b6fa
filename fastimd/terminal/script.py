"""The chat of a script: lines in, lines of JSON out.

A line of standard input is a message, whatever it begins with. Standard output has an object a
line, in ASCII, so that a terminal may show it. After the end of the input all that was said must
come back; then it ends.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

from ..base.codec import Message
from ..base.signals import EXIT_SIGNAL
from .account import Account
from .conversation import END_SECONDS, Conversation
from .descriptors import read_some, write_all
from .events import Back, Declined, Event, Heard, Joined, Lost, NotSent
from .failures import EXIT_UNSENT, LocalTrouble

MOST_UNANSWERED = 64
"""Messages that may be on their way; the input is not read on meanwhile."""
ANSWER_SECONDS = 30.0
"""At the end of the input this is the time in which at least one more has to come back."""
MOST_LINE_BYTES = 1 << 20
SHOWN_BYTES = 100
"""What is told of a line that is too long."""
READ_BYTES = 1 << 16

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Script:
    """A script's chat in a group.

    Args:
        history: how many messages to tell at first; None for those of the greeting.
        follows: whether to go on after the end of the input.
    """

    def __init__(self, account: Account, group: str, *, history: int | None, follows: bool) -> None:
        self._account = account
        self._group = group
        self._follows = follows
        self._status = 0
        self._events_send, self._events = trio.open_memory_channel[Event](0)
        self._conversation = Conversation(account, group, self._events_send, history)
        self._lock = trio.Lock()

    async def run(self) -> int:
        """Chat until the input ends or the output is closed; returns the exit status.

        Raises:
            ChatError: why it ended by itself.
        """
        await self._account.join(self._group)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._obey_signals, nursery.cancel_scope)
            nursery.start_soon(self._conversation.run)
            if stat.S_ISFIFO(os.fstat(1).st_mode):
                nursery.start_soon(self._watch_reader)
            await self._tell_all(nursery)
            nursery.cancel_scope.cancel()
        if self._conversation.ended is not None:
            raise self._conversation.ended
        return self._status

    async def _tell_all(self, nursery: trio.Nursery) -> None:
        async for event in self._events:
            await self._tell(event)
            if isinstance(event, Joined):
                nursery.start_soon(self._read_input)
        for text in self._conversation.outgoing.give_up():
            await self._tell_unsent("no answer", text)

    async def _tell(self, event: Event) -> None:
        match event:
            case Joined(messages, total):
                for message in messages:
                    await self._tell_message(message)
                await self._write({"type": "joined", "groupId": self._group, "total": total})
            case Heard(message):
                await self._tell_message(message)
            case Lost(reason):
                await self._write({"type": "state", "state": "lost", "reason": reason})
            case Back(missed):
                await self._write({"type": "state", "state": "connected", "missed": missed})
            case NotSent(text):
                await self._tell_unsent("not sent", text)
            case Declined(text, reason):
                await self._tell_unsent("declined", text, reason=reason)

    async def _tell_message(self, message: Message) -> None:
        await self._write({"type": "message", **msgspec.to_builtins(message)})

    async def _tell_unsent(self, error: str, text: str, **more: str) -> None:
        self._status = self._status or EXIT_UNSENT
        await self._write({"type": "error", "error": error, "info": text, **more})

    async def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        async with self._lock:
            try:
                await trio.to_thread.run_sync(write_all, 1, data, abandon_on_cancel=True)
            except BrokenPipeError:
                self._conversation.leave()
            except OSError as exc:
                raise LocalTrouble(f"standard output: {exc.strerror}") from exc

    async def _watch_reader(self) -> None:
        """Wait until nobody reads any more, as after ``| head``: the group may be silent."""
        await trio.lowlevel.wait_readable(1)  # a pipe's writing end never is; it can be broken
        self._conversation.leave()

    async def _read_input(self) -> None:
        outgoing = self._conversation.outgoing
        async for line in _lines():
            await outgoing.wait_fewer(MOST_UNANSWERED)
            await self._say(line)
        if not self._follows:
            await outgoing.wait_settled(ANSWER_SECONDS)
            self._conversation.leave()

    async def _say(self, line: bytes) -> None:
        if len(line) > MOST_LINE_BYTES:
            await self._tell_unsent("too long", line[:SHOWN_BYTES].decode(errors="replace"))
            return
        try:
            if text := line.removesuffix(b"\r").decode():
                self._conversation.say(text)
        except UnicodeDecodeError:
            await self._tell_unsent("not UTF-8", line.decode(errors="backslashreplace"))

    async def _obey_signals(
        self, chat: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*_ENDING) as signals:
            task_status.started()
            async for number in signals:
                self._status = EXIT_SIGNAL + number
                chat.deadline = min(chat.deadline, trio.current_time() + END_SECONDS)
                self._conversation.leave()


async def _lines() -> AsyncIterator[bytes]:
    """The lines of standard input; of one that is too long, a byte more than it may have."""
    rest = b""
    while data := await trio.to_thread.run_sync(_read_some, abandon_on_cancel=True):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line[: MOST_LINE_BYTES + 1]
        rest = rest[: MOST_LINE_BYTES + 1]
    if rest:
        yield rest


def _read_some() -> bytes:
    try:
        return read_some(0, READ_BYTES)
    except OSError as exc:
        if exc.errno == errno.EIO:  # the terminal has gone
            return b""
        raise LocalTrouble(f"standard input: {exc.strerror}") from exc
