"""What a daemon begins with: the listeners that systemd has opened, and where Redis is."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path

import trio

from ..base import systemd
from ..base.errors import StartupError
from ..base.settings import Config, default_data_dir
from ..base.supervise import start
from ..door.listeners import send_at_once
from ..redis.embedded import serve_embedded


def take_listeners(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """What systemd has passed on for ``http`` and for ``admin``.

    A single socket of any name is the public one.

    Raises:
        StartupError: there is a name that means nothing here, or what is no listening socket.
    """
    inherited = systemd.take_listeners(environ)
    for listeners in inherited.values():
        for listener in listeners:
            send_at_once(listener)
    known: dict[str, list[socket.socket]] = {"http": [], "admin": []}
    unknown = sorted(inherited.keys() - known.keys())
    if unknown and len(inherited) == 1:
        return known | {"http": inherited[unknown[0]]}
    if unknown:
        raise StartupError(
            f"systemd passes on a socket named {unknown[0]!r}; FileDescriptorName= is http or admin"
        )
    return known | inherited


async def open_redis(config: Config, floor: trio.Nursery) -> str:
    """The URL of Redis, after starting the embedded one if it is that."""
    if config.redis.url != "embedded":
        return config.redis.url
    data_dir = Path(config.redis.data_dir or default_data_dir(os.environ))
    socket_path = await start(floor, "embedded redis", partial(serve_embedded, data_dir))
    return f"unix://{socket_path}"
