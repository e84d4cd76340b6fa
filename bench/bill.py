"""The arithmetic of the bill: what a use costs, from what its parts cost.

``Prices`` are measured (``prices.py``); ``bill`` multiplies. The members of a group are spread over
the daemons by chance, and a message goes to every daemon that has one of them. A daemon reads the
relay at most once in ``GATHER_SECONDS``; this is where batching comes in. Appends are counted
one by one, which is the dearest they can be. Each daemon renews a lease in each group of which it
has members. One of ``LOOK_EVERY`` renewals is a look at the other daemons, as nobody wants to be
told who comes and goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastimd.groups.presence.presence import LOOK_EVERY, RENEW_SECONDS
from fastimd.groups.relay import GATHER_SECONDS
from fastimd.groups.store.presence import MAX_OTHERS

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
        lease: of the renewal of a lease, on average of looks and of others, where a daemon is
            alone in its group.
        look: for each other daemon in the group, of a look.
        again: of a look that has to be asked again.
        redis_idle: CPU of Redis for each daemon, a second.
        redis_batch: of one call of the append script.
        redis_message: of each message in it.
        redis_subscriber: of sending a message to one daemon.
        redis_lease: of a renewal, as ``lease``.
        redis_look: for each other daemon in the group, of a look.
        redis_again: of a look that has to be asked again.
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
        lease_in: bytes to Redis for a renewal, as ``lease``.
        lease_out: bytes of its answer.
        lease_commands: of Redis for it, with those in the script.
        look_in: bytes to Redis for each other daemon that a look names.
        look_out: bytes from Redis for each other daemon that an answer names.
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
    look: float
    again: float
    redis_idle: float
    redis_batch: float
    redis_message: float
    redis_subscriber: float
    redis_lease: float
    redis_look: float
    redis_again: float
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
    look_in: float
    look_out: float


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


def beside(members: int, daemons: int) -> float:
    """How many other daemons have members of a group, on average for a daemon that has some."""
    here = spread(members, daemons)
    # Daemons that have some, in pairs: all but those of which the one or the other has none.
    none, neither = (1 - 1 / daemons) ** members, max(0.0, 1 - 2 / daemons) ** members
    return daemons * (daemons - 1) * (1 - 2 * none + neither) / here


@dataclass(frozen=True)
class Leases:
    """What daemons do a second to renew their leases, together.

    Args:
        renewed: how many they renew.
        others: other daemons that have members there, in those renewals that look at them.
        again: how many of these have to be asked again.
        named: daemons that they name.
        told: daemons that their answers name.
    """

    renewed: float
    others: float
    again: float
    named: float
    told: float

    @classmethod
    def of(cls, parts: Sequence[Part], daemons: int) -> Leases:
        """A daemon names those that it met last, and has to ask again if the group has others.

        Up to ``MAX_OTHERS`` it has all in mind. Beyond that most groups have others, unless they
        are so large that they are on all daemons.
        """
        renewed = others = again = named = told = 0.0
        for part in parts:
            here = part.groups * spread(part.members, daemons) / RENEW_SECONDS
            looks, met = here / LOOK_EVERY, beside(part.members, daemons)
            in_mind = min(daemons - 1.0, max(MAX_OTHERS, met))
            enough = (in_mind / (daemons - 1)) ** met if daemons > 1 else 1.0
            renewed += here
            others += looks * met
            again += looks * (1 - enough)
            named += looks * (2 - enough) * in_mind
            told += looks * (2 - enough) * met
        return cls(renewed, others, again, named, told)


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
    leases = Leases.of(parts, daemons)
    lease_cpu = (
        leases.renewed * prices.redis_lease
        + leases.others * prices.redis_look
        + leases.again * prices.redis_again
    )
    return Bill(
        daemons,
        cpu=daemons * prices.idle
        + messages * prices.append
        + turns * prices.turn
        + relays * prices.relay
        + writes * prices.write
        + deliveries * prices.carried
        + pings * prices.ping
        + leases.renewed * prices.lease
        + leases.others * prices.look
        + leases.again * prices.again,
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
        leases=leases.renewed,
        lease_cpu=lease_cpu,
        redis_memory=channels * prices.channel + sockets * prices.member,
        redis_in=messages * prices.redis_in
        + leases.renewed * prices.lease_in
        + leases.named * prices.look_in,
        redis_out=messages * prices.redis_answer
        + relays * prices.redis_out
        + leases.renewed * prices.lease_out
        + leases.told * prices.look_out,
        commands=messages * prices.commands + leases.renewed * prices.lease_commands,
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
