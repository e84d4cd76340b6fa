"""The users of a run at the routes of a server: they log in before it and leave their groups after.

A user logs in even where sockets need no token: to leave a group takes one. A server that lets
nobody in is no reason not to measure it; ``trouble`` says why then, and what it leaves is told.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec

from ..base.address import Address

ANSWER_SECONDS = 10.0
REQUESTS_AT_ONCE = 8

_DONE, _NOT_DONE, _NOT_LOGGED_IN = 200, 100, 440

Item = TypeVar("Item")
OnProgress: TypeAlias = Callable[[str], None]


class Trouble(Exception):
    """A request that was not carried out; the text says why."""


class NoRoute(Trouble):
    """The server does not know the route."""


class NoAnswer(Trouble):
    """The server does not answer, and so not the next request either."""


class _Answer(msgspec.Struct):
    code: int = 0
    msg: str | None = None


class Accounts:
    """The users of a run at one of its servers, which share what they know.

    Args:
        password: of all of them.
    """

    def __init__(self, address: Address, password: str) -> None:
        self._routes = _Routes(address)
        self._password = password
        self.tokens: dict[str, str] = {}
        self.trouble = ""
        """Why a user has no token."""
        self.is_reached = True
        """Something answers at the server's address."""

    def log_in(self, users: Iterable[str], progress: OnProgress) -> None:
        """Give each user a token, as far as the server does so."""
        waiting = iter(users)
        for first in waiting:
            self._log_in(first)  # alone: a refusal is that of all
            break
        if not self.trouble:
            for_each(waiting, self._log_in_next, "logging in", progress)

    def leave(self, user: str, group: str) -> None:
        """Take a user out of a group, who need not be in it.

        Raises:
            NoRoute: the server cannot do that.
            NoAnswer: it is away.
            Trouble: it does not do it.
        """
        answer = self._leave(user, group)
        if answer.code == _NOT_LOGGED_IN:  # the token's life was shorter than the run
            self._log_in(user)
            answer = self._leave(user, group)
        if answer.code not in (_DONE, _NOT_DONE):
            raise Trouble(f"{answer.code} {answer.msg or ''}".rstrip())

    def _leave(self, user: str, group: str) -> _Answer:
        if user not in self.tokens:
            raise Trouble(self.trouble)
        headers = {"userId": user.encode(), "token": self.tokens[user].encode()}
        return self._routes.post("/user/leaveGroup", {"groupId": group}, headers)

    def _log_in_next(self, user: str) -> None:
        if not self.trouble:
            self._log_in(user)

    def _log_in(self, user: str) -> None:
        fields = {"userId": user, "password": self._password}
        try:
            answer = self._routes.post("/user/login", fields, {})
        except Trouble as exc:
            self.trouble = str(exc)
            self.is_reached = not isinstance(exc.__cause__, ConnectionRefusedError)
            return
        if answer.code == _DONE and answer.msg:
            self.tokens[user] = answer.msg
        else:
            self.trouble = f"{answer.code} {answer.msg or ''}".rstrip()


class _Routes:
    """The routes of a server; each thread has a connection of its own."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._of_thread = threading.local()

    def post(self, route: str, fields: Mapping[str, str], headers: Mapping[str, bytes]) -> _Answer:
        """Post a form.

        Raises:
            NoRoute: the server does not know the route.
            NoAnswer: it is away.
            Trouble: it does not answer as it should.
        """
        status, body = self._post(route, urlencode(fields), headers)
        if status in (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED):
            raise NoRoute(f"the server has no {route}")
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.MsgspecError, UnicodeError) as exc:
            raise Trouble(f"{route} answers HTTP {status}") from exc
        return answer

    def _post(self, route: str, form: str, headers: Mapping[str, bytes]) -> tuple[int, bytes]:
        given: dict[str, Any] = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        connection = self._connection()
        for may_be_stale in (True, False):
            try:
                connection.request("POST", self._address.prefix + route, form, given)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                if not may_be_stale or isinstance(exc, ConnectionRefusedError):
                    reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
                    raise NoAnswer(reason or type(exc).__name__) from exc
        raise AssertionError

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None
        connection = getattr(self._of_thread, "connection", None)
        if connection is None:
            host, port = self._address.host, self._address.port
            connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
            self._of_thread.connection = connection
        return connection


def for_each(
    items: Iterable[Item], do: Callable[[Item], object], what: str, progress: OnProgress
) -> None:
    """Do it for each item, several at the same time; what one raises ends it."""
    waiting, lock, stop = iter(items), threading.Lock(), threading.Event()
    done, told_at = 0, time.monotonic()

    def next_item() -> Item | None:
        nonlocal done, told_at
        with lock:
            if time.monotonic() - told_at >= 1:
                told_at = time.monotonic()
                progress(f"{what}: {done:,}")
            done += 1
            return None if stop.is_set() else next(waiting, None)

    def work() -> None:
        try:
            while (item := next_item()) is not None:
                do(item)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        workers = [pool.submit(work) for _ in range(REQUESTS_AT_ONCE)]
        try:
            for worker in workers:
                worker.result()
        finally:
            stop.set()
