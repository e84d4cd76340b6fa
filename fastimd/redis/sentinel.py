"""The master of a service, found by asking its sentinels.

redis-py asks them, each in a thread, for it has no Trio client; that is off the path of messages.
All are asked, at each connect and by ``groups.following`` ever again, and the newest answer counts:
a sentinel that was cut off for a while may still name a master of before. How new an answer is, its
*configuration epoch* says, which each fail-over raises. The server that is named must say itself
that it is a master, for a sentinel may be late.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import redis.sentinel
import structlog
import trio
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from ..base.settings import read_sentinel_url
from .address import Address
from .cause import cause_of
from .wire import Wire

ASK_SECONDS = 0.5
"""How long a sentinel may take to be connected to, and to answer."""
PATIENCE_SECONDS = 0.75
"""How long all of them may take together, the names of their hosts included."""
GRACE_SECONDS = 0.2
"""How long the others may still take when most have named the same master."""
TELL_SECONDS = 1.5
"""The log takes no more than one line of a kind in a second."""

_NOTHING = "no answer"

log = structlog.get_logger("fastimd.redis")


class Master(NamedTuple):
    """A server, and the configuration epoch in which it became the master."""

    host: str
    port: int
    epoch: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reign(self) -> str:
        """A name of its time as master; clients see it, and it tells them no address."""
        return hashlib.sha256(f"{self} {self.epoch}".encode()).hexdigest()[:8]


class NoMaster(exceptions.ConnectionError):
    """The sentinels name no master, or one that is none; the text says why."""


class Service:
    """A Redis whose master sentinels name.

    Resource handling: ``close`` ends the connections to the sentinels.

    Raises:
        StartupError: a certificate or key that the URL names cannot be used.
    """

    def __init__(self, url: str) -> None:
        found = read_sentinel_url(url)
        self.name = found.service
        self.shown_url = found.shown
        self.master: Master | None = None
        self._server = Address(found.server)
        options: dict[str, Any] = parse_url(found.server)  # type: ignore[no-untyped-call]
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        self._sentinels = [
            _Sentinel(
                host,
                port,
                username=found.sentinel_username,
                password=found.sentinel_password,
                ssl=url.startswith("rediss"),
                **tls,
            )
            for host, port in found.sentinels
        ]
        self._asked = 0  # how often, and which of the answers was the last to count
        self._counted = 0
        self._failing = ""  # what was told of those that are of no use
        self._failed: Collection[str] = ()  # those that failed the last time
        self._told_at = -math.inf

    def __str__(self) -> str:
        return f"{self.master or 'nowhere yet'}, master of {self.name}"

    async def connect(self) -> Wire:
        """Ask for the master, and connect to it.

        Raises:
            NoMaster: there is none that says itself that it is one.
            OSError: it cannot be reached, or broke the connection.
            redis.exceptions.RedisError: it refused the login or the database.
        """
        master = await self.find()
        server = self._server.moved_to(master.host, master.port)
        wire = await server.connect()
        self._server = server  # it knows that TLS is right, or that there is none
        try:
            [role] = await wire.ask(("ROLE",))
            if role[0] != b"master":
                raise NoMaster("the sentinels name it, and it is a replica itself")
            if self.master != master:
                raise NoMaster(f"the sentinels name {self.master} by now")
        except BaseException:
            await wire.aclose()
            raise
        wire.reign = master.reign
        return wire

    async def find(self) -> Master:
        """Ask all sentinels; ``master`` is what the newest answer says.

        An answer that is older than one that was had before counts if most sentinels give it: then
        they have been set up anew.

        Raises:
            NoMaster: none of them names a master that is up.
        """
        self._asked += 1
        number = self._asked
        answers: list[Master] = []
        failures: dict[str, _NoAnswer] = dict.fromkeys(
            map(str, self._sentinels), _NoAnswer(_NOTHING)
        )
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_SECONDS
            for sentinel in self._sentinels:
                nursery.start_soon(self._ask, sentinel, answers, failures, nursery.cancel_scope)
        self._tell(failures)
        if not answers:
            raise NoMaster("; ".join(f"sentinel {name}: {why}" for name, why in failures.items()))
        votes = Counter(answers)
        newest = max(votes, key=lambda master: (master.epoch, votes[master]))
        is_older = self.master is not None and newest.epoch < self.master.epoch
        if is_older and votes[newest] * 2 <= len(self._sentinels):
            raise NoMaster(f"the sentinels that answer name {newest}, master before {self.master}")
        if number > self._counted:
            self._counted = number
            self.master = newest
        assert self.master is not None
        return self.master

    def close(self) -> None:
        """End the connections to the sentinels."""
        for sentinel in self._sentinels:
            sentinel.close()

    async def _ask(
        self,
        sentinel: _Sentinel,
        answers: list[Master],
        failures: dict[str, _NoAnswer],
        asking: trio.CancelScope,
    ) -> None:
        try:
            answers.append(await sentinel.ask(self.name))
        except _NoAnswer as exc:
            failures[str(sentinel)] = exc
            return
        del failures[str(sentinel)]
        if answers.count(answers[-1]) * 2 > len(self._sentinels):
            asking.deadline = min(asking.deadline, trio.current_time() + GRACE_SECONDS)

    def _tell(self, failures: dict[str, _NoAnswer]) -> None:
        """Log which sentinels are of no use, twice in a row, when these are others than before."""
        failed, self._failed = self._failed, failures
        failing = "; ".join(
            f"{name}: {why}"
            for name, why in failures.items()
            if name in failed and not isinstance(why, _Down)
        )
        is_soon = trio.current_time() < self._told_at + TELL_SECONDS
        if failing == self._failing or is_soon:  # what is not told now is told the next time
            return
        self._failing, self._told_at = failing, trio.current_time()
        if failing:
            log.warning("sentinels.unavailable", service=self.name, error=failing)
        else:
            log.info("sentinels.available", service=self.name)


class _NoAnswer(Exception):
    """A sentinel does not name the master of the service; the text says why."""


class _Down(_NoAnswer):
    """It will, when the fail-over is done."""


class _Sentinel:
    """One sentinel, asked in a thread; one question at a time."""

    def __init__(self, host: str, port: int, **options: Any) -> None:
        self._name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        limits = {"socket_timeout": ASK_SECONDS, "socket_connect_timeout": ASK_SECONDS}
        self._manager = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            [(host, port)],
            sentinel_kwargs={
                **{name: value for name, value in options.items() if value is not None},
                **limits,
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
            },
        )
        # A thread that was waited for no longer lives on until its own time is over.
        self._limiter = trio.CapacityLimiter(1)

    def __str__(self) -> str:
        return self._name

    async def ask(self, service: str) -> Master:
        """Which is the master of a service.

        Raises:
            _NoAnswer: it does not say.
        """
        return await trio.to_thread.run_sync(
            partial(self._ask, service), abandon_on_cancel=True, limiter=self._limiter
        )

    def close(self) -> None:
        """End the connection."""
        for connection in self._manager.sentinels:
            connection.close()

    def _ask(self, service: str) -> Master:
        [connection] = self._manager.sentinels
        try:
            states = cast(dict[str, dict[str, Any]], connection.sentinel_masters())
        except Exception as exc:  # redis-py may stumble over what is no sentinel
            raise _NoAnswer(_why(exc)) from exc
        state = states.get(service)
        if state is None:
            raise _NoAnswer(f"knows no service {service}, {_known(list(states))}")
        if "failover_in_progress" in state["flags"]:
            raise _Down("fails over")
        is_up = self._manager.check_master_state(state, service)  # type: ignore[no-untyped-call]
        if not is_up:
            raise _Down(f"says that the master {state['ip']}:{state['port']} is down")
        return Master(state["ip"], state["port"], state["config-epoch"])


def _why(failure: Exception) -> str:
    """What redis-py met, in words for the log."""
    met = failure.__context__
    match failure, met:
        case exceptions.TimeoutError(), _:
            return _NOTHING
        case exceptions.ConnectionError(), OSError():
            return cause_of(met)
        case exceptions.RedisError() | OSError(), _:
            return cause_of(failure).partition(", with args beginning with")[0]
    return f"answers strangely ({type(failure).__name__}: {failure})"


def _known(services: Sequence[str]) -> str:
    return f"but {', '.join(services)}" if services else "nor any other"
