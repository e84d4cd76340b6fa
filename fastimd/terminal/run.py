"""Logs in, and hands the chat to a person's terminal or to a script."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..base.address import Address
from .account import open_account
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
    if wishes.is_person:
        return await _chat_with_person(address, user, password, group, wishes)
    async with open_account(address, user, password) as account:
        script = Script(account, group, history=wishes.history, follows=wishes.follows)
        return await script.run()


async def _chat_with_person(
    address: Address, user: str, password: str, group: str, wishes: Wishes
) -> int:
    from .painter import Painter  # here, because a script draws nothing
    from .person import Chat

    encoding = sys.stdout.encoding
    async with open_account(address, user, password) as account:
        painter = Painter(account.user, has_colours=wishes.has_colours, encoding=encoding)
        return await Chat(account, painter, encoding, wishes.history).run(group)
