"""What a running daemon takes over from settings that were read again."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .config import SETTINGS, Config, settings
from .section import AFTER_RESTART

FIXED = frozenset(setting.name for setting in settings() if setting.about.holds == AFTER_RESTART)
"""Settings that hold from the start of the daemon to its end."""


class Changes(NamedTuple):
    """What differs in newly read settings, as ``section.key``: taken over, and for a restart."""

    adopted: list[str]
    for_restart: list[str]


def adopt(config: Config, new: Config) -> Changes:
    """Take over the settings that can change while the daemon runs."""
    changes = Changes([], [])
    for section, keys in SETTINGS.items():
        ours, theirs = getattr(config, section), getattr(new, section)
        changed = [key for key in keys if getattr(ours, key) != getattr(theirs, key)]
        adopted = [key for key in changed if f"{section}.{key}" not in FIXED]
        changes.adopted.extend(f"{section}.{key}" for key in adopted)
        changes.for_restart.extend(f"{section}.{key}" for key in changed if key not in adopted)
        values = {key: getattr(theirs, key) for key in adopted}
        setattr(config, section, msgspec.structs.replace(ours, **values))
    return changes
