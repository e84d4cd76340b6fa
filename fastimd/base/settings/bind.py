"""Addresses to listen on, as they stand in the settings: HOST:PORT, [v6]:PORT and unix:/PATH."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

_BIND = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>\w[\w.-]*)):(?P<port>[0-9]{1,5})", re.ASCII)
_UNIX_PATH_BYTES = 107  # sun_path of unix(7), less its end


def parse_bind(value: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` or ``[v6]:PORT``; port 0 means one that is free.

    Returns:
        The host, without brackets, and the port.

    Raises:
        ValueError: it is neither.
    """
    match = _BIND.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("neither HOST:PORT nor [v6]:PORT")
    host = match["host"]
    if host is None:
        host = str(ipaddress.IPv6Address(match["v6"]))
    elif host.replace(".", "").isdigit():
        host = str(ipaddress.IPv4Address(host))
    return host, int(match["port"])


def unix_path(bind: str) -> Path | None:
    """Read ``unix:/PATH``; None when it is another kind of address.

    Raises:
        ValueError: the path is none that a socket can have.
    """
    if not bind.startswith("unix:/"):
        return None
    path = bind.removeprefix("unix:")
    if path.startswith("//") or "\0" in path or len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise ValueError("not the path of a socket")
    return Path(path)
