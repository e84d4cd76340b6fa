"""Asks a running daemon over its admin address, HTTP on TCP or on a unix socket.

OperateError
├── NoAddress      the settings name no address that a daemon could be found at
├── DaemonAway     nothing answers there, or what answers is no fastimd
└── CommandFailed  the daemon answers that it cannot do that
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import TypeVar

import msgspec

from ..base.errors import FastimdError
from ..base.settings import parse_bind, unix_path
from ..http.forms import COMMAND_HEADER, DESK, LoggedOut, Outcome, Purged

ANSWER_SECONDS = 10.0
"""How long a daemon may take to answer; it answers within its own deadlines on Redis."""

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

_Answer = TypeVar("_Answer")


class OperateError(FastimdError):
    """A command that was not carried out; the message is one line."""


class NoAddress(OperateError):
    """The daemon of these settings has no admin address, or one that changes."""


class DaemonAway(OperateError):
    """No daemon answers at its admin address."""


class CommandFailed(OperateError):
    """The daemon says why not."""


class _Failure(msgspec.Struct):
    error: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


class Daemon:
    """The daemon whose admin address is ``bind``, a value of ``admin.bind``.

    Raises:
        NoAddress: a daemon cannot be found by it.
    """

    def __init__(self, bind: str) -> None:
        if not bind:
            raise NoAddress('admin.bind is "": the daemon has no admin address')
        if unix_path(bind) is None and parse_bind(bind)[1] == 0:
            raise NoAddress("admin.bind has port 0: which one it is only the daemon's log says")
        self._bind = bind

    def read(self, what: str, kind: type[_Answer]) -> _Answer:
        """Ask a question; ``what`` is its path at the desk, with its query.

        Raises:
            DaemonAway: nobody answers.
            CommandFailed: the daemon answers with a refusal.
        """
        return self._ask("GET", what, None, kind)

    def command(self, what: str, body: msgspec.Struct, kind: type[_Answer]) -> _Answer:
        """Have something done; errors as with ``read``."""
        return self._ask("POST", what, msgspec.json.encode(body), kind)

    def purge(self, group: str) -> int:
        """Delete the messages of a group; returns how many there were. Errors as with ``read``."""
        return self.command("purge", Purged(group), Outcome).count

    def log_out(self, user: str, token: str) -> int:
        """End a user's login if the token is its own; returns how many ended."""
        return self.command("log-out", LoggedOut(user, token), Outcome).count

    def _ask(self, method: str, what: str, body: bytes | None, kind: type[_Answer]) -> _Answer:
        headers = {COMMAND_HEADER: "1", "Content-Type": "application/json"}
        connection = self._connection()
        try:
            connection.request(method, DESK + what, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as exc:
            reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            raise self._away(reason or type(exc).__name__) from exc
        finally:
            connection.close()
        try:
            if response.status != http.client.OK:
                raise CommandFailed(msgspec.json.decode(answer, type=_Failure).error)
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.MsgspecError, UnicodeError) as exc:
            raise self._away("what answers there is no fastimd, or another version") from exc

    def _connection(self) -> http.client.HTTPConnection:
        path = unix_path(self._bind)
        if path is not None:
            return _UnixConnection(path)
        host, port = parse_bind(self._bind)
        return http.client.HTTPConnection(_ANYWHERE.get(host, host), port, timeout=ANSWER_SECONDS)

    def _away(self, reason: str) -> DaemonAway:
        return DaemonAway(f"no daemon answers at admin.bind {self._bind}: {reason}")
