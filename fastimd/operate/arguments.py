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
