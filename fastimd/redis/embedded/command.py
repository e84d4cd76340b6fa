"""The command line of the server, and what ties its life to that of the daemon.

When the daemon is killed outright, the kernel sends the server SIGTERM (PR_SET_PDEATHSIG). That
must be set between fork and exec, which a small Python program does that then becomes redis-server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Runs isolated and without site: argv is [-c, pid of the daemon, redis-server, arguments...].
# Python ignores SIGPIPE and SIGXFSZ at its start, and exec would hand that on.
_TIE_TO_PARENT_AND_EXEC = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM)) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the daemon ended before redis-server was started")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


def server_arguments(data_dir: Path, socket_path: Path) -> list[str]:
    """The server's whole configuration; understood by redis-server 6.2 and later."""
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
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def tied_command(executable: Path, arguments: list[str]) -> list[str]:
    """The command that becomes the server; on Linux the server ends when the daemon does."""
    server = [str(executable), *arguments]
    if sys.platform != "linux":
        return server
    return [
        sys.executable,
        *("-I", "-S", "-c", _TIE_TO_PARENT_AND_EXEC),
        str(os.getpid()),
        *server,
    ]
