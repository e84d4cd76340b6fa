"""Child processes: tied to the life of their parent, and waited for without polling.

When the parent is killed outright, the kernel sends the child a signal (PR_SET_PDEATHSIG). That
must be set between fork and exec, which a small Python program does that then becomes the child's.
The signal is sent when the thread ends that forked: it must be the one that Trio runs in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from signal import Signals

import trio

# Runs isolated and without site: argv is [-c, pid of the parent, signal, program, arguments...].
# Python ignores SIGPIPE and SIGXFSZ at its start, and exec would hand that on.
_TIE_TO_PARENT_AND_EXEC = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(int(sys.argv[2]))) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the daemon ended before " + sys.argv[3] + " was started")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execv(sys.argv[3], sys.argv[3:])
"""


def tied_command(command: Sequence[str], at_death: Signals) -> list[str]:
    """The command that becomes ``command``, which on Linux gets a signal when this process dies."""
    if sys.platform != "linux":
        return list(command)
    tie = ("-I", "-S", "-c", _TIE_TO_PARENT_AND_EXEC, str(os.getpid()), str(int(at_death)))
    return [sys.executable, *tie, *command]


async def wait_exit(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the process and reap it, without polling."""
    if process.poll() is not None:
        return
    pidfd = _open_pidfd(process.pid)
    if pidfd is None:
        limiter = trio.CapacityLimiter(1)  # this thread lives long: it takes nobody's place
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True, limiter=limiter)
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    process.wait()


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that turns readable when the process ends, where the system has them."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3, or a sandbox that forbids it: a thread waits instead
        return None
