"""What happens in a conversation, as it is told to whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..base.codec import Message


@dataclass(frozen=True, slots=True)
class Joined:
    """The group is open: its last messages, oldest first, and how many it has."""

    messages: list[Message]
    total: int


@dataclass(frozen=True, slots=True)
class Heard:
    """Somebody said something, now or while the connection was lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is lost; it is tried again until it stands."""

    reason: str


@dataclass(frozen=True, slots=True)
class Back:
    """The connection stands again; so many messages were missed and follow."""

    missed: int


@dataclass(frozen=True, slots=True)
class NotSent:
    """A text that went out on a connection that broke, and is not in the group."""

    text: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A text that the server did not take, and why."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Came:
    """Another user is here now."""

    user: str


@dataclass(frozen=True, slots=True)
class Went:
    """Another user is gone."""

    user: str


@dataclass(frozen=True, slots=True)
class Types:
    """Another user is typing."""

    user: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The messages from one ts to another are gone, of one user or, with "", of all."""

    first: int
    last: int
    user: str = ""


@dataclass(frozen=True, slots=True)
class Acted:
    """A moderator's act that concerns the user or the group; ``until`` is in milliseconds."""

    act: str
    until: int = 0
    reason: str = ""
    seconds: int = 0


Event: TypeAlias = Joined | Heard | Lost | Back | NotSent | Declined
RoomEvent: TypeAlias = Came | Went | Types | Removed | Acted
