"""What each of the operator's commands does, and its exit status."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import msgspec

from ..base.errors import EXIT_CONFIG
from ..http.forms import GroupView, Kicked, Outcome, Said, Status
from . import moderating
from .client import CommandFailed, Daemon, DaemonAway, NoAddress
from .screen import Report, printable, report, show_group, show_status
from .settings import find_admin

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h

RATE_SECONDS = 1.0
"""How long the counters are watched to tell the rates."""
WATCH_SECONDS = 2.0

_CLEAR_SCREEN = "\033[H\033[2J"


def run_command(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run one of the commands; returns the exit status."""
    try:
        return COMMANDS[arguments.command](arguments, _find_daemon(arguments, environ))
    except NoAddress as exc:
        return _fail(exc, EXIT_CONFIG)
    except DaemonAway as exc:
        return _fail(exc, EXIT_UNAVAILABLE)
    except CommandFailed as exc:
        return _fail(exc, EXIT_FAILED)
    except UnicodeEncodeError:
        return _fail(ValueError("the arguments must be UTF-8"), EXIT_FAILED)


def _find_daemon(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Daemon:
    """The daemon of the settings; mistakes in them are told, and matter only for its address."""
    address = find_admin(arguments.config, environ)
    for mistake in address.mistakes:
        print(f"fastimd: warning: {printable(mistake)}", file=sys.stderr)
    if address.bind is None:
        raise NoAddress("admin.bind is wrong itself: where the daemon is cannot be told")
    if address.is_assumed and arguments.command not in _ASKING:
        raise NoAddress(
            f"admin.bind cannot be read; to {arguments.command} at its default, give"
            f" FASTIMD_ADMIN__BIND={address.bind}"
        )
    if address.is_assumed:
        told = f"admin.bind cannot be read; asking at its default, {address.bind}"
        print(f"fastimd: warning: {told}", file=sys.stderr)
    return Daemon(address.bind)


def _fail(failure: Exception, status: int) -> int:
    print(f"fastimd: {printable(str(failure))}", file=sys.stderr)
    return status


def _status(arguments: argparse.Namespace, daemon: Daemon) -> int:
    before = daemon.read("status", Status)
    time.sleep(RATE_SECONDS)
    now = daemon.read("status", Status)
    _print_status(report(before, now), arguments)
    while arguments.watch:
        time.sleep(WATCH_SECONDS)
        before, now = now, daemon.read("status", Status)
        _print_status(report(before, now), arguments)
    return 0


def _print_status(status: Report, arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print(_as_json(status))
    else:
        clear = _CLEAR_SCREEN if arguments.watch and sys.stdout.isatty() else ""
        _print(clear + show_status(status))


def _group(arguments: argparse.Namespace, daemon: Daemon) -> int:
    query = urlencode({"group": arguments.group, "last": arguments.last})
    view = daemon.read(f"group?{query}", GroupView)
    _print(_as_json(view) if arguments.json else show_group(view))
    return 0


def _say(arguments: argparse.Namespace, daemon: Daemon) -> int:
    daemon.command("say", Said(arguments.group, arguments.user, arguments.text), Outcome)
    return 0


def _kick(arguments: argparse.Namespace, daemon: Daemon) -> int:
    told = daemon.command("kick", Kicked(arguments.user, arguments.group), Outcome).count
    _print(f"daemons told: {told}")
    return 0


def _purge(arguments: argparse.Namespace, daemon: Daemon) -> int:
    if not arguments.yes and not _agrees(arguments.group):
        print("fastimd: nothing was deleted", file=sys.stderr)
        return EXIT_FAILED
    deleted = daemon.purge(arguments.group)
    _print(f"messages deleted: {deleted}")
    return 0


def _agrees(group: str) -> bool:
    print(f"Delete all messages of group {printable(group)}? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print(text: str) -> None:
    encoding = sys.stdout.encoding
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _as_json(answer: msgspec.Struct) -> str:
    # In ASCII: it may hold what a terminal obeys.
    return json.dumps(json.loads(msgspec.json.encode(answer)))


def _moderate(arguments: argparse.Namespace, daemon: Daemon) -> int:
    if said := moderating.COMMANDS[arguments.command](arguments, daemon):
        _print(said)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Daemon], int]] = {
    "status": _status,
    "group": _group,
    "say": _say,
    "kick": _kick,
    "purge": _purge,
    **dict.fromkeys(moderating.COMMANDS, _moderate),
}
"""What runs each command, by its name."""
_ASKING = frozenset(("status", "group", "reports"))
"""Those that change nothing, so that another daemon than the one that is meant is no harm."""
