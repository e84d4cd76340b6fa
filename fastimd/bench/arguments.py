"""The arguments of the load generator."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..base.address import Address
from .dialect import FASTIMD, MIN_TEXT_BYTES

ADMIN = "127.0.0.1:9001"
"""The default of ``admin.bind``."""

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
WIRES = (FASTIMD.name, "live", "live-protobuf")
"""The names of ``DIALECTS``, without what those need."""
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
                choices=WIRES,
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
