"""Logs in, and hands the chat to a person's terminal or to a script."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..base.address import Address
from .account import Account, open_account
from .painter import Painter
from .person import Chat
from .script import Script


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the chat is to be.

    Args:
        is_person: whether somebody sits at a terminal; else it is a script.
        has_colours: whether the person's names have colours.
        history: how many messages to begin with; None for those of the greeting.
        follows: whether a script goes on after the end of its input.
    """

    is_person: bool
    has_colours: bool
    history: int | None
    follows: bool


async def chat(address: Address, user: str, password: str, group: str, wishes: Wishes) -> int:
    """Chat to the end; returns the exit status.

    Raises:
        ChatError: why there is no chat, or none any more.
    """
    async with open_account(address, user, password) as account:
        if wishes.is_person:
            return await _chat_with_person(account, group, wishes)
        script = Script(account, group, history=wishes.history, follows=wishes.follows)
        return await script.run()


async def _chat_with_person(account: Account, group: str, wishes: Wishes) -> int:
    encoding = sys.stdout.encoding
    painter = Painter(account.user, has_colours=wishes.has_colours, encoding=encoding)
    return await Chat(account, painter, encoding, wishes.history).run(group)
