"""The arithmetic of the bill: what a use costs, from what its parts cost.

``Prices`` are measured (``prices.py``); ``bill`` multiplies. The members of a group are spread over
the daemons by chance, and a message goes to every daemon that has one of them. A daemon reads the
relay at most once in ``GATHER_SECONDS``; this is where batching comes in. Appends are counted
one by one, which is the dearest they can be. Each daemon renews a lease in each group of which it
has members. Nobody wants to be told who comes and goes, so no renewal looks at other daemons, and
all cost the same as those that are measured, of a daemon that is alone in its groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastimd.groups.presence.presence import RENEW_SECONDS
from fastimd.groups.relay import GATHER_SECONDS

USE = 0.6
"""How busy a daemon or a Redis may be: the rest is for peaks and for clients that come back."""
PING_SECONDS = 25.0
"""The default of ``socket.ping_interval``."""
SEGMENT = 52
"""Bytes of the headers around what one write carries: IPv4 20, TCP 20, its timestamps 12."""
PING_FRAME, PONG_FRAME = 2, 6
MOST_DAEMONS = 100_000


@dataclass(frozen=True)
class Prices:
    """The measured price of each part: CPU in seconds, memory and network in bytes.

    Args:
        idle: CPU of a daemon without clients, a second.
        append: of a message that comes alone, until Redis has it.
        turn: of a daemon that reads the relay once.
        relay: of each message that it reads then.
        write: of a write to one member.
        carried: of each message in a write.
        ping: of a ping and its pong.
        connect: of a handshake and the greeting.
        lease: of the renewal of a lease.
        redis_idle: CPU of Redis for each daemon, a second.
        redis_batch: of one call of the append script.
        redis_message: of each message in it.
        redis_subscriber: of sending a message to one daemon.
        redis_lease: of the renewal of a lease.
        daemon: memory of a daemon without clients.
        socket: memory of a socket in one group.
        group: memory of a group with members, on each daemon that has some.
        subscription: memory of one more group on a socket of the live wire.
        stored: memory of Redis for a message.
        channel: memory of Redis for a group, for each daemon that has some of its members.
        member: memory of Redis for a member who is there, with the set of the user's groups.
        sent: bytes of a delivery's frame.
        received: bytes of a message's frame.
        redis_in: bytes to Redis for a message.
        redis_answer: bytes of its answer.
        redis_out: bytes from Redis to each daemon for a message.
        commands: of Redis for a message that comes alone, with those in the script.
        lease_in: bytes to Redis for the renewal of a lease.
        lease_out: bytes of its answer.
        lease_commands: of Redis for it, with those in the script.
    """

    idle: float
    append: float
    turn: float
    relay: float
    write: float
    carried: float
    ping: float
    connect: float
    lease: float
    redis_idle: float
    redis_batch: float
    redis_message: float
    redis_subscriber: float
    redis_lease: float
    daemon: float
    socket: float
    group: float
    subscription: float
    stored: float
    channel: float
    member: float
    sent: float
    received: float
    redis_in: float
    redis_answer: float
    redis_out: float
    commands: float
    lease_in: float
    lease_out: float
    lease_commands: float


@dataclass(frozen=True)
class Part:
    """Some groups of one kind.

    Args:
        rate: messages a second of each group.
        budget: how many of them a second are delivered; None = all.
        most_writes: how often a second a member is written to, whatever comes.
    """

    groups: int
    members: int
    rate: float
    budget: float | None = None
    most_writes: float = 1 / GATHER_SECONDS

    @property
    def sockets(self) -> int:
        """Of all these groups."""
        return self.groups * self.members

    @property
    def messages(self) -> float:
        """A second, in all these groups."""
        return self.groups * self.rate

    @property
    def delivered(self) -> float:
        """Messages a second of each group that its members get."""
        return self.rate if self.budget is None else min(self.rate, self.budget)

    @property
    def deliveries(self) -> float:
        """A second, in all these groups."""
        return self.sockets * self.delivered

    @property
    def writes(self) -> float:
        """A second: what comes to a group within one turn goes in one write to each member."""
        return self.sockets * min(self.delivered, self.most_writes)


@dataclass(frozen=True)
class Bill:
    """The cost of a use, all daemons together; bytes and CPU per second.

    ``lease_cpu`` is the part of ``redis_cpu`` that is for leases.
    """

    daemons: int
    cpu: float
    memory: float
    sent: float
    received: float
    redis_cpu: float
    leases: float
    lease_cpu: float
    redis_memory: float
    redis_in: float
    redis_out: float
    commands: float
    stored: float

    @property
    def masters(self) -> int:
        """How many Redis have the CPU for it."""
        return at_least(self.redis_cpu / USE)


def at_least(number: float) -> int:
    """Whole ones, and one at the least."""
    return max(1, -int(-number // 1))


def spread(members: int, daemons: int) -> float:
    """How many daemons have members of a group, if each member is on any of them by chance."""
    return daemons * (1 - (1 - 1 / daemons) ** members)


def bill(prices: Prices, parts: Sequence[Part], daemons: int) -> Bill:
    """The cost of some groups on a number of daemons."""
    messages = sum(part.messages for part in parts)
    sockets = sum(part.sockets for part in parts)
    writes = sum(part.writes for part in parts)
    deliveries = sum(part.deliveries for part in parts)
    relays = sum(part.messages * spread(part.members, daemons) for part in parts)
    channels = sum(part.groups * spread(part.members, daemons) for part in parts)
    turns = daemons * min(relays / daemons, 1 / GATHER_SECONDS)
    pings = sockets / PING_SECONDS
    leases = channels / RENEW_SECONDS
    lease_cpu = leases * prices.redis_lease
    return Bill(
        daemons,
        cpu=daemons * prices.idle
        + messages * prices.append
        + turns * prices.turn
        + relays * prices.relay
        + writes * prices.write
        + deliveries * prices.carried
        + pings * prices.ping
        + leases * prices.lease,
        memory=daemons * prices.daemon + sockets * prices.socket + channels * prices.group,
        # Every segment is acknowledged by one, at worst.
        sent=deliveries * prices.sent
        + (writes + messages) * SEGMENT
        + pings * (PING_FRAME + 2 * SEGMENT),
        received=messages * prices.received
        + (writes + messages) * SEGMENT
        + pings * (PONG_FRAME + 2 * SEGMENT),
        redis_cpu=daemons * prices.redis_idle
        + messages * (prices.redis_batch + prices.redis_message)
        + relays * prices.redis_subscriber
        + lease_cpu,
        leases=leases,
        lease_cpu=lease_cpu,
        redis_memory=channels * prices.channel + sockets * prices.member,
        redis_in=messages * prices.redis_in + leases * prices.lease_in,
        redis_out=messages * prices.redis_answer
        + relays * prices.redis_out
        + leases * prices.lease_out,
        commands=messages * prices.commands + leases * prices.lease_commands,
        stored=messages * prices.stored,
    )


def cheapest(prices: Prices, parts: Sequence[Part]) -> Bill:
    """The bill with the fewest daemons that are no busier than they may be.

    Raises:
        ValueError: no number of them is enough.
    """
    for daemons in range(1, MOST_DAEMONS):
        found = bill(prices, parts, daemons)
        if found.cpu <= USE * daemons:
            return found
    raise ValueError("a daemon without clients is too busy already")


def off_by(predicted: float, measured: float) -> float:
    """By how much a prediction is off, as a share of what was measured."""
    return predicted / measured - 1
