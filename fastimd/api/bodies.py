"""What calls carry, and what is answered: a struct each, in the names of Centrifugo's server API.

``msgspec`` checks them, so that an error names the field that is wrong. Fields that nobody reads
here are ignored, as that API does.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Raw, Struct, field

from ..base.codec import MAX_TS, check_id
from ..base.errors import BadParameter
from ..base.recent import Trouble
from ..groups.moderation.bodies import OfGroup
from ..http.forms import Counters, RedisState
from ..live.protocol import ClientInfo, Publication
from .errors import Error

MOST_CHANNELS = 10_000
"""Groups of one broadcast."""
MOST_COMMANDS = 10_000
"""Commands of one batch."""

Tags: TypeAlias = dict[str, str]


def _check(name: str, value: str) -> None:
    if value:
        try:
            check_id(name, value)
        except BadParameter as exc:
            raise ValueError(str(exc)) from None


class Nothing(Struct):
    """No fields."""


class _Said(Struct, kw_only=True):
    """What is said: ``data``, a JSON string, object or array, or the same as ``b64data``.

    ``user`` is in whose name, "" for the server's own. ``version`` cannot be kept.
    """

    data: Raw = field(default_factory=Raw)
    b64data: str = ""
    user: str = ""
    tags: Tags = {}
    idempotency_key: str = ""
    skip_history: bool = False
    version: int = 0

    def __post_init__(self) -> None:
        _check("user", self.user)


class Publish(_Said, kw_only=True):
    """Say something in a group; with the same ``idempotency_key`` it is said once."""

    channel: str


class Broadcast(_Said, kw_only=True):
    """Say the same in many groups; an ``idempotency_key`` counts in each of them."""

    channels: Annotated[list[str], Meta(min_length=1, max_length=MOST_CHANNELS)]


class Published(Struct):
    """The ``offset`` of a message is its ``ts``.

    It is 0 if the message is stored, but the answer that had the ``ts`` was lost.
    """

    offset: int


class PublishReply(Struct, omit_defaults=True):
    """What became of one message of a broadcast."""

    error: Error | None = None
    result: Published | None = None


class BroadcastResult(Struct):
    """What became of each, in the order of the channels."""

    responses: list[PublishReply]


class Unsubscribe(OfGroup, kw_only=True):
    """End the sockets of a user in a group, or the one named ``client``."""

    user: str
    client: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_user(self.user)


class Close(Struct):
    """The close code and reason."""

    code: Annotated[int, Meta(ge=3000, le=4999)]
    reason: Annotated[str, Meta(max_length=32)] = ""


class Disconnect(Struct, kw_only=True):
    """End all sockets of a user but those in ``whitelist``, or the one named ``client``."""

    user: str
    client: str = ""
    whitelist: Annotated[list[str], Meta(max_length=1000)] = []
    disconnect: Close | None = None

    def __post_init__(self) -> None:
        check_user(self.user)


class OfOneUser(Struct, kw_only=True):
    """A user."""

    user: str

    def __post_init__(self) -> None:
        check_user(self.user)


class Groups(OfOneUser, kw_only=True):
    """A user whose groups are asked for, at most ``limit``."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class Position(Struct):
    """A place in a group's history."""

    offset: Annotated[int, Meta(ge=0, le=MAX_TS)] = 0
    epoch: str = ""


class History(OfGroup, kw_only=True):
    """Read messages: from the oldest on, or after ``since``; with ``reverse`` back from the newest.

    With the ``limit`` 0 only the position is answered, with one below it as much as a page holds.
    """

    limit: int = 0
    since: Position | None = None
    reverse: bool = False


class HistoryResult(Struct):
    """Messages, and where the group stands."""

    publications: list[Publication]
    epoch: str
    offset: int


class PresenceResult(Struct):
    """Who is in a group, by the ids of connections."""

    presence: dict[str, ClientInfo]


class PresenceStatsResult(Struct):
    """How many are."""

    num_clients: int
    num_users: int


class Channels(Struct):
    """Groups with somebody in them, those that the glob ``pattern`` fits."""

    pattern: Annotated[str, Meta(max_length=256)] = ""


class ChannelInfo(Struct):
    """Connections in a group, and messages heard there, over all daemons since each began."""

    num_clients: int
    num_messages: int = 0


class ChannelsResult(Struct, omit_defaults=True):
    """The groups; ``missing`` daemons did not answer in time."""

    channels: dict[str, ChannelInfo]
    missing: int = 0


class Process(Struct):
    """Seconds of CPU time, and bytes of memory."""

    cpu: float
    rss: int


class Node(Struct):
    """A daemon; ``uptime`` is in seconds."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int
    process: Process


class InfoResult(Struct, omit_defaults=True):
    """The daemons; ``missing`` ones did not answer in time."""

    nodes: list[Node]
    missing: int = 0


class Rights(Struct):
    """Who calls: the methods that it may call, and globs of the groups in which it may."""

    name: str
    methods: list[str]
    groups: list[str]


class Sentenced(Struct):
    """A ban or a mute of a user, by a moderator, or by "" for the server or an operator.

    ``until`` is in milliseconds since the epoch, 0 until it is lifted.
    """

    user: str
    until: int
    reason: str
    by: str


class PolicyResult(Struct):
    """What moderators have decided in a group.

    ``slow_mode`` is in seconds, 0 for off; when ``mute_all`` is on only ``moderators`` may write.
    """

    bans: list[Sentenced]
    mutes: list[Sentenced]
    moderators: list[str]
    slow_mode: int
    mute_all: bool


class Search(OfGroup, kw_only=True):
    """Look for messages of ``user`` in which ``text`` stands, in letters of either case.

    Either may be left out. ``before`` is the ``ts`` before which is looked, 0 for the newest.
    """

    user: str = ""
    text: Annotated[str, Meta(max_length=256)] = ""
    before: Annotated[int, Meta(ge=0, le=MAX_TS)] = 0
    limit: Annotated[int, Meta(ge=1, le=100)] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("user", self.user)


class SearchResult(Struct):
    """What was found, newest first; ``before`` is where to go on, 0 when all was looked through."""

    publications: list[Publication]
    before: int


class DaemonStatus(Struct):
    """How a daemon is, and what it has counted since it began.

    ``sockets`` are by kind, ``outbox_bytes`` wait for slow readers, ``reasons`` say why it is not
    ``ready``; ``troubles`` are its last warnings and errors, oldest first.
    """

    uid: str
    name: str
    version: str
    pid: int
    uptime: int
    ready: bool
    reasons: list[str]
    sockets: dict[str, int]
    groups: int
    outbox_bytes: int
    bytes_received: int
    bytes_sent: int
    redis: RedisState
    counters: Counters
    troubles: list[Trouble]


class StatusResult(Struct, omit_defaults=True):
    """The daemons; ``missing`` ones did not answer in time."""

    daemons: list[DaemonStatus]
    missing: int = 0


class OfDaemon(Struct):
    """A daemon, by its ``uid``."""

    daemon: Annotated[str, Meta(min_length=1, max_length=128)]


class Batch(Struct):
    """Calls that are done one after the other, or with ``parallel`` side by side.

    Each command is an object with one field: the method, and what the call carries.
    """

    commands: Annotated[list[dict[str, Raw]], Meta(max_length=MOST_COMMANDS)]
    parallel: bool = False


def check_user(user: str) -> None:
    """Refuse what is no user's id, with a ``ValueError``."""
    if not user:
        raise ValueError("user: must not be empty")
    _check("user", user)
