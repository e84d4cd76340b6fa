"""Daemons that need not load Python and fastimd first, which is most of what a start costs.

A process loads the daemon's modules once and forks at each ``start``. What a fork would have
otherwise than a process that begins from nothing is handed over with it: directory, environment,
arguments, limits and descriptors. Where that would not do, ``start`` returns None, and the daemon
has to start cold: where the environment beyond fastimd's own differs from the one that the modules
were loaded in, but for more folders to load from, or where one of these has a module of a name that
is loaded already.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

OURS = ("FASTIMD_", "PYTEST_", "PYTHONPATH")
"""What the names of variables begin with that no module looks at while it is loaded."""
OF_EACH_START = {"sitecustomize", "usercustomize"}
"""Modules that Python loads before all others, if there are any."""
REQUEST_BYTES = 2**16


class Warm(subprocess.Popen[bytes]):
    """A forked daemon, as if it were a child of ours.

    Args:
        channel: tells its exit status when it has ended.
    """

    def __init__(self, channel: socket.socket, pid: int, arguments: Sequence[str]) -> None:
        self.args = list(arguments)
        self.stdin = self.stdout = self.stderr = None
        self.returncode: int | None = None
        self._channel = channel
        self.pid = pid

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            milliseconds = None if timeout is None else timeout * 1000
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            if not poll.poll(milliseconds):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._channel.recv(100))
            self._channel.close()
        return self.returncode


class _Forge:
    """The process that forks, started when it is needed first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def fork(
        self, arguments: Sequence[str], folder: Path, env: dict[str, str], log: int
    ) -> Warm | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": env,
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        with theirs:
            descriptors = [theirs.fileno(), 1, log]
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
        if pid := int(ours.recv(100)):
            return Warm(ours, pid, ["fastimd", *arguments])
        ours.close()
        return None

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


_forge: _Forge | None = None


def start(arguments: Sequence[str], folder: Path, env: dict[str, str], log: int) -> Warm | None:
    """Run ``fastimd`` in a folder with this environment; None where it has to start cold.

    Args:
        log: the descriptor that is its standard error.
    """
    global _forge
    outer = {name: env[name] for name in env if not name.startswith(OURS)}
    if _forge is None:
        _forge = _Forge(outer)
    return _forge.fork(arguments, folder, env, log) if outer == _forge.environment else None


# In the process that forks


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork at each request, and tell the ends of the forks.

    Returns:
        the request, in the fork that it is for, or None when there will be no more.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                _tell_end(descriptor, *running.pop(descriptor))
                continue
            data, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 3)
            if not data:
                return None
            channel, *outputs = descriptors
            request = dict(json.loads(data))
            pid = os.fork() if _can_be_warm(request) else -1
            if not pid:
                for target, output in enumerate(outputs, 1):
                    os.dup2(output, target)
                return request
            for output in outputs:
                os.close(output)
            if pid == -1:
                os.write(channel, b"0")
                os.close(channel)
                continue
            watched = os.pidfd_open(pid)
            os.write(channel, b"%d" % pid)
            poll.register(watched, select.POLLIN)
            running[watched] = (pid, channel)


def _folders(request: dict[str, Any]) -> list[str]:
    """What a daemon looks for modules in before all others."""
    more = request["environment"].get("PYTHONPATH", "")
    return [request["folder"], *filter(None, more.split(os.pathsep))]


def _can_be_warm(request: dict[str, Any]) -> bool:
    """Whether it would load no other modules than those that are loaded here."""
    found = {
        name.partition(".")[0]
        for folder in _folders(request)
        if os.path.isdir(folder)
        for name in os.listdir(folder)
    }
    return not found & (sys.modules.keys() | OF_EACH_START)


def _tell_end(watched: int, pid: int, channel: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(channel, b"%d" % os.waitstatus_to_exitcode(status))
    os.close(watched)
    os.close(channel)


def _become(request: dict[str, Any], sources: Sequence[random.Random]) -> None:
    """Be as if begun from nothing; ``sources`` are those that modules took their chances from."""
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    sys.path[0:1] = _folders(request)
    for source in sources:
        source.seed()


if __name__ == "__main__":
    # Ctrl-C ends the tests, and so the requests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("run", "tree", "public"):
        import_module(f"fastimd.daemon.{name}")
    from fastimd.__main__ import main

    sources = [each for each in gc.get_objects() if type(each) is random.Random]
    with socket.socket(fileno=int(sys.argv[1])) as control:
        request = _serve(control)
    if request is not None:
        _become(request, sources)
        main()
