"""The arguments of the operator's commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_arguments(
    add_command: Callable[[str, str, str], argparse.ArgumentParser],
) -> None:
    """Add the commands' arguments.

    Args:
        add_command: makes the parser of a command from its name, its help and an example.
    """
    status = add_command("status", "show the daemon's status", "fastimd status --watch")
    status.add_argument("--json", action="store_true", help="one line of JSON, for programs")
    status.add_argument("--watch", action="store_true", help="repeat every 2 seconds, until Ctrl-C")
    group = add_command(
        "group", "show a group's members on this daemon and its last messages", "fastimd group 7"
    )
    group.add_argument("group", metavar="GROUP", help="the group's id")
    group.add_argument(
        "--last", type=int, default=10, metavar="N", help="show the last N messages (10)"
    )
    group.add_argument("--json", action="store_true", help="one line of JSON, for programs")
    say = add_command(
        "say", "send a message to a group", "fastimd say 7 'Back in five minutes.' --as operator"
    )
    say.add_argument("group", metavar="GROUP", help="the group's id")
    say.add_argument("text", metavar="TEXT", help="the message")
    say.add_argument(
        "--as", dest="user", metavar="USER", required=True, help="the sender's user id"
    )
    kick = add_command("kick", "close a user's sockets on every daemon", "fastimd kick 3 --group 7")
    kick.add_argument("user", metavar="USER", help="the user's id")
    kick.add_argument("--group", metavar="GROUP", help="only the sockets in this group")
    purge = add_command("purge", "delete all messages of a group", "fastimd purge 7 --yes")
    purge.add_argument("group", metavar="GROUP", help="the group's id")
    purge.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    _add_moderation(add_command)


def _add_moderation(add_command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that do what moderators do."""
    for name, what in (("ban", "keep a user out of a group"), ("mute", "silence a user")):
        restrain = _of_user(add_command(name, what, f"fastimd {name} 7 3 --for 3600"))
        restrain.add_argument(
            "--for",
            dest="seconds",
            type=int,
            default=0,
            metavar="SECONDS",
            help="for how long (0: until it is lifted)",
        )
        restrain.add_argument("--reason", default="", metavar="TEXT", help="what the user is told")
    _of_user(add_command("unban", "let a banned user in again", "fastimd unban 7 3"))
    _of_user(add_command("unmute", "let a muted user speak again", "fastimd unmute 7 3"))
    slow = _of_group(
        add_command("slow", "put time between two messages of a user", "fastimd slow 7 30")
    )
    slow.add_argument("seconds", type=int, metavar="SECONDS", help="how much (0: none)")
    all_ = _of_group(
        add_command("mute-all", "let only moderators write, or everybody", "fastimd mute-all 7 on")
    )
    all_.add_argument("state", choices=["on", "off"], help="whether only moderators may write")
    moderator = _of_group(
        add_command("moderator", "show or change the moderators", "fastimd moderator 7 --add 3")
    )
    for option, what in (("--add", "make USER a moderator"), ("--remove", "make USER none")):
        moderator.add_argument(option, action="append", default=[], metavar="USER", help=what)
    delete = _of_group(
        add_command("delete", "delete a message, or a user's", "fastimd delete 7 1648368380132")
    )
    which = delete.add_mutually_exclusive_group(required=True)
    which.add_argument("ts", type=int, nargs="?", metavar="TS", help="the message's ts")
    which.add_argument("--of", dest="user", metavar="USER", help="all messages of this user")
    reports = _of_group(
        add_command("reports", "show what members have reported", "fastimd reports 7")
    )
    reports.add_argument("--json", action="store_true", help="one line of JSON, for programs")


def _of_group(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("group", metavar="GROUP", help="the group's id")
    return command


def _of_user(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _of_group(command).add_argument("user", metavar="USER", help="the user's id")
    return command
