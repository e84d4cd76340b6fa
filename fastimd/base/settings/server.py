"""``[server]``: where clients connect, which may, and how many."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from .bind import parse_bind
from .section import AFTER_RESTART, About, Section

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")


def _check_origin(value: str) -> None:
    if value != "*" and (not _ORIGIN.fullmatch(value) or urlsplit(value).port == 0):
        raise ValueError("not an origin")


class Server(Section, frozen=True):
    """The public port."""

    bind: Annotated[
        str,
        Meta(description='"HOST:PORT" or "[v6]:PORT", port 0 to 65535 (0 = a free one)'),
        About(
            "Where clients connect, WebSocket and HTTP alike."
            ' "0.0.0.0:9000" listens on every IPv4 address.',
            check=parse_bind,
            holds=AFTER_RESTART,
        ),
    ] = "127.0.0.1:9000"
    workers: Annotated[
        int,
        Meta(ge=0, le=256, description="a whole number from 0 to 256 (0 = one a core)"),
        About(
            "How many processes share the connections. Each uses one core at most; with more than"
            " one, a process beside them accepts, watches over them, and reports for the whole.",
            holds=AFTER_RESTART,
        ),
    ] = 1
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description='a list of "*" (any) or origins as browsers send them, such as'
            ' "https://chat.example.org" or "http://localhost:8080": lower case, no path',
        ),
        About("Which web pages may connect.", check=_check_origin),
    ] = ("*",)
    max_connections: Annotated[
        int,
        Meta(ge=0, description="a whole number, 0 or more (0 = as many as the file limit allows)"),
        About("The maximum number of open connections; more are refused."),
    ] = 0
    max_connections_per_ip: Annotated[
        int,
        Meta(ge=0, description="a whole number, 0 or more (0 = no limit)"),
        About(
            "The maximum number of open connections from one client address (IPv6: from its /64"
            " network); more are refused. Behind a proxy, set trusted_proxies first: without it"
            " all clients share the proxy's address.",
        ),
    ] = 0
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description='a list of IP addresses or CIDR networks, such as "10.0.0.7" or'
            ' "10.0.0.0/8"'
        ),
        About(
            "Proxies and load balancers that are trusted for the client's address"
            " (X-Forwarded-For or Forwarded) and the request's id (X-Request-Id).",
            check=ipaddress.ip_network,
        ),
    ] = ()
    drain_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="seconds, from 0 (at once) to 86400 (a day)"),
        About(
            "After SIGTERM, the time over which connections are closed, so that clients do not"
            " all reconnect at once.",
        ),
    ] = 10.0
