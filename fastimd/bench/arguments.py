"""The command line of the load generator."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any, TypeVar

from redis import Redis, exceptions

from ..base.address import Address
from ..base.codec import check_id
from ..base.errors import BadParameter, FastimdError
from ..base.password import read_password
from ..base.signals import signals_raised
from .accounts import Accounts, OnProgress
from .dialect import FASTIMD, MIN_TEXT_BYTES
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
ADMIN = "127.0.0.1:9001"
"""The default of ``admin.bind``."""

_CLEAR_LINE = "\r\033[K"

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class _Mode:
    """A mode and the numbers that it takes, with their defaults."""

    help: str
    numbers: dict[str, int | float]


_MODES = {
    "burst": _Mode(
        "one group and one talker with several messages in flight",
        {"members": 100, "in_flight": 16, "at_once": 8, "rate": 0.0, "warm_up": 2.0},
    ),
    "talk": _Mode(
        "groups in which everyone talks",
        {"groups": 100, "members": 5, "in_flight": 1, "rate": 0.0, "warm_up": 2.0},
    ),
    "idle": _Mode(
        "silent sockets: their cost, and how fast they connect",
        {"groups": 100, "members": 10, "groups_each": 1, "opening": 128},
    ),
    "storm": _Mode(
        "sockets that all drop and reconnect at once",
        {"groups": 100, "members": 10, "groups_each": 1},
    ),
    "list": _Mode(
        "group-list sockets, with some of the groups active",
        {
            "members": 100,
            "groups": 200,
            "groups_each": 20,
            "active": 10,
            "rate": 1.0,
            "warm_up": 2.0,
        },
    ),
}

_HELP = {
    "members": "sockets per group; for list, sockets in total",
    "groups": "groups",
    "in_flight": "messages that a talker may have in flight",
    "at_once": "messages that a talker writes at once",
    "rate": "messages a second in total, or per active group; 0 = as fast as in_flight allows",
    "warm_up": "seconds of talk before measuring starts",
    "opening": "concurrent handshakes per process",
    "groups_each": "groups per socket; more than 1 for a list or on the live wire",
    "active": "groups with a talker",
}
_WIRES = {dialect.name: dialect for dialect in (FASTIMD, LIVE, LIVE_PROTOBUF)}
_MAY_BE_ZERO = ("rate", "warm_up", "active")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``fastimd bench``."""
    modes = parser.add_subparsers(dest="mode", metavar="MODE", required=True)
    for name, mode in _MODES.items():
        sub = modes.add_parser(
            name, help=mode.help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument(
            "address", nargs="+", type=_address, help="ws://HOST:PORT; several are used in turn"
        )
        for number, default in mode.numbers.items():
            _add_number(sub, number, default)
        if name != "list":
            sub.add_argument(
                "--wire",
                choices=_WIRES,
                default=FASTIMD.name,
                help="Fast-IM, or the live wire as JSON or Protobuf",
            )
        if name not in ("idle", "storm"):
            _add(sub, "size", at_least(int, MIN_TEXT_BYTES), 64, "bytes per message")
            _add(sub, "messages", at_least(int, 0), 0, "messages to measure; 0 = measure by time")
        if name != "storm":
            _add(sub, "seconds", at_least(float, 0.1), 10.0, "how long to measure")
        _add(sub, "processes", at_least(int, 1), 1, "processes of the load generator")
        sub.add_argument(
            "--pid",
            type=int,
            action="append",
            default=[],
            help="a server process whose resources to report",
        )
        if name == "list":
            sub.add_argument(
                "--redis", metavar="URL", help="the servers' Redis, to count its commands"
            )
        _add_accounts(sub)
        sub.add_argument("--json", action="store_true", help="print one line of JSON")


def _add_accounts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--users",
        metavar="PREFIX",
        help="use the users PREFIX0, PREFIX1 and so on; by default the run makes its own",
    )
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file with the password of all users"
    )
    parser.add_argument(
        "--admin",
        default=ADMIN,
        metavar="BIND",
        help="the servers' admin.bind, to delete messages and logins at the end; '' = keep them",
    )


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
    dialect = _WIRES[getattr(arguments, "wire", FASTIMD.name)]
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


_FIELDS = {field for field in Spec.__dataclass_fields__ if field not in ("addresses", "dialect")}
_LOGIN_REQUIRED = ("login required", "3500 invalid token")
"""What a server closes a socket with whose token is not good, on either wire."""


def _add_number(parser: argparse.ArgumentParser, name: str, default: float) -> None:
    kind: Any = type(default)
    least = 0 if name in _MAY_BE_ZERO else 1
    _add(parser, name, at_least(kind, least), default, _HELP[name])


def _add(
    parser: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], float],
    default: float,
    meaning: str,
) -> None:
    option = "--" + name.replace("_", "-")
    parser.add_argument(option, type=kind, default=default, metavar="N", help=meaning)


def at_least(kind: type[Number], least: float) -> Callable[[str], Number]:
    """Reads a number."""

    def read(text: str) -> Number:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {least:g} or more, not {text}")
        return value

    read.__name__ = kind.__name__
    return read


def _address(text: str) -> Address:
    try:
        address = Address.read(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if address.is_secure:
        raise argparse.ArgumentTypeError(f"TLS is not measured: {text}")
    return address


def _progress() -> OnProgress:
    """Shows one line that changes on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda _line: None
    return lambda line: print(f"{_CLEAR_LINE}{line}", end="", file=sys.stderr, flush=True)
