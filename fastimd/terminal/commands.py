"""What a person types: something to say, or a command with a ``/`` before it."""

from __future__ import annotations

from dataclasses import dataclass

COMMANDS = {
    "/ban": "USER [MINUTES] [REASON]",
    "/delete": "USER [all]",
    "/groups": "",
    "/help": "",
    "/history": "[N]",
    "/join": "GROUP",
    "/mute": "USER [MINUTES] [REASON]",
    "/quit": "",
    "/recall": "[N]",
    "/report": "USER REASON",
    "/reports": "",
    "/silence": "on|off",
    "/slow": "SECONDS",
    "/unban": "USER",
    "/unmute": "USER",
    "/who": "",
}
"""The commands and what follows them."""

ACTS = ("/ban", "/delete", "/mute", "/report", "/silence", "/slow", "/unban", "/unmute")
"""Those of moderators, and a report."""

HELP = (
    "/history [N]  N older messages (20), again for still older ones",
    "/groups       my groups, with their newest messages and what is unread",
    "/who          who is in this group now",
    "/join GROUP   leave this group, open that one",
    "/recall [N]   take back my last message, or the Nth last",
    "/report USER REASON  report USER's last message here to the moderators",
    "/delete USER [all], /mute USER [MINUTES] [REASON], /unmute USER,",
    "/ban USER [MINUTES] [REASON], /unban USER, /slow SECONDS, /silence on|off,",
    "/reports      what moderators do; without MINUTES until it is lifted",
    "/quit         end, as Ctrl-D and Ctrl-C do",
    "//text        say /text",
)


@dataclass(frozen=True, slots=True)
class Say:
    """A text for the group."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One of ``COMMANDS``, with what follows it."""

    name: str
    argument: str


class Unknown(Exception):
    """It is not to be said, and no command; the message says what is wrong."""


def parse(line: str) -> Say | Command | None:
    """Read a line; None when there is nothing in it.

    Raises:
        Unknown: it begins with a ``/``, and is no command.
    """
    if not line.strip():
        return None
    if not line.startswith("/"):
        return Say(line)
    if line.startswith("//"):
        return Say(line[1:])
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        raise Unknown(f"no command {name} (/help shows them; /{name} says it)")
    argument = argument.strip()
    if argument and not COMMANDS[name]:
        raise Unknown(f"{name} takes nothing behind it")
    if not argument and COMMANDS[name][:1] not in ("", "["):
        raise Unknown(f"{name} needs {COMMANDS[name]}")
    return Command(name, argument)


def read_number(command: Command, default: int, most: int) -> int:
    """The number behind a command.

    Raises:
        Unknown: it is none from 1 to ``most``.
    """
    if not command.argument:
        return default
    if command.argument.isdecimal() and 1 <= int(command.argument[:10]) <= most:
        return int(command.argument)
    raise Unknown(f"{command.name} takes a number from 1 to {most}")


def complete(line: str, groups: list[str]) -> tuple[str, list[str]]:
    """What stands at the end of the line, and what it may become."""
    if line.startswith("/join "):
        word, words = line.removeprefix("/join "), groups
    else:
        word, words = line, [f"{name} " if takes else name for name, takes in COMMANDS.items()]
    return word, [each for each in words if line.startswith("/") and each.startswith(word)]
