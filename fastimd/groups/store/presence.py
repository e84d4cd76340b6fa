"""Who is in a group, over all daemons: a key per group and daemon, with a lease.

Each daemon notes its own users there, and renews its lease for the whole group at once. The index
of the group has the leases and the counts, and a version that every change makes greater: so a
daemon that is told of changes knows whether it has missed one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from redis import exceptions

from ...base.codec import read_json
from ...redis import scripts
from ...redis.clients import SentScript
from ...redis.replies import Reply
from .keyspace import Keyspace, messages_key

LEASE_SECONDS = 18.0
"""How long a daemon that renews nothing still counts."""
KEPT_SECONDS = 60.0
"""How long its members are kept after that."""
INBOX = "fastimd:to:"
"""Before a daemon's id: the channel of what only that daemon must know."""

How: TypeAlias = Literal["told", "anew", "later"]
"""How changes are meant: as such, or as the first or a later part of all that the daemon has."""
MAX_OTHERS = 16
"""How many daemons are kept in mind that have members in other groups."""
AWAY = b"[]"
"""The value of a user who has no connection, and may come back."""
_MAX_LOOKS = 5


_NULL = msgspec.Raw(b"null")


class Place(msgspec.Struct, array_like=True):
    """One connection of a user; ``info`` is what its token says of it, as JSON, or ``null``."""

    client: str
    info: msgspec.Raw = _NULL

    @property
    def has_info(self) -> bool:
        """Its token says something."""
        return bytes(self.info) != b"null"


class Change(NamedTuple):
    """What a daemon has to note of a group.

    ``clients`` and ``users`` are the counts after all changes; ``fields`` is how many users there
    may be in Redis then, with those that are away or of whom it is told later, ``had`` how many of
    them it has now, and ``noted`` the version that it answered then. ``values`` are users with what
    ``value_of`` makes of their connections.
    """

    wants: bool
    how: How
    clients: int
    users: int
    fields: int
    had: int
    noted: int
    values: Sequence[tuple[str, bytes]]


class Roll(NamedTuple):
    """Who is in a group, and what a change did to that.

    ``born`` names this life of the data, ``before`` and ``version`` are its version before the
    change and after. ``fields`` is how many users of this daemon Redis has. ``come`` and ``gone``
    are what the change did; ``all`` is everybody, if that was asked for and they are not too many:
    the users of each daemon with their values.
    """

    born: str
    before: int
    version: int
    clients: int
    users: int
    fields: int
    has_died: bool
    come: list[tuple[str, bytes]]
    gone: list[str]
    all: list[tuple[str, bytes]] | None


class Letter(msgspec.Struct):
    """What one daemon tells another that has members in a group too.

    With a ``version`` it says who came, each followed by the value, and who has gone; with
    ``typing`` that this user is typing.
    """

    group: str
    version: str = ""
    come: list[str] = []
    gone: list[str] = []
    typing: str = ""


class Presences:
    """The members of groups, as Redis has them. ``daemon`` is the id of this one."""

    def __init__(self, keys: Keyspace) -> None:
        self._keys = keys
        self.daemon = secrets.token_hex(8)
        # Daemons that were seen last: most have members in most groups.
        self._others: list[str] = []

    @property
    def inbox(self) -> str:
        """The channel of what only this daemon must know."""
        return INBOX + self.daemon

    def send(
        self, group: str, change: Change, announced: int, listed: int, *, is_again: bool = False
    ) -> SentScript:
        """Send a change, for ``reply``.

        Args:
            is_again: the script has asked for the members of others.
            announced: up to how many users others are told who came and went.
            listed: up to how many connections ``Roll.all`` has them; -1 for never.
        """
        needs_others = change.values or change.how == "anew" or listed >= 0 or is_again
        daemons = [self.daemon, *(self._others if needs_others else ())]
        beside = messages_key(group), _index_key(group), _shared_key(group)
        keys = (*beside, *(_key(each, group) for each in daemons))
        return self._keys.send(
            scripts.PRESENT,
            keys,
            len(daemons),
            *daemons,
            int(LEASE_SECONDS * 1000),
            int(KEPT_SECONDS * 1000),
            int(change.wants),
            announced,
            listed,
            *(change.how, change.clients, change.users, change.fields, change.had),
            change.noted,
            group,
            *(each for pair in change.values for each in pair),
        )

    async def reply(
        self, call: SentScript, group: str, change: Change, announced: int, listed: int
    ) -> Roll | None:
        """Wait for the answer to what was sent; None when Redis has lost what there was before.

        Raises:
            StoreUnavailable: Redis is away; the change may have been noted or not.
            KeyUnusable: Redis refuses what concerns the group.
        """
        for _ in range(_MAX_LOOKS):
            reply = await self._keys.reply(call, _index_key(group))
            if reply[0] == b"ANEW":
                return None
            if reply[0] != b"AGAIN":
                return self._read(reply)
            self._meet(reply[1])
            call = self.send(group, change, announced, listed, is_again=True)
        raise AssertionError("daemons come and go faster than they are met")

    def renew(self, group: str, had: int, noted: int) -> SentScript:
        """Renew the lease of this daemon in a group where nothing has changed, for ``is_renewed``.

        Args:
            had: how many of this daemon's users Redis has.
            noted: the version after the last change.
        """
        beside = messages_key(group), _index_key(group), _shared_key(group)
        lease, kept = int(LEASE_SECONDS * 1000), int(KEPT_SECONDS * 1000)
        keys = (*beside, _key(self.daemon, group))
        return self._keys.send(scripts.RENEW, keys, self.daemon, lease, kept, had, noted)

    async def is_renewed(self, call: SentScript, group: str) -> bool:
        """Wait for the answer; False when Redis has lost what there was.

        Raises:
            StoreUnavailable: Redis is away.
            KeyUnusable: Redis refuses what concerns the group.
        """
        return bool(await self._keys.reply(call, _index_key(group)))

    async def tell(self, group: str, letter: Letter) -> None:
        """Tell something to the other daemons with members in a group.

        Raises:
            StoreUnavailable, KeyUnusable: it may not have been told.
        """
        text = msgspec.json.encode(letter)
        keys = messages_key(group), _index_key(group)
        call = self._keys.send(scripts.TELL, keys, self.daemon, text)
        refusal = await self._keys.reply(call, _index_key(group))
        if isinstance(refusal, list):
            self._note_refusal(refusal)

    def _read(self, reply: list[Reply]) -> Roll:
        born, before, version, clients, users, fields, died, refusal, *changes = reply
        come, gone, everybody = changes
        if refusal[0]:
            self._note_refusal(refusal)
        return Roll(
            born.decode(),
            int(before),
            int(version),
            clients,
            users,
            fields,
            died > 0,
            _pairs(come),
            [each.decode(errors="replace") for each in gone],
            None if everybody is None else _pairs(everybody),
        )

    def _meet(self, ids: Iterable[bytes]) -> None:
        """These daemons have members in some group: their keys are named from now on."""
        known = {each.decode() for each in ids} - {self.daemon}  # hexadecimal, says the script
        if not known.issubset(self._others):
            fresh = [*sorted(known), *(each for each in self._others if each not in known)]
            self._others = fresh[: max(MAX_OTHERS, len(known))]

    def _note_refusal(self, refusal: list[bytes]) -> None:
        channel, why = (each.decode(errors="replace") for each in refusal)
        self._keys.refused(channel, exceptions.NoPermissionError(why))


def value_of(places: Iterable[Place]) -> bytes:
    """A user's connections as they are kept."""
    return msgspec.json.encode(list(places))


def places_of(value: bytes) -> list[Place]:
    """The connections of a user, from what is kept.

    Raises:
        ValueError: somebody else has written there.
    """
    return read_json(value, list[Place])


def _pairs(flat: list[bytes]) -> list[tuple[str, bytes]]:
    pairs = iter(flat)
    return [
        (user.decode(errors="replace"), value) for user, value in zip(pairs, pairs, strict=True)
    ]


def _index_key(group: str) -> str:
    return f"fastimd:here:{group}"


def _shared_key(group: str) -> str:
    return f"fastimd:shared:{group}"


def _key(daemon: str, group: str) -> str:
    return f"fastimd:members:{daemon}:{group}"
