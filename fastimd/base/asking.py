"""How the daemon asks other servers over HTTP: one kind of client, bounded answers, causes.

How long it may take is the caller's to bound.
"""

from __future__ import annotations

import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from .. import __version__


def make_client(trust: ssl.SSLContext, connections: int) -> httpx.AsyncClient:
    """A client that asks the server it is told to, and nobody else.

    Args:
        trust: whom to believe; the making of it takes a while.
        connections: how many are kept open for later.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=connections)
    return _client(httpx.AsyncHTTPTransport(verify=trust, limits=limits, trust_env=False))


def make_local_client(socket: Path) -> httpx.AsyncClient:
    """A client of the server at a unix socket: what it asks for are paths."""
    transport = httpx.AsyncHTTPTransport(verify=False, uds=str(socket), trust_env=False)
    return _client(transport, base_url="http://localhost")


def _client(transport: httpx.AsyncHTTPTransport, base_url: str = "") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers={
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"fastimd/{__version__}",
        },
        timeout=None,  # noqa: S113 - the caller has a deadline
        follow_redirects=False,  # what is meant for one server is not for another
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # one user's are not another's
    )


async def read_body(response: httpx.Response, most: int) -> bytes | None:
    """The body, as it came: what is compressed is not asked for. None if it is too long."""
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > most:
                # The next read fails, and so ends each of the generators that are in one another:
                # Trio warns of those that are left as they are.
                await response.aclose()
    except httpx.TransportError:
        if len(body) <= most:
            raise
    return bytes(body) if len(body) <= most else None


def first_cause(failure: BaseException) -> BaseException:
    """What the system or TLS says: what is made of it says less, or nothing."""
    before: BaseException | None = failure
    while before is not None:
        failure = before.exceptions[0] if isinstance(before, BaseExceptionGroup) else before
        before = failure.__cause__ or failure.__context__  # httpcore hides what it comes from
    return failure
