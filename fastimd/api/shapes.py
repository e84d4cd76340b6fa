"""The shapes of results in which the daemon hands on JSON as it is, for the description."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class ClientInfo(Struct):
    """Who published, or is here."""

    user: str
    client: str = ""
    conn_info: Any = None


class Publication(Struct):
    """A message. ``offset`` and ``time`` are its ``ts``; a server's own message has no ``info``."""

    data: Any
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] = {}
    time: int = 0


class HistoryResult(Struct):
    """Messages, and where the group stands."""

    publications: list[Publication]
    epoch: str
    offset: int


class SearchResult(Struct):
    """What was found, newest first; ``before`` is where to go on, 0 when all was looked through."""

    publications: list[Publication]
    before: int


class PresenceResult(Struct):
    """Who is in a group, by the ids of connections."""

    presence: dict[str, ClientInfo]


class ListedGroup(Struct):
    """A group of a user: its last message, how many it has, and how many are unread."""

    channel: str
    total: int
    unread: int
    read: int = 0
    last: Publication | None = None


class ListedGroups(Struct):
    """All of them."""

    groups: list[ListedGroup]
