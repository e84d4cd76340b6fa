"""What clients and the daemon say to each other on the live wire, whatever the encoding.

The names and meanings are those of Centrifugo's client protocol, version 2. Only what is served is
here; other fields are ignored, as both encodings ask. ``data`` is JSON text that is passed on as it
came.
"""

from __future__ import annotations

from msgspec import Raw, Struct


class Connect(Struct):
    """The first command: who one is, and with which client."""

    token: str = ""
    data: Raw = Raw(b"null")
    name: str = ""
    version: str = ""


class Subscribe(Struct):
    """Hear a group; with ``recover``, also what was said there since ``offset`` of ``epoch``."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0


class Channel(Struct):
    """A command about a group: unsubscribe, presence, presence_stats."""

    channel: str = ""


class Publish(Struct):
    """Say something in a group."""

    channel: str = ""
    data: Raw = Raw(b"null")


class Command(Struct):
    """One command: the first request that it has counts. One that is empty is a pong."""

    id: int = 0
    connect: Connect | None = None
    subscribe: Subscribe | None = None
    unsubscribe: Channel | None = None
    publish: Publish | None = None

    @property
    def is_pong(self) -> bool:
        """The client answers a ping."""
        return self == _PONG


_PONG = Command()


class Error(Struct, omit_defaults=True):
    """Why a command is refused."""

    code: int
    message: str
    temporary: bool = False


class ClientInfo(Struct, omit_defaults=True):
    """Who published, or is here."""

    user: str
    client: str = ""


class Publication(Struct, omit_defaults=True):
    """A message: ``offset`` and ``time`` are its ``ts``."""

    data: Raw
    info: ClientInfo | None = None
    offset: int = 0
    time: int = 0


class Push(Struct, omit_defaults=True):
    """What comes unasked."""

    channel: str = ""
    pub: Publication | None = None


class Connected(Struct, omit_defaults=True):
    """``ping`` is in seconds; with ``pong`` the client has to answer."""

    client: str
    version: str
    ping: int = 0
    pong: bool = False


class Subscribed(Struct, omit_defaults=True):
    """Where the group stands, and what was missed."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    publications: list[Publication] = []
    recovered: bool = False
    was_recovering: bool = False


class Nothing(Struct):
    """A result that says only that it was done."""


class Reply(Struct, omit_defaults=True):
    """The answer to a command, or a push."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: Connected | None = None
    subscribe: Subscribed | None = None
    unsubscribe: Nothing | None = None
    publish: Nothing | None = None
