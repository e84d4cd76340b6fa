"""The daemon, as the methods of the API see it."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from re import compile as compile_pattern

from ..groups.domain import Domain
from ..groups.surveys import Surveys
from ..http.forms import Status
from ..websocket.session import Sessions
from .appends import AppendsUnderWay
from .bodies import ChannelInfo, DaemonStatus, Node, Process

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Service:
    """What a call may use.

    Args:
        name: of this daemon, for people.
        read_status: how it is.
        begin_drain: has it drain, as on SIGTERM; False when it does not serve yet.
    """

    domain: Domain
    sessions: Sessions
    surveys: Surveys
    read_status: Callable[[], Status]
    begin_drain: Callable[[], bool]
    name: str
    appends: AppendsUnderWay

    @property
    def uid(self) -> str:
        """By which the daemons of a Redis know this one."""
        return self.domain.store.presences.daemon

    def answerers(self) -> dict[str, Callable[[str], object]]:
        """What this daemon says when all are asked."""
        return {
            "channels": self.channels,
            "info": self.info,
            "status": self.status,
            "drain": self.drain,
        }

    def channels(self, pattern: str) -> dict[str, ChannelInfo]:
        """The groups with members here, those that the glob fits."""
        fits = compile_pattern(translate(pattern or "*")).fullmatch
        return {
            name: ChannelInfo(members, messages)
            for name, members, messages in self.domain.hub.activity()
            if fits(name)
        }

    def info(self, _about: str = "") -> Node:
        """How this daemon is."""
        state, usage = self.read_status(), resource.getrusage(resource.RUSAGE_SELF)
        return Node(
            uid=self.uid,
            name=self.name,
            version=state.version,
            num_clients=len(self.sessions),
            num_users=len({session.user for session in self.sessions}),
            num_channels=state.groups,
            num_subs=sum(members for _, members, _ in self.domain.hub.activity()),
            uptime=round(state.uptime_seconds),
            process=Process(round(usage.ru_utime + usage.ru_stime, 3), _resident_bytes()),
        )

    def status(self, _about: str = "") -> DaemonStatus:
        """How this daemon is, in full."""
        state, metrics = self.read_status(), self.domain.metrics
        return DaemonStatus(
            uid=self.uid,
            name=self.name,
            version=state.version,
            pid=state.pid,
            uptime=round(state.uptime_seconds),
            ready=state.ready,
            reasons=state.reasons,
            sockets=state.sockets,
            groups=state.groups,
            outbox_bytes=state.outbox_bytes,
            bytes_received=metrics.bytes_received,
            bytes_sent=metrics.bytes_sent,
            redis=state.redis,
            counters=state.counters,
            troubles=state.troubles,
        )

    def drain(self, uid: str) -> bool:
        """Have this daemon drain, if it is the one that is meant; whether it does."""
        return uid == self.uid and self.begin_drain()


def make_service(
    domain: Domain,
    sessions: Sessions,
    surveys: Surveys,
    read_status: Callable[[], Status],
    begin_drain: Callable[[], bool],
) -> Service:
    """The service of this daemon, which answers what all daemons are asked from now on."""
    name = f"{socket.gethostname()}_{os.getpid()}"
    service = Service(
        domain,
        sessions,
        surveys,
        read_status,
        begin_drain,
        name,
        AppendsUnderWay(),
    )
    surveys.answerers = service.answerers()
    return service


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES
