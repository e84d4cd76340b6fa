"""Where a server is, for those who speak to one: the terminal client and the load generator."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

_WANTED = "not an address like ws://HOST:PORT/"
_SECURE = {"ws": False, "http": False, "wss": True, "https": True}


@dataclass(frozen=True)
class Address:
    """Of ``ws://HOST[:PORT][/PREFIX]``; ``wss``, ``http`` and ``https`` are as good.

    ``prefix`` is a path before the server's own, when a proxy in front has one.
    """

    is_secure: bool
    host: str
    port: int
    prefix: str

    @classmethod
    def read(cls, url: str) -> Address:
        """Read an address.

        Raises:
            ValueError: it is none.
        """
        try:
            parts = urlsplit(url)
            host, port, path = parts.hostname, parts.port, quote(parts.path, safe="/%")
        except ValueError as exc:
            raise ValueError(f"{_WANTED}: {url} ({exc})") from exc
        if parts.scheme not in _SECURE or not host or port == 0:
            raise ValueError(f"{_WANTED}: {url}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address has no user and no password; use --user")
        if parts.query or parts.fragment:
            raise ValueError(f"an address has nothing behind its path: {url}")
        is_secure = _SECURE[parts.scheme]
        return cls(is_secure, host, port or (443 if is_secure else 80), path.rstrip("/"))

    @property
    def authority(self) -> str:
        """``HOST[:PORT]``, as the header ``Host`` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"

    @property
    def http(self) -> str:
        """The URL that the routes follow."""
        return f"http{'s' if self.is_secure else ''}://{self.authority}{self.prefix}"

    def __str__(self) -> str:
        return f"ws{'s' if self.is_secure else ''}://{self.authority}{self.prefix}/"
