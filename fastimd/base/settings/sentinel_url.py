"""``redis-sentinel://``: the URL of a Redis that is found by asking sentinels for a master.

It is read here by hand: ``urlsplit`` knows one host, and refuses the brackets of a second one.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from .mistakes import Mistaken

SENTINEL_PORT = 26379
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_SCHEMES = {"redis-sentinel": "redis", "rediss-sentinel": "rediss"}
_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[^:]*))?")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")


class SentinelUrl(NamedTuple):
    """What a URL of sentinels says.

    ``sentinels`` are their hosts and ports. ``server`` is the URL of a Redis at a host that is yet
    to be found, with login, database and options of TLS; ``shown`` is the URL without secrets.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    server: str
    shown: str
    sentinel_username: str | None
    sentinel_password: str | None


def is_sentinel_url(url: str) -> bool:
    """Whether the master is to be asked for."""
    return url.partition("://")[0] in _SCHEMES


def read_sentinel_url(url: str) -> SentinelUrl:
    """Read a URL; its options but for those of sentinels are left to whoever checks ``server``.

    Raises:
        Mistaken: it cannot be read; says why, and repeats nothing of it.
    """
    scheme, _, rest = url.partition("://")
    if "#" in rest:
        raise Mistaken('"#" in a password is written %23')
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    if "@" in path:
        raise Mistaken('"/" and "@" in a password are written %2F and %40')
    service, _, database = path.partition("/")
    if not hosts:
        raise Mistaken("no host of a sentinel")
    sentinels = tuple(_read_host(host) for host in hosts.split(","))
    if len(set(sentinels)) < len(sentinels):
        raise Mistaken("a sentinel is named twice")
    if not service:
        raise Mistaken("no service: /SERVICE follows the hosts")
    if _SERVICE.fullmatch(service) is None:
        raise Mistaken("a service's name has letters, digits and .-_ only")
    if re.fullmatch("[0-9]*", database, re.ASCII) is None:
        raise Mistaken("the database is not a number")
    options = parse_qsl(query, keep_blank_values=True)
    given = dict(options)
    kept = [option for option in options if option[0] not in SENTINEL_OPTIONS]
    shown = ",".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in sentinels
    )
    return SentinelUrl(
        sentinels,
        service,
        f"{_SCHEMES[scheme]}://{login}{at}localhost/{database}"
        + (f"?{urlencode(kept)}" if kept else ""),
        f"{scheme}://{shown}/{service}/{given.get('db') or database or 0}",
        given.get("sentinel_username"),
        given.get("sentinel_password"),
    )


def _read_host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise Mistaken("not a host: an IPv6 address stands in brackets")
    port = SENTINEL_PORT
    if found["port"] is not None:
        if re.fullmatch("[0-9]{1,5}", found["port"], re.ASCII) is None:
            raise Mistaken("the port of a sentinel is not a number")
        port = int(found["port"])
    if not 0 < port < 65536:
        raise Mistaken("the port of a sentinel is not between 1 and 65535")
    if found["v6"] is not None:
        try:
            return str(IPv6Address(unquote(found["v6"]))), port
        except ValueError as exc:
            raise Mistaken("what stands in brackets is no IPv6 address") from exc
    if _NAME.fullmatch(found["name"]) is None:
        raise Mistaken("an empty or malformed host of a sentinel")
    return found["name"], port
