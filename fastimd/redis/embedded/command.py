"""The command line of the server."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

from ...base.child import tied_command


def server_command(executable: Path, data_dir: Path, socket_path: Path) -> list[str]:
    """The command that becomes the server, redis-server 6.2 or later, with its configuration.

    When the daemon is killed outright, the server gets SIGTERM.
    """
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "loglevel": "notice",
        "logfile": "",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return tied_command([str(executable), *words], SIGTERM)
