"""``redis-sentinel://``: the URL of a Redis that is found by asking sentinels for a master."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from .hosts import read_hosts, show_hosts
from .mistakes import Mistaken

SENTINEL_PORT = 26379
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_SCHEMES = {"redis-sentinel": "redis", "rediss-sentinel": "rediss"}
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
    scheme, login, sentinels, path, query = read_hosts(url, "a sentinel", SENTINEL_PORT)
    service, _, database = path.partition("/")
    if not service:
        raise Mistaken("no service: /SERVICE follows the hosts")
    if _SERVICE.fullmatch(service) is None:
        raise Mistaken("a service's name has letters, digits and .-_ only")
    if re.fullmatch("[0-9]*", database, re.ASCII) is None:
        raise Mistaken("the database is not a number")
    options = parse_qsl(query, keep_blank_values=True)
    given = dict(options)
    kept = [option for option in options if option[0] not in SENTINEL_OPTIONS]
    return SentinelUrl(
        sentinels,
        service,
        f"{_SCHEMES[scheme]}://{login}localhost/{database}"
        + (f"?{urlencode(kept)}" if kept else ""),
        f"{scheme}://{show_hosts(sentinels)}/{service}/{given.get('db') or database or 0}",
        given.get("sentinel_username"),
        given.get("sentinel_password"),
    )
