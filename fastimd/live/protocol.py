"""What clients and the daemon say to each other on the live wire, whatever the encoding.

The names and meanings are those of Centrifugo's client protocol, version 2. Only what is served is
here; other fields are ignored, as both encodings ask. ``data`` is JSON text. ``protocol.proto`` has
the same messages by the same names, with the numbers of their fields.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Raw, Struct

Id: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Offset: TypeAlias = Annotated[int, Meta(ge=0)]
Signed: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
MAX_OFFSET = 2**64 - 1
"""Protobuf has no other; it is more than ``Meta`` can say."""

ABSENT = Raw(b"")
"""Data that was not sent. In a reply it must be this very object: JSON leaves out no other."""


def _check_offset(offset: int) -> None:
    if offset > MAX_OFFSET:
        raise ValueError("an offset has 64 bits")


class Subscribe(Struct):
    """Hear a group; with ``recover``, also what was said there after ``offset`` of ``epoch``.

    A ``type`` other than 0 asks for a subscription of a kind that is not served.
    """

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    join_leave: bool = False
    type: Signed = 0

    def __post_init__(self) -> None:
        _check_offset(self.offset)


class Connect(Struct):
    """The first command: who one is, and with which client.

    ``subs`` says up to where the client knows the groups into which the daemon will put it.
    """

    token: str = ""
    data: Raw = ABSENT
    subs: dict[str, Subscribe] = {}
    name: str = ""
    version: str = ""


class Channel(Struct):
    """A command about a group: unsubscribe, presence, presence_stats."""

    channel: str = ""


class Publish(Struct):
    """Say something in a group. A ``type`` other than 0 asks for something that is not served."""

    channel: str = ""
    data: Raw = ABSENT
    type: Signed = 0


class StreamPosition(Struct):
    """Up to where somebody knows a group."""

    offset: Offset = 0
    epoch: str = ""

    def __post_init__(self) -> None:
        _check_offset(self.offset)


class History(Struct):
    """Read a group's messages: all, those after ``since``, or back from it."""

    channel: str = ""
    limit: Signed = 0
    since: StreamPosition | None = None
    reverse: bool = False


class Rpc(Struct):
    """Call one of the daemon's methods."""

    data: Raw = ABSENT
    method: str = ""


class Refresh(Struct):
    """Go on with a new token, which expires later."""

    token: str = ""


class SubRefresh(Struct):
    """The same for a subscription."""

    channel: str = ""
    token: str = ""
    type: Signed = 0


class Nothing(Struct):
    """A request or a result that says only that it is one."""


class Command(Struct):
    """One command: the first request that it has counts. One that has none and no id is a pong."""

    id: Id = 0
    connect: Connect | None = None
    subscribe: Subscribe | None = None
    unsubscribe: Channel | None = None
    publish: Publish | None = None
    presence: Channel | None = None
    presence_stats: Channel | None = None
    history: History | None = None
    ping: Nothing | None = None
    send: Nothing | None = None
    rpc: Rpc | None = None
    refresh: Refresh | None = None
    sub_refresh: SubRefresh | None = None

    @property
    def name(self) -> str:
        """The name of the request that counts, or "" when there is none."""
        for name in REQUESTS:
            if getattr(self, name) is not None:
                return name
        return ""


REQUESTS = tuple(name for name in Command.__struct_fields__ if name != "id")
PONG = Command()


class Error(Struct, omit_defaults=True):
    """Why a command is refused; when it is ``temporary``, it may succeed later."""

    code: int
    message: str
    temporary: bool = False


class ClientInfo(Struct, omit_defaults=True):
    """Who published, or is here."""

    user: str = ""
    client: str = ""
    conn_info: Raw = ABSENT


class Publication(Struct, omit_defaults=True):
    """A message: ``offset`` and ``time`` are its ``ts``. One that is not stored has no offset."""

    data: Raw
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] = {}
    time: int = 0


class Joined(Struct):
    """Somebody has come into a group, or left it."""

    info: ClientInfo


class Unsubscribed(Struct, omit_defaults=True):
    """The daemon has ended a subscription."""

    code: int
    reason: str = ""


class Push(Struct, omit_defaults=True):
    """What comes unasked."""

    channel: str = ""
    pub: Publication | None = None
    join: Joined | None = None
    leave: Joined | None = None
    unsubscribe: Unsubscribed | None = None


class Subscribed(Struct, omit_defaults=True):
    """Where the group stands, and what was missed; ``ttl`` is in seconds."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    was_recovering: bool = False


class Connected(Struct, omit_defaults=True):
    """``ping`` and ``ttl`` are in seconds; with ``pong`` the client has to answer pings."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    subs: dict[str, Subscribed] = {}
    ping: int = 0
    pong: bool = False


class Present(Struct):
    """Who is in a group, by connection."""

    presence: dict[str, ClientInfo]


class PresentStats(Struct):
    """How many are."""

    num_clients: int
    num_users: int


class Page(Struct):
    """Messages of a group, and where it stands."""

    publications: list[Publication]
    epoch: str
    offset: int


class RpcResult(Struct):
    """What a method returns."""

    data: Raw


class Refreshed(Struct, omit_defaults=True):
    """How long the new token lives; ``ttl`` is in seconds."""

    expires: bool = False
    ttl: int = 0


class SubRefreshed(Refreshed, omit_defaults=True):
    """The same of a subscription."""


class Reply(Struct, omit_defaults=True):
    """The answer to a command, or a push; one that is empty is a ping."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: Connected | None = None
    subscribe: Subscribed | None = None
    unsubscribe: Nothing | None = None
    publish: Nothing | None = None
    presence: Present | None = None
    presence_stats: PresentStats | None = None
    history: Page | None = None
    ping: Nothing | None = None
    rpc: RpcResult | None = None
    refresh: Refreshed | None = None
    sub_refresh: SubRefreshed | None = None
