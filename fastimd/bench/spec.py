"""What a run is to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..base.address import Address
from .dialect import FASTIMD, Dialect

MODES = ("burst", "talk", "idle", "storm", "list")


@dataclass(frozen=True)
class Place:
    """One socket: its number in the run, its groups and its user."""

    number: int
    groups: tuple[str, ...]
    user: str

    @property
    def group(self) -> str:
        """The only one, of a socket that talks."""
        return self.groups[0]


@dataclass(frozen=True)
class Spec:
    """One run.

    Args:
        groups: groups, each of ``members`` sockets; in ``list`` those that the list sockets are in.
        members: sockets of a group; in ``list`` the list sockets.
        in_flight: messages that a talker may have on their way.
        at_once: how many of them it writes together; ``burst`` only.
        rate: messages a second of all talkers together, whatever comes back; 0 = as many as
            ``in_flight`` lets through. In ``list`` of each active group.
        messages: how many are measured; 0 = as many as come in ``seconds``.
        groups_each: groups that each list socket is in, or each silent socket of the live wire; the
            ``members`` of one group share their other groups.
        active: groups in which is talked while lists are read.
        opening: handshakes that a process has under way.
        settle: seconds between the last greeting and the first message.
        run: makes the ids of its groups and users; by default they are new ones.
        users: what the ids of its users begin with; their numbers follow.
        tokens: of its users who have logged in.
        joined: the users of ``list`` are in their groups already.
    """

    mode: str
    addresses: tuple[Address, ...]
    dialect: Dialect = FASTIMD
    processes: int = 1
    groups: int = 1
    members: int = 100
    in_flight: int = 16
    at_once: int = 8
    rate: float = 0.0
    size: int = 64
    messages: int = 0
    seconds: float = 10.0
    warm_up: float = 2.0
    groups_each: int = 1
    active: int = 0
    opening: int = 128
    settle: float = 0.0
    joined: bool = False
    run: str = ""
    users: str = "b"
    tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def wire(self) -> str:
        """What is spoken."""
        return self.dialect.name

    @property
    def sockets(self) -> int:
        """How many there are."""
        return self.members if self.mode == "list" else self.groups * self.members

    @property
    def sockets_a_process(self) -> int:
        """How many a process has at most."""
        units, each = (self.groups, self.members) if self.mode == "talk" else (self.sockets, 1)
        return -(-units // self.processes) * each

    def places(self, process: int) -> Iterator[Place]:
        """The sockets of one process; a group of talkers is in one process."""
        for number in range(self.sockets):
            unit = number // self.members if self.mode == "talk" else number
            if unit % self.processes == process:
                groups = tuple(map(self.group, self.groups_of(number)))
                yield Place(number, groups, self.user(number))

    def group(self, number: int) -> str:
        """A group's id."""
        return f"{self.group_prefix}{number}"

    @property
    def group_prefix(self) -> str:
        """What the ids of its groups begin with."""
        return f"bench-{self.run}-"

    def user(self, number: int) -> str:
        """The id of a socket's user; the one behind the last talks while lists are read."""
        return f"{self.users}{number}"

    @property
    def user_ids(self) -> Iterator[str]:
        """The ids of all users."""
        return map(self.user, range(self.sockets + (self.mode == "list")))

    def memberships(self) -> Iterator[tuple[str, str]]:
        """Who becomes a member of what, user and group, as a socket of a group joins it."""
        for number in range(self.sockets):
            for group in self.groups_of(number):
                yield self.user(number), self.group(group)
        for group in range(self.active):
            yield self.user(self.sockets), self.group(group)

    def groups_talked_in(self) -> list[str]:
        """The ids of the groups that get messages."""
        talked_in = {"idle": 0, "storm": 0, "list": self.active}.get(self.mode, self.groups)
        return [self.group(number) for number in range(talked_in)]

    def groups_of(self, number: int) -> Iterator[int]:
        """The groups of a socket, by number."""
        first = number * self.groups_each if self.mode == "list" else number // self.members
        for group in range(first, first + self.groups_each):
            yield group % self.groups
