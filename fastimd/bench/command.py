"""What ``fastimd bench`` does with what it was given, and its exit status."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

from redis import Redis, exceptions

from ..base.codec import check_id
from ..base.errors import BadParameter, FastimdError
from ..base.password import read_password
from ..base.signals import signals_raised
from .accounts import Accounts, OnProgress
from .dialect import FASTIMD
from .links import Unusable
from .live import LIVE, LIVE_PROTOBUF
from .report import Result
from .run import Failed, run
from .spec import Spec
from .traces import Operator, Traces
from .usage import Usage
from .worker import check

EXIT_UNSOUND = 1
EXIT_USAGE = 2
EXIT_FAILED = 3

ANY_PASSWORD = "bench"  # noqa: S105 - a daemon without a login hook takes any
DIALECTS = {dialect.name: dialect for dialect in (FASTIMD, LIVE, LIVE_PROTOBUF)}
"""What is spoken on each wire, by its name."""

_CLEAR_LINE = "\r\033[K"

_FIELDS = {field for field in Spec.__dataclass_fields__ if field not in ("addresses", "dialect")}
_LOGIN_REQUIRED = ("login required", "3500 invalid token")
"""What a server closes a socket with whose token is not good, on either wire."""


def run_command(
    arguments: argparse.Namespace, find_operator: Callable[[str], Operator | None]
) -> int:
    """Do what the arguments say, print the result, and return the exit status.

    Args:
        find_operator: gets what ``--admin`` says; ``FastimdError`` or ``ValueError`` when it is no
            address.
    """
    remaining: list[str] = []
    try:
        return _run(arguments, find_operator, remaining)
    finally:
        for line in remaining:
            print(f"fastimd bench: {line}", file=sys.stderr)


def _run(
    arguments: argparse.Namespace,
    find_operator: Callable[[str], Operator | None],
    remaining: list[str],
) -> int:
    url = getattr(arguments, "redis", None)
    try:
        with signals_raised((SIGINT, SIGTERM, SIGHUP)):
            redis = None if url is None else Redis.from_url(url)
            operator = _operator(arguments.admin, find_operator)
            accounts = Accounts(arguments.address[0], _password(arguments.password_file))
            spec = _spec(arguments)
            check(spec)
            Usage.of(arguments.pid)
            result = _measure(spec, arguments.pid, redis, accounts, operator, remaining)
    except (Unusable, ValueError, exceptions.RedisError) as exc:
        print(f"fastimd bench: {exc}", file=sys.stderr)
        return EXIT_USAGE
    except Failed as exc:
        print(f"fastimd bench: no result: {exc}", file=sys.stderr)
        return EXIT_FAILED
    print(result.as_json() if arguments.json else result.as_table())
    return 0 if result.is_sound else EXIT_UNSOUND


def _measure(
    spec: Spec,
    pids: list[int],
    redis: Redis | None,
    accounts: Accounts,
    operator: Operator | None,
    remaining: list[str],
) -> Result:
    """Log in, do the run, and take away what it left, also when it broke off.

    Args:
        remaining: gets what could not be taken away.
    """
    progress = _progress()
    traces = Traces(spec, accounts, operator, progress)
    is_settled = False
    try:
        accounts.log_in(spec.user_ids, progress)
        result = run(
            replace(spec, tokens=accounts.tokens), pids=pids, redis=redis, progress=progress
        )
        is_settled = True
    except Failed as exc:
        if not any(reason in str(exc) for reason in _LOGIN_REQUIRED):
            raise
        why = f"the server does not log {spec.user(0)} in ({accounts.trouble})"
        raise Failed(f"{exc}: {why}; give --users and --password-file") from exc
    finally:
        try:
            if accounts.is_reached:
                traces.remove(is_settled=is_settled)
        finally:
            progress("")
            if accounts.is_reached:
                remaining.extend(traces.remaining())
    return result


def _spec(arguments: argparse.Namespace) -> Spec:
    given = {name: value for name, value in vars(arguments).items() if name in _FIELDS}
    name = secrets.token_hex(4)
    users = given.pop("users") or f"bench-{name}-"
    dialect = DIALECTS[getattr(arguments, "wire", FASTIMD.name)]
    addresses = tuple(arguments.address)
    spec = Spec(addresses=addresses, dialect=dialect, run=name, users=users, **given)
    try:
        check_id("--users", spec.user(spec.sockets))
    except BadParameter as exc:
        raise Unusable(str(exc)) from exc
    return spec


def _operator(bind: str, find_operator: Callable[[str], Operator | None]) -> Operator | None:
    try:
        return find_operator(bind)
    except (FastimdError, ValueError) as exc:
        raise Unusable(f"--admin {bind}: {exc}") from exc


def _password(path: Path | None) -> str:
    if path is None:
        return ANY_PASSWORD
    try:
        return read_password(path)
    except ValueError as exc:
        raise Unusable(f"--password-file {exc}") from exc


def _progress() -> OnProgress:
    """Shows one line that changes on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda _line: None
    return lambda line: print(f"{_CLEAR_LINE}{line}", end="", file=sys.stderr, flush=True)
