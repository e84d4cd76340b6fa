"""What the server says on the live wire, as far as the terminal client reads it.

The names are those of docs/LIVE.md. What is absent has a default, so that a reply is one struct.
"""

from __future__ import annotations

from msgspec import Raw, Struct


class Error(Struct, frozen=True):
    """Why a command is refused; one that is ``temporary`` may succeed later."""

    code: int
    message: str = ""
    temporary: bool = False


class Info(Struct, frozen=True):
    """A user."""

    user: str = ""


class Publication(Struct, frozen=True):
    """A message; without an offset something that is told, named by ``tags.event``."""

    data: Raw = Raw(b"{}")
    offset: int = 0
    tags: dict[str, str] = {}


class Coming(Struct, frozen=True):
    """Somebody has come or gone."""

    info: Info = Info()


class Unsubscribed(Struct, frozen=True):
    """The group has been closed to this connection."""

    code: int
    reason: str = ""


class Push(Struct, frozen=True):
    """What comes unasked."""

    pub: Publication | None = None
    join: Coming | None = None
    leave: Coming | None = None
    unsubscribe: Unsubscribed | None = None


class Connected(Struct, frozen=True):
    """``ping`` is in seconds, 0 for none."""

    ping: int = 0


class Subscribed(Struct, frozen=True):
    """Where the group stands, and what was missed."""

    epoch: str = ""
    offset: int = 0
    publications: list[Publication] = []


class Present(Struct, frozen=True):
    """Who is here, by connection."""

    presence: dict[str, Info] = {}


class Counted(Struct, frozen=True):
    """How many are."""

    num_users: int = 0


class Result(Struct, frozen=True):
    """What a method returns."""

    data: Raw = Raw(b"{}")


class Reply(Struct, frozen=True):
    """The answer to a command, or a push; one with neither is a ping."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: Connected = Connected()
    subscribe: Subscribed = Subscribed()
    presence: Present = Present()
    presence_stats: Counted = Counted()
    rpc: Result = Result()


class Gone(Struct, frozen=True):
    """The data of a recall or a purge."""

    ts: int
    since: int = 0
    user: str = ""


class ListedGroup(Struct, frozen=True):
    """One of the user's groups."""

    channel: str
    unread: int


class ListedGroups(Struct, frozen=True):
    """All of them."""

    groups: list[ListedGroup]


class Report(Struct, frozen=True):
    """That ``by`` has reported the message of ``user`` at ``ts``."""

    ts: int
    user: str
    by: str
    reason: str = ""


class Reports(Struct, frozen=True):
    """All of a group."""

    reports: list[Report]
