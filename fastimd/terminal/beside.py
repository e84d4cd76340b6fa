"""What a person is told of a group beside its messages: who comes, who types, what is gone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Set
from contextlib import suppress

import trio

from ..base.codec import Message
from .account import Account
from .commands import Command
from .events import Acted, Came, Removed, RoomEvent, Types, Went
from .failures import ChatError
from .moderating import read_act, told
from .painter import SERVER, day_and_time
from .room import NOT_AVAILABLE, NotServed, Room
from .screen import Screen, shortened

TYPES_SECONDS = 6.0
"""For how long somebody types who is told to."""
TYPING_SECONDS = 1.0
"""How often it is looked whether the person types."""
MOST_REMEMBERED = 1000
"""Messages whose removal can be told with their text."""


class Beside:
    """All that of the group on the screen.

    Args:
        forget: gets the ``ts`` of messages that are gone.
    """

    def __init__(
        self, account: Account, screen: Screen, forget: Callable[[Set[int]], None]
    ) -> None:
        self._screen = screen
        self._forget = forget
        self._room = Room(account, screen.group, self._show)
        self._heard: OrderedDict[int, Message] = OrderedDict()
        self._recalling: set[int] = set()
        self._types_until = 0.0

    async def run(self) -> None:
        """Tell it until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._room.run)
                nursery.start_soon(self._watch_typing)
        finally:
            self._screen.show_typist("")

    def hear(self, messages: Iterable[Message]) -> None:
        """These were shown, as the newest: they are read, and their removal can be told."""
        for message in messages:
            self._heard[message.ts] = message
            if len(self._heard) > MOST_REMEMBERED:
                self._heard.popitem(last=False)
            if message.userId == self._screen.typist:
                self._screen.show_typist("")
            self._room.read(message.ts)

    def recalling(self, message: Message) -> None:
        """The person takes this one back, which may be told before it is answered."""
        self._recalling.add(message.ts)

    async def show_who(self) -> None:
        """Show who is here.

        Raises:
            ChatError: the server does not tell it.
        """
        try:
            count, users = await self._room.who()
        except NotServed as exc:
            if exc.code != NOT_AVAILABLE:
                raise
            await self._screen.say("this server does not tell who is here")
            return
        names = f": {', '.join(users)}" if users else ""
        await self._screen.say(f"{count} here{names}")

    async def act(self, command: Command) -> None:
        """Do what a moderator has typed, or report something.

        Raises:
            Unknown: it makes no sense.
            ChatError: it is refused.
        """
        method, data = read_act(command, self._heard.values())
        await self._room.act(method, data)
        await self._screen.say(f"done: {command.name} {command.argument}")

    async def show_reports(self) -> None:
        """Show what was reported, with the text if it is on the screen. Errors as with ``act``."""
        reports = await self._room.reports()
        for each in reports:
            heard = self._heard.get(each.ts)
            said = f" ({shortened(heard.info)})" if heard else ""
            when = " ".join(day_and_time(each.ts))
            await self._screen.say(f"{when} {each.user}{said}: {each.by} says {each.reason}")
        if not reports:
            await self._screen.say("no reports")

    async def unread(self) -> dict[str, int]:
        """What is unread in each of the user's groups, if the server tells it."""
        with suppress(ChatError):
            return await self._room.unread()
        return {}

    async def _show(self, event: RoomEvent) -> None:
        match event:
            case Came(user):
                await self._screen.say(f"-- {user} is here --")
            case Went(user):
                await self._screen.say(f"-- {user} is gone --")
            case Types(user):
                self._types_until = trio.current_time() + TYPES_SECONDS
                self._screen.show_typist(user)
            case Removed(first, last, user):
                await self._show_removed(first, last, user)
            case Acted():
                if words := told(event):
                    await self._screen.say(f"-- {words} --")

    async def _show_removed(self, first: int, last: int, user: str) -> None:
        gone = [
            each
            for ts, each in self._heard.items()
            if first <= ts <= last and user in ("", each.userId)
        ]
        for each in gone:
            del self._heard[each.ts]
        self._forget({each.ts for each in gone})
        if first != last:
            whose = f"the messages of {user}" if user else "all messages so far"
            await self._screen.say(f"-- {whose} were deleted --")
        elif first not in self._recalling:
            for each in gone:
                said = shortened(f"{each.userId or SERVER}: {each.info}")
                await self._screen.say(f"-- taken back: {said} --")

    async def _watch_typing(self) -> None:
        """Tell the others that the person types, and end what is shown of them."""
        before = ""
        while True:
            await trio.sleep(TYPING_SECONDS)
            text = self._screen.prompt.text
            if text not in ("", before) and not text.startswith("/"):
                await self._room.typing()
            before = text
            if trio.current_time() > self._types_until:
                self._screen.show_typist("")
