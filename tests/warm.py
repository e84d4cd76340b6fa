"""Daemons and commands that need not load Python and fastimd first: most of what a start costs.

A process loads the daemon's modules once and forks at each ``start`` or ``run``. What a fork would
have otherwise than a process that begins from nothing is handed over with it: directory,
environment, arguments, limits and descriptors. Where that would not do, both return None, and it
has to start cold: where the environment beyond fastimd's own differs from the one that the modules
were loaded in, but for more folders to load from, or where one of these has another module of a
name that is loaded already.
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
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

OURS = ("FASTIMD_", "PYTEST_", "PYTHONPATH")
"""What the names of variables begin with that no module looks at while it is loaded."""
OF_EACH_START = {"sitecustomize", "usercustomize"}
"""Modules that Python loads before all others, if there are any."""
REQUEST_BYTES = 2**16
TYPED_BYTES = 2**16
"""So much is taken by a pipe that nobody reads yet."""


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
    """A process that forks, started when it is needed first."""

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
        self,
        arguments: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        descriptors: tuple[int, int, int],
    ) -> Warm | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(env),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        with theirs:
            sent = [theirs.fileno(), *descriptors]
            socket.send_fds(self._control, [json.dumps(request).encode()], sent)
        if pid := int(ours.recv(100)):
            return Warm(ours, pid, ["fastimd", *arguments])
        ours.close()
        return None

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


_forges: dict[str | None, _Forge] = {}
_beginning = threading.Lock()


def start(arguments: Sequence[str], folder: Path, env: dict[str, str], log: int) -> Warm | None:
    """Run ``fastimd`` in a folder with this environment; None where it has to start cold.

    Args:
        log: the descriptor that is its standard error.
    """
    with open(os.devnull, "rb") as nothing:
        return _fork(arguments, folder, env, (nothing.fileno(), 1, log))


def run(
    arguments: Sequence[str], folder: Path, env: Mapping[str, str], typed: str, seconds: float
) -> subprocess.CompletedProcess[str] | None:
    """Run ``fastimd`` to its end; None where it has to start cold.

    Args:
        typed: what it finds on standard input.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time, and was killed.
    """
    if len(typed.encode()) > TYPED_BYTES:
        return None
    entry, given = os.pipe()
    with ExitStack() as stack:
        stdin = stack.enter_context(os.fdopen(entry, "rb"))
        with os.fdopen(given, "wb") as typing:
            typing.write(typed.encode())
        out, err = (stack.enter_context(TemporaryFile("w+")) for _ in range(2))
        descriptors = (stdin.fileno(), out.fileno(), err.fileno())
        process = _fork(arguments, folder, env, descriptors)
        if process is None:
            return None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read())
        return subprocess.CompletedProcess(process.args, status, *said)


def _fork(
    arguments: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    descriptors: tuple[int, int, int],
) -> Warm | None:
    outer = {name: env[name] for name in env if not name.startswith(OURS)}
    with _beginning:
        # Daemons end at a warning, as commands do not: what is loaded knows which it is.
        forge = _forges.get(outer.get("PYTHONWARNINGS"))
        if forge is None:
            forge = _forges[outer.get("PYTHONWARNINGS")] = _Forge(outer)
    if outer != forge.environment:
        return None
    return forge.fork(arguments, folder, env, descriptors)


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
            data, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 4)
            if not data:
                return None
            channel, *outputs = descriptors
            request = dict(json.loads(data))
            pid = os.fork() if _can_be_warm(request) else -1
            if not pid:
                for target, output in enumerate(outputs):
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
    loaded = sys.modules.keys() | OF_EACH_START
    if str(Path(import_module("fastimd").__path__[0]).parent) == request["folder"]:
        loaded.remove("fastimd")  # the very one that is loaded
    return not found & loaded


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
