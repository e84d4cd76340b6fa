"""Why somebody may not speak in a group, or not be in it, in words that clients are told."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from ...base.errors import Restrained
from ..store.policy import Sentence


def banned(sentence: Sentence) -> Restrained:
    """The user is banned."""
    return Restrained("banned", _told("banned", sentence))


def muted(sentence: Sentence) -> Restrained:
    """The user is muted."""
    return Restrained("muted", _told("muted", sentence))


def only_moderators() -> Restrained:
    """Nobody else may write now."""
    return Restrained("mute_all", "only moderators may write now")


def too_soon(milliseconds: int) -> Restrained:
    """The group is in slow mode, and it is not the user's turn for so long."""
    return Restrained("slow", f"slow mode: wait {math.ceil(milliseconds / 1000)} s")


def _told(what: str, sentence: Sentence) -> str:
    until = f" until {_moment(sentence.until)}" if sentence.until else ""
    return f"{what}{until}{f': {sentence.reason}' if sentence.reason else ''}"


def _moment(ts: int) -> str:
    try:
        return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):  # somebody else wrote it
        return "further notice"
