"""``redis-cluster://``: the URL of a cluster, by some of its nodes."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl

from .hosts import read_hosts, show_hosts
from .mistakes import Mistaken

NODE_PORT = 6379
_SCHEMES = {"redis-cluster": "redis", "rediss-cluster": "rediss"}


class ClusterUrl(NamedTuple):
    """What a URL of a cluster says.

    ``server`` is the URL of a node whose place is yet to be known, with login and options of TLS;
    ``shown`` is the URL without secrets.
    """

    nodes: tuple[tuple[str, int], ...]
    server: str
    shown: str


def is_cluster_url(url: str) -> bool:
    """Whether groups are spread over masters."""
    return url.partition("://")[0] in _SCHEMES


def read_cluster_url(url: str) -> ClusterUrl:
    """Read a URL; its options are left to whoever checks ``server``.

    Raises:
        Mistaken: it cannot be read; says why, and repeats nothing of it.
    """
    scheme, login, nodes, path, query = read_hosts(url, "a node", NODE_PORT)
    database = dict(parse_qsl(query, keep_blank_values=True)).get("db") or path
    if database not in ("", "0"):
        raise Mistaken("a cluster has one database, 0")
    return ClusterUrl(
        nodes,
        f"{_SCHEMES[scheme]}://{login}localhost" + (f"?{query}" if query else ""),
        f"{scheme}://{show_hosts(nodes)}",
    )
