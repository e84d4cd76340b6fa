"""URLs that name several hosts: ``urlsplit`` knows one, and refuses the brackets of a second."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote

from .mistakes import Mistaken

_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[^:]*))?")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")


class HostsUrl(NamedTuple):
    """A URL in parts; ``login`` is "" or ends with "@", ``path`` has no "/" before it."""

    scheme: str
    login: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    query: str


def read_hosts(url: str, what: str, port: int) -> HostsUrl:
    """Read a URL as far as all of its kind are alike.

    Args:
        what: is at such a host, for mistakes.
        port: of a host that has none.

    Raises:
        Mistaken: it cannot be read; says why, and repeats nothing of it.
    """
    scheme, _, rest = url.partition("://")
    if "#" in rest:
        raise Mistaken('"#" in a password is written %23')
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, at, named = authority.rpartition("@")
    if "@" in path:
        raise Mistaken('"/" and "@" in a password are written %2F and %40')
    if not named:
        raise Mistaken(f"no host of {what}")
    hosts = tuple(_read_host(host, what, port) for host in named.split(","))
    if len(set(hosts)) < len(hosts):
        raise Mistaken(f"{what} is named twice")
    return HostsUrl(scheme, login + at, hosts, path, query)


def show_hosts(hosts: Iterable[tuple[str, int]]) -> str:
    """Hosts as they stand in a URL."""
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)


def _read_host(text: str, what: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise Mistaken("not a host: an IPv6 address stands in brackets")
    if found["port"] is not None:
        if re.fullmatch("[0-9]{1,5}", found["port"], re.ASCII) is None:
            raise Mistaken(f"the port of {what} is not a number")
        port = int(found["port"])
    if not 0 < port < 65536:
        raise Mistaken(f"the port of {what} is not between 1 and 65535")
    if found["v6"] is not None:
        try:
            return str(IPv6Address(unquote(found["v6"]))), port
        except ValueError as exc:
            raise Mistaken("what stands in brackets is no IPv6 address") from exc
    if _NAME.fullmatch(found["name"]) is None:
        raise Mistaken(f"an empty or malformed host of {what}")
    return found["name"], port
