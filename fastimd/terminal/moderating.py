"""What moderators type, as the methods of the live wire, and what all are told of their acts."""

from __future__ import annotations

from collections.abc import Iterable

from ..base.codec import Message
from .commands import Command, Unknown
from .events import Acted
from .painter import day_and_time

MINUTE = 60
_ACTS = {
    "unmute": "you are no longer muted",
    "unban": "you are no longer banned",
    "moderator_added": "you are a moderator of this group now",
    "moderator_removed": "you are no longer a moderator of this group",
    "mute_all": "only moderators may write now",
    "unmute_all": "everyone may write again",
}


def read_act(command: Command, shown: Iterable[Message]) -> tuple[str, dict[str, object]]:
    """The method that a command means, and its data without the group.

    Args:
        shown: messages on the screen, oldest first: ``/delete`` and ``/report`` mean a user's last.

    Raises:
        Unknown: something is missing, or wrong.
    """
    word, _, rest = command.argument.partition(" ")
    user, rest = word.replace("␣", " "), rest.strip()
    match command.name:
        case "/ban" | "/mute":
            minutes, _, reason = rest.partition(" ")
            if not minutes.isdecimal():
                minutes, reason = "0", rest
            seconds = int(minutes[:10]) * MINUTE
            return command.name[1:], {"user": user, "seconds": seconds, "reason": reason.strip()}
        case "/unban" | "/unmute":
            return command.name[1:], {"user": user}
        case "/slow" if word.isdecimal():
            return "slow_mode", {"seconds": int(word[:10])}
        case "/silence" if word in ("on", "off"):
            return "mute_all", {"on": word == "on"}
        case "/delete" if rest == "all":
            return "delete_messages_of", {"user": user}
        case "/delete" if not rest:
            return "delete_message", {"ts": _last_of(user, shown)}
        case "/report" if rest:
            return "report", {"ts": _last_of(user, shown), "reason": rest}
    raise Unknown(f"not understood: {command.name} {command.argument} (/help shows how)")


def told(act: Acted) -> str:
    """What is told of a moderator's act, or nothing."""
    if act.act in ("mute", "ban"):
        until = f" until {' '.join(day_and_time(act.until))}" if act.until else ""
        done = "muted" if act.act == "mute" else "banned"
        return f"you are {done}{until}{f': {act.reason}' if act.reason else ''}"
    if act.act == "slow_mode":
        return (
            f"slow mode: one message every {act.seconds} s" if act.seconds else "slow mode is off"
        )
    return _ACTS.get(act.act, "")


def _last_of(user: str, shown: Iterable[Message]) -> int:
    found = [each.ts for each in shown if each.userId == user]
    if not found:
        raise Unknown(f"no message of {user} on the screen")
    return found[-1]
