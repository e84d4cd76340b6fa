"""How the daemon asks other servers over HTTP: one kind of client, bounded answers, causes.

How long it may take is the caller's to bound.
"""

from __future__ import annotations

import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from .. import __version__


def make_client(trust: ssl.SSLContext, connections: int) -> httpx.AsyncClient:
    """A client that asks the server it is told to, and nobody else.

    Args:
        trust: whom to believe; the making of it takes a while.
        connections: how many are kept open for later.
    """
    return httpx.AsyncClient(
        headers={
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"fastimd/{__version__}",
        },
        verify=trust,
        timeout=None,  # noqa: S113 - the caller has a deadline
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),
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
