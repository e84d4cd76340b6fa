"""The hooks: what an application may decide, in its own code.

Name an object in the setting ``hooks.handler``: a module, an instance, or a class, of which one is
made without arguments. It has any of the methods of ``Handler``, and is asked for those alone. Each
may be ``async def``, and runs on Trio, or ``def``, and runs in a thread.

Each has a deadline. One that raises anything but ``Refused``, is late, or returns what it may not,
has failed: that is logged and counted, and the settings say what happens then. docs/HOOKS.md has
it all, with examples and with the same hooks over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from ..base.errors import Refused as Refused

__all__ = ["Action", "Handler", "Message", "ModerationAct", "Refused", "ReportedMessage"]

Action: TypeAlias = Literal[
    "chat", "list", "connect", "say", "join", "leave", "groups", "history", "recall"
]
"""What a user wants to do.

``chat`` and ``list`` open a socket, ``connect`` opens one of the live wire, where ``chat`` is then
a subscription; ``say`` is a message (asked with ``group.login_auth`` on), the
others are the routes of HTTP: join a group, leave one, list one's groups, read messages, recall
one.
"""


MOST_TAGS = 16
TAGS_BYTES = 1024
"""How many tags a message may have, and how many bytes of UTF-8 they are together."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message before it is stored; ``info`` is its text, ``tags`` are its marks.

    ``dataclasses.replace(message, info=..., tags=...)`` makes one with others. There may be up to
    ``MOST_TAGS`` of up to ``TAGS_BYTES`` together, names and values; the name ``event`` is taken.
    """

    group_id: str
    user_id: str
    info: str
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ModerationAct:
    """What a moderator or an operator has done in a group.

    ``act`` is ``ban``, ``unban``, ``mute``, ``unmute``, ``slow_mode``, ``mute_all``,
    ``unmute_all``, ``moderator_added``, ``moderator_removed``, ``delete_message``,
    ``delete_messages_of`` or, of the reports of a message, ``dismiss``. ``moderator_id`` is "" for
    an operator, ``user_id`` whom it concerns, "" for all. ``seconds`` are those of a ban, a mute or
    slow mode, ``ts`` is that of the message, ``count`` how many were deleted.
    """

    group_id: str
    act: str
    moderator_id: str
    user_id: str = ""
    seconds: int = 0
    reason: str = ""
    ts: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class ReportedMessage:
    """That the message of ``user_id`` at ``ts`` was reported by ``reporter_id``."""

    group_id: str
    ts: int
    user_id: str
    reporter_id: str
    reason: str


class Handler(Protocol):
    """Every hook there is. An application's object has those that it wants, and inherits nothing.

    Raises:
        Refused: from ``login``, ``authorize`` and ``on_message``: no, and why.
    """

    def login(self, user_id: str, password: str) -> Any:
        """Who logs in: what the answer's ``data`` shows, anything JSON can say; None refuses."""

    def authorize(self, user_id: str, token: str, action: Action, group_id: str) -> bool:
        """Whether the token is good, asked instead of Redis; ``group_id`` is "" where none is.

        False says that the user is not logged in; ``Refused`` that this user may not do this.
        """

    def on_message(self, message: Message) -> Message | None:
        """What is stored: the message, or one with other ``info`` or ``tags``; None refuses it."""

    def on_join(self, group_id: str, user_id: str, connection_id: str) -> None:
        """A chat socket has opened. The id is unique, whatever daemon it is on."""

    def on_leave(self, group_id: str, user_id: str, connection_id: str) -> None:
        """That socket has closed; told after its ``on_join``."""

    def on_moderation(self, act: ModerationAct) -> None:
        """A moderator or an operator has done something."""

    def on_report(self, report: ReportedMessage) -> None:
        """A member has reported a message."""
