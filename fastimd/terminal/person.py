"""The chat of a person at a terminal.

The conversation brings what is shown above the line that is typed, and what was entered is done one
after the other, so that nobody waits for the server while typing.
"""

from __future__ import annotations

import signal
from collections.abc import Set

import msgspec
import trio
from trio_websocket import ConnectionClosed

from ..base.codec import CorruptEntry, Message, check_id, decode_message
from ..base.errors import BadParameter
from ..base.signals import EXIT_SIGNAL
from .account import Account
from .beside import Beside
from .commands import ACTS, HELP, Command, Unknown, complete, parse, read_number
from .conversation import END_SECONDS, Conversation
from .events import Back, Declined, Event, Heard, Joined, Lost, NotSent
from .failures import ChatError
from .painter import SERVER, Painter, day_and_time
from .prompt import TerminalGone
from .screen import Screen, shortened

OLDER = 20
MOST_OLDER = 10_000
MOST_OWN = 1000
SETTLE_SECONDS = 3.0
"""How long is waited for what was said to come back, before it is left."""
LIST_SECONDS = 10.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WINDOW = (signal.SIGCONT, signal.SIGWINCH)


class Chat:
    """A person's chat, group after group.

    Args:
        history: how many messages to show at first; None for those of the greeting.
    """

    def __init__(
        self, account: Account, painter: Painter, encoding: str, history: int | None
    ) -> None:
        self._account = account
        self._screen = Screen(painter, encoding, lambda line: complete(line, self._groups))
        self._history = history
        self._groups: list[str] = []
        self._next_group: str | None = None
        self._conversation: Conversation | None = None
        self._oldest: Message | None = None
        self._own: list[Message] = []
        self._beside = Beside(account, self._screen, self._forget)
        self._status = 0
        self._is_ending = False
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, group: str) -> int:
        """Chat until the person ends it; returns the exit status.

        Raises:
            ChatError: why it ended by itself.
        """
        await self._account.join(group)
        self._screen.group = self._next_group = group
        failure: ChatError | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(self._obey_signals, nursery.cancel_scope)
            await nursery.start(self._read_prompt)
            nursery.start_soon(self._do_lines)
            failure = await self._talk()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self._status

    async def _talk(self) -> ChatError | None:
        """Be in one group after the other; returns why the last one ended by itself."""
        while self._next_group is not None:
            self._screen.group, self._next_group = self._next_group, None
            self._oldest = None
            self._own.clear()
            events_send, events = trio.open_memory_channel[Event](0)
            conversation = Conversation(
                self._account, self._screen.group, events_send, self._history
            )
            self._conversation = conversation
            self._changed.unpark_all()
            self._beside = Beside(self._account, self._screen, self._forget)
            async with trio.open_nursery() as beside:
                beside.start_soon(self._beside.run)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(conversation.run)
                    async for event in events:
                        await self._show(event)
                beside.cancel_scope.cancel()
            left = conversation.outgoing.give_up()
            await self._screen.say(*(f"perhaps not sent: {shortened(text)}" for text in left))
            if conversation.ended is not None:
                return conversation.ended
        return None

    # What the group says

    async def _show(self, event: Event) -> None:
        match event:
            case Joined(messages, total):
                self._own += self._written_by_user(messages)
                self._beside.hear(messages)
                self._oldest = messages[0] if messages else None
                note = f"-- {self._account.user} in group {self._screen.group}, {total} messages"
                await self._screen.show(messages, f"{note}; /help shows the commands --")
            case Heard(message):
                self._own += self._written_by_user([message])
                self._oldest = self._oldest or message
                self._beside.hear([message])
                await self._screen.show([message])
            case Lost(reason):
                await self._screen.say(f"-- connection lost: {reason}; trying again --")
            case Back(missed):
                await self._screen.say(f"-- connected again, {missed} messages missed --")
            case NotSent(text):
                await self._screen.say(f"not sent: {shortened(text)}")
            case Declined(text, reason):
                await self._screen.say(f"not sent: {shortened(text)} ({reason})")

    def _forget(self, gone: Set[int]) -> None:
        """Messages with these ts are not there any more."""
        self._own = [each for each in self._own if each.ts not in gone]

    def _written_by_user(self, messages: list[Message]) -> list[Message]:
        return [each for each in messages if each.userId == self._account.user]

    # What the person types

    async def _read_prompt(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._screen.prompt.run(task_status=task_status)
        except TerminalGone:
            await self._end(EXIT_SIGNAL + signal.SIGHUP)

    async def _do_lines(self) -> None:
        async for line in self._screen.prompt.lines:
            try:
                await self._do(line)
            except (Unknown, ChatError, BadParameter) as exc:
                await self._screen.say(str(exc))

    async def _do(self, line: str) -> None:
        entered = parse(line)
        assert self._conversation is not None
        if isinstance(entered, Command):
            await self._obey(entered, self._conversation)
        elif entered is not None:
            self._conversation.say(entered.text)
            if not self._conversation.is_connected:
                await self._screen.say("-- it is sent when the connection stands --")

    async def _obey(self, command: Command, conversation: Conversation) -> None:
        match command.name:
            case "/history":
                await self._show_older(read_number(command, OLDER, MOST_OLDER), conversation)
            case "/groups":
                await self._show_groups()
            case "/who":
                await self._beside.show_who()
            case "/join":
                await self._change(check_id("GROUP", command.argument), conversation)
            case "/recall":
                await self._recall(read_number(command, 1, MOST_OWN), conversation)
            case "/reports":
                await self._beside.show_reports()
            case name if name in ACTS:
                await self._beside.act(command)
            case "/help":
                await self._screen.say(*HELP)
            case "/quit":
                await self._end(0)

    async def _show_older(self, count: int, conversation: Conversation) -> None:
        older = await conversation.older(self._oldest, count)
        if not older:
            await self._screen.say("no older messages")
            return
        self._own[:0] = self._written_by_user(older)
        self._oldest = older[0]
        await self._screen.show_older(older)

    async def _recall(self, number: int, conversation: Conversation) -> None:
        if not await conversation.outgoing.wait_settled(SETTLE_SECONDS):
            raise Unknown("your last message has not come back yet")  # not the one before it
        if number > len(self._own):
            raise Unknown(f"you have no {number} messages here" if self._own else "no own message")
        message = self._own[-number]
        self._beside.recalling(message)
        await self._account.recall(message)
        self._forget({message.ts})
        await self._screen.say(f"recalled: {shortened(message.info)}")

    async def _change(self, group: str, conversation: Conversation) -> None:
        await self._account.join(group)
        await self._settle()
        if not self._is_ending:
            self._next_group = group
            conversation.leave()
            await self._changed.park()  # what is entered next is for that group

    async def _show_groups(self) -> None:
        self._groups = await self._account.groups()
        lines = await self._read_list(await self._beside.unread())
        silent = [group for group in self._groups if group not in lines]
        await self._screen.say(*lines.values(), *(f"{group}: no messages" for group in silent))

    async def _read_list(self, unread: dict[str, int]) -> dict[str, str]:
        """A line for each group with messages, most recently active first."""
        with trio.move_on_after(LIST_SECONDS):
            try:
                async with self._account.open_socket(self._account.list_path) as socket:
                    states = msgspec.json.decode(await socket.get_message(), type=list[_State])
                    told = [each for each in states if bytes(each.newest) != b"null"]
                    return dict(_describe(each, unread) for each in told)
            except (ConnectionClosed, msgspec.MsgspecError, CorruptEntry) as exc:
                raise self._account.no_fastimd(f"its group list: {exc}") from exc
        return {}

    # The end

    async def _obey_signals(
        self, chat: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*_ENDING, *_WINDOW) as signals:
            task_status.started()
            async for number in signals:
                if number in _WINDOW:
                    self._screen.prompt.redraw()
                else:
                    chat.deadline = min(chat.deadline, trio.current_time() + END_SECONDS)
                    await self._end(EXIT_SIGNAL + number)

    async def _end(self, status: int) -> None:
        self._status = status
        self._is_ending = True
        await self._settle()
        self._next_group = None
        if self._conversation is not None:
            self._conversation.leave()  # perhaps that of another group by now

    async def _settle(self) -> None:
        """Wait until what was said has come back, or will not soon."""
        if self._conversation is not None and self._conversation.is_connected:
            await self._conversation.outgoing.wait_settled(SETTLE_SECONDS)


class _State(msgspec.Struct):
    newest: msgspec.Raw = msgspec.field(name="newMessage")
    total: int


def _describe(state: _State, unread: dict[str, int]) -> tuple[str, str]:
    newest = decode_message(bytes(state.newest))
    said = shortened(f"{newest.userId or SERVER}: {newest.info}")
    moment = " ".join(day_and_time(newest.ts))
    group = newest.groupId
    new = f"{unread[group]} unread, " if unread.get(group) else ""
    return group, f"{group}: {state.total} messages, {new}{moment} {said}"
