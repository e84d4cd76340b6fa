"""What the acts of moderators say: one struct each, the same for every way in.

``msgspec`` checks them, so that an error names the field that is wrong, as in ``Expected `int` >= 0
- at `$.seconds```.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from ...base.codec import MAX_TS, check_id
from ...base.errors import BadParameter

MAX_SECONDS = 10 * 366 * 86_400
"""Ten years: more is meant as no end, or is of another unit."""
MAX_REASON = 256  # characters
MOST_USERS = 100
"""How many moderators one body may name."""

Seconds: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_SECONDS)]
Reason: TypeAlias = Annotated[str, Meta(max_length=MAX_REASON)]
Ts: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_TS)]
UserList: TypeAlias = Annotated[list[str], Meta(max_length=MOST_USERS)]


def _check(name: str, value: str) -> None:
    try:
        check_id(name, value)
    except BadParameter as exc:
        raise ValueError(str(exc)) from None


class OfGroup(Struct, kw_only=True):
    """A group: a body that names no more is ``OfGroup`` itself."""

    channel: str

    def __post_init__(self) -> None:
        _check("channel", self.channel)


class OfUser(OfGroup, kw_only=True):
    """A user in a group: to be unbanned, unmuted, or rid of all messages."""

    user: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("user", self.user)


class Restraint(OfUser, kw_only=True):
    """A ban or a mute, for so many seconds; 0 until it is lifted."""

    seconds: Seconds
    reason: Reason = ""


class SlowMode(OfGroup, kw_only=True):
    """So many seconds between two messages of a user; 0 for off."""

    seconds: Seconds


class MuteAll(OfGroup, kw_only=True):
    """Only moderators may write, or everybody again."""

    on: bool


class Moderators(OfGroup, kw_only=True):
    """Users who become moderators, and such who are no longer; with neither, who they are."""

    add: UserList = []
    remove: UserList = []

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, users in (("add", self.add), ("remove", self.remove)):
            for user in users:
                _check(name, user)
        if both := set(self.add) & set(self.remove):
            raise ValueError(f"add: has {sorted(both)[0]}, and remove has it too")


class OfMessage(OfGroup, kw_only=True):
    """A message, by its ``ts``."""

    ts: Ts


class Complaint(OfMessage, kw_only=True):
    """A message that is reported, and why."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)]


class Report(Struct):
    """That ``by`` has reported the message of ``user`` at ``ts``.

    ``at`` is when, in milliseconds since the epoch.
    """

    ts: int
    user: str
    by: str
    at: int
    reason: str = ""


class Done(Struct):
    """The answer of what answers nothing more."""


class Users(Struct):
    """The moderators of a group."""

    users: list[str]


class Deleted(Struct):
    """How many messages were deleted."""

    deleted: int


class Reports(Struct):
    """What members have reported."""

    reports: list[Report]
