"""What the commands do that are those of moderators."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import msgspec

from ..groups.moderation import bodies
from .client import CommandFailed, Daemon
from .screen import moment, printable


class _Nothing(msgspec.Struct):
    """That it is done."""


class _Users(msgspec.Struct):
    users: list[str]


class _Deleted(msgspec.Struct):
    deleted: int


class Reports(msgspec.Struct):
    """What members have reported."""

    reports: list[bodies.Report]


def restrain(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Ban or mute a user."""
    body = {
        **_of_user(arguments),
        "seconds": arguments.seconds,
        "reason": arguments.reason,
    }
    daemon.command(arguments.command, _checked(bodies.Restraint, body), _Nothing)
    return ""


def lift(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Unban or unmute a user."""
    body = _checked(bodies.OfUser, _of_user(arguments))
    daemon.command(arguments.command, body, _Nothing)
    return ""


def slow(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Put time between two messages of a user."""
    body = {"channel": arguments.group, "seconds": arguments.seconds}
    daemon.command("slow_mode", _checked(bodies.SlowMode, body), _Nothing)
    return ""


def mute_all(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Let only moderators write, or everybody again."""
    body = {"channel": arguments.group, "on": arguments.state == "on"}
    daemon.command("mute_all", _checked(bodies.MuteAll, body), _Nothing)
    return ""


def moderator(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Change the moderators, and tell who they are."""
    body = {"channel": arguments.group, "add": arguments.add, "remove": arguments.remove}
    users = daemon.command("moderators", _checked(bodies.Moderators, body), _Users).users
    return "\n".join(map(printable, users)) or "no moderators"


def delete(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Delete a message, or all of a user."""
    if arguments.user is not None:
        body = _checked(bodies.OfUser, _of_user(arguments))
        return f"messages deleted: {daemon.command('delete_messages_of', body, _Deleted).deleted}"
    message = _checked(bodies.OfMessage, {"channel": arguments.group, "ts": arguments.ts})
    daemon.command("delete_message", message, _Nothing)
    return "messages deleted: 1"


def reports(arguments: argparse.Namespace, daemon: Daemon) -> str:
    """Tell what members have reported."""
    body = _checked(bodies.OfGroup, {"channel": arguments.group})
    found = daemon.command("reports", body, Reports)
    if arguments.json:
        return json.dumps(msgspec.to_builtins(found))  # in ASCII, as a terminal may obey it
    return "\n".join(map(_shown, found.reports)) or "no reports"


def _shown(report: bodies.Report) -> str:
    at = moment(report.at / 1000)
    said = f"{at} {report.by} reports {report.ts} of {report.user}: {report.reason}"
    return printable(said)


def _of_user(arguments: argparse.Namespace) -> dict[str, object]:
    return {"channel": arguments.group, "user": arguments.user}


def _checked(kind: type[msgspec.Struct], body: dict[str, object]) -> msgspec.Struct:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        raise CommandFailed(str(exc)) from None


COMMANDS: dict[str, Callable[[argparse.Namespace, Daemon], str]] = {
    "ban": restrain,
    "unban": lift,
    "mute": restrain,
    "unmute": lift,
    "slow": slow,
    "mute-all": mute_all,
    "moderator": moderator,
    "delete": delete,
    "reports": reports,
}
"""What does each command, and returns what is printed."""
