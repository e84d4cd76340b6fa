"""Who a client is behind proxies, and how many connections each client has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# Possessive throughout: what clients write here must not make a search go back and forth.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE = r'"(?:[^"\\]|\\.)*+"|[^\s;,"\\]*+'
_PAIR = rf"[ \t]*+({_NAME})[ \t]*+=[ \t]*+({_VALUE})[ \t]*+"
_PARAMETER = re.compile(_PAIR)
_ELEMENT = re.compile(rf"{_PAIR}(?:;(?:{_PAIR})?+)*+")
"""An element of ``Forwarded`` (RFC 7239 section 4)."""
_BLANK = re.compile(r"[ \t]*+")
_NODE = re.compile(
    r"\[(?P<v6>[^\]]*)\](?::\w+)?|(?P<v4>[0-9.]+)(?::\w+)?|(?P<bare_v6>[0-9a-fA-F:.]+)"
)
_CLIENT_PREFIX_V6 = 64
"""Bits of an IPv6 address that name a client: it has all addresses below."""

Address = IPv4Address | IPv6Address


class Proxies:
    """The proxies that are believed when they name a client.

    Args:
        trusted: their addresses and networks.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [ip_network(proxy, strict=False) for proxy in trusted]

    def is_trusted(self, peer: str) -> bool:
        """Tell whether a peer is one of them."""
        address = _parse(peer) if self._trusted else None
        return address is not None and self._is_trusted(address)

    def client_of(self, peer: str, fields: Mapping[bytes, bytes]) -> str:
        """The address of the client itself: from the peer back, as far as trusted proxies tell.

        ``X-Forwarded-For`` is read; ``Forwarded`` (RFC 7239) when there is none. What is no address
        ends the chain.
        """
        client = _parse(peer) if self._trusted else None
        if client is None or not self._is_trusted(client):
            return peer
        for hop in self._hops(fields):
            address = _parse(hop)
            if address is None:
                break
            client = address
            if not self._is_trusted(client):
                break
        return str(client)

    def _hops(self, fields: Mapping[bytes, bytes]) -> Iterator[str]:
        """What each proxy says of the one before it, the nearest proxy first."""
        if (listed := fields.get(b"x-forwarded-for")) is not None:
            yield from reversed(listed.decode("latin-1").split(","))
            return
        for element in _elements(fields.get(b"forwarded", b"").decode("latin-1")):
            yield _named_by(element)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


class Crowd:
    """Counts the connections of each client.

    Args:
        limit: how many one client may have; 0 = as many as it likes. It may be changed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._connections: Counter[str] = Counter()

    def enter(self, client: str) -> str | None:
        """Count a connection in: what to give to ``leave``, or None when it is one too many."""
        name = _client_name(client)
        if 0 < self.limit <= self._connections[name]:
            return None
        self._connections[name] += 1
        return name

    def leave(self, name: str) -> None:
        """Count a connection out."""
        if not name:
            return
        self._connections[name] -= 1
        if not self._connections[name]:
            del self._connections[name]


def _elements(listed: str) -> Iterator[str]:
    """The elements of a ``Forwarded`` field, the last one first.

    Read from the end, because that is where the proxies have written: a quote that a client left
    open at the beginning swallows nothing, and a comma in a quoted Host makes no element.
    """
    end = at = len(listed)
    while at >= 0:
        at = listed.rfind(",", 0, at) if at else -1
        if _BLANK.fullmatch(listed, at + 1, max(end, 0)):
            end = at
        elif _ELEMENT.fullmatch(listed, at + 1, end):
            yield listed[at + 1 : end]
            end = at
    if listed[: max(end, 0)].strip():
        yield ""  # no element: it names nobody


def _named_by(element: str) -> str:
    for name, value in _PARAMETER.findall(element):
        if name.lower() == "for":
            return re.sub(r"\\(.)", r"\1", value.strip('"'))
    return ""


def _client_name(client: str) -> str:
    if ":" not in client:
        return client
    address = _parse(client)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _CLIENT_PREFIX_V6), strict=False))
    return client


def _parse(text: str) -> Address | None:
    """An address as it stands in a header: with a port, in brackets, or bare."""
    node = _NODE.fullmatch(text.strip())
    if node is None:
        return None
    try:
        address = ip_address(node["v6"] or node["v4"] or node["bare_v6"])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
