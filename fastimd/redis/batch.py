"""Appends under way, and the batches in which they leave.

Those of one scheduler turn are one call of the append script. Where the ``ts`` of one of them is to
be told, the script is asked for that of each; else its reply is the last one's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from .connection import Connection
from .wire import Argument

BATCH_MESSAGES = 128
BATCH_BYTES = 256 * 1024
"""What one batch may hold: Redis does nothing else meanwhile."""

OnAppended: TypeAlias = Callable[[Exception | None], None]
OnTold: TypeAlias = Callable[[Exception | None, int | None], None]


class Place(NamedTuple):
    """Where a group's messages go: the keys of its list, its ts floor and its life; its channel."""

    list_key: str
    floor_key: str
    life_key: str
    channel: bytes


class Nonce(NamedTuple):
    """What a client calls a message, however often it sends it, and the key that remembers it.

    ``most`` is how many the key remembers.
    """

    key: str
    text: bytes
    most: int


class Told:
    """The ``on_appended`` of an append whose ``ts`` is to be told.

    Args:
        on_told: called once with None and the ``ts`` when the message is in Redis, else with the
            reason and None. The ``ts`` is None when the message is in Redis, but Redis's reply was
            lost, and there is no nonce by which to find it.
    """

    __slots__ = ("_on_told", "nonce", "ts")

    def __init__(self, on_told: OnTold, nonce: Nonce | None = None) -> None:
        self._on_told = on_told
        self.nonce = nonce
        self.ts: int | None = None

    def __call__(self, failure: Exception | None) -> None:
        self._on_told(failure, self.ts if failure is None else None)


class Append:
    """One append. ``told`` is its ``on_appended`` if the ``ts`` is to be told, else None.

    Until it ``was_sent`` it can be taken back, ``within`` seconds.
    """

    __slots__ = (
        "on_appended",
        "place",
        "prefix",
        "sequence",
        "since",
        "size",
        "told",
        "was_sent",
        "within",
    )

    def __init__(
        self,
        sequence: int,
        place: Place,
        prefix: bytes,
        on_appended: OnAppended | Told,
        within: float,
        since: float,
    ) -> None:
        self.sequence = sequence
        self.place = place
        self.prefix = prefix
        self.size = len(prefix)
        self.since = since
        self.on_appended = on_appended
        self.told = on_appended if type(on_appended) is Told else None
        self.within = within
        self.was_sent = False

    def key_refused(self, refusal: Exception) -> str:
        """The key that the script could not use when it was called for this append alone."""
        if self.told is not None and self.told.nonce and str(refusal).startswith("NONCE "):
            return self.told.nonce.key
        return self.place.list_key


class Batch:
    """Appends that leave together; it takes more until it is sent or full.

    ``is_told`` says that the ts of one of them is to be told. All came ``since`` the first did: a
    clock for each would cost more.
    """

    __slots__ = ("_as_sent", "appends", "bytes_left", "connection", "is_told", "since")

    def __init__(self, connection: Connection, since: float) -> None:
        self.connection = connection
        self.since = since
        self.appends: list[Append] = []
        self.bytes_left = BATCH_BYTES
        self.is_told = False
        self._as_sent: list[Append] = []

    def ask_each_ts(
        self,
        places: Iterable[Place],
        keys: list[Argument],
        arguments: list[Argument],
        prefix: str,
    ) -> None:
        """Add to the script's keys and arguments what asks for the ``ts`` of each message.

        Args:
            places: the groups, in the order in which their messages are sent.
            prefix: stands before the key of a nonce.
        """
        rank = {place: number for number, place in enumerate(places)}
        self._as_sent = sorted(self.appends, key=lambda append: rank[append.place])
        nonces = 0
        for number, append in enumerate(self._as_sent, 1):
            if append.told is not None and append.told.nonce is not None:
                keys.append(prefix + append.told.nonce.key)
                arguments += (number, append.told.nonce.text, append.told.nonce.most)
                nonces += 1
        arguments.append(nonces)

    def take_each_ts(self, given: list[int]) -> None:
        """Note the ``ts`` of each message for those that are to be told."""
        for append, ts in zip(self._as_sent, given, strict=True):
            if append.told is not None:
                append.told.ts = ts
