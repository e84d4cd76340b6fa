"""URLs that the daemon itself asks something of."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_url(value: str) -> None:
    """Check that a setting is "" or an http:// or https:// URL of a server.

    Raises:
        ValueError: it is neither.
    """
    if not value:
        return
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("not a URL of a server")
    if parts.fragment or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("not a URL of a server")
    import httpx  # here, because without such a URL nobody needs an HTTP client

    try:
        _ = httpx.URL(value).host  # it is read more strictly than by urlsplit
    except httpx.InvalidURL as exc:
        raise ValueError("not a URL of a server") from exc
