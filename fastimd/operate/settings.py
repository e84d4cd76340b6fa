"""Where the daemon is, by settings of which others may be wrong: then its state is asked most.

The daemon goes on with what it read when it began, whatever a file has become since. So a command
needs ``admin.bind`` and nothing else: of the environment, else of the part of the file that can be
read.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..base.errors import ConfigError
from ..base.settings import load
from ..base.settings.reading import SEARCH_PATHS

_VARIABLE = "FASTIMD_ADMIN__BIND"


class AdminAddress(NamedTuple):
    """What the settings say of the admin address.

    Args:
        bind: ``admin.bind``; None when that itself is wrong.
        is_assumed: it is the default, as a file may have another and cannot be read.
        mistakes: all that is wrong with the settings, a line each.
    """

    bind: str | None
    is_assumed: bool
    mistakes: list[str]


def find_admin(path: Path | None, environ: Mapping[str, str]) -> AdminAddress:
    """Find the admin address as ``load`` does, but for mistakes elsewhere."""
    try:
        return AdminAddress(load(path, environ).admin.bind, False, [])
    except ConfigError as exc:
        mistakes = exc.mistakes
    given = {name: text for name, text in environ.items() if name.upper() == _VARIABLE}
    is_assumed = False
    if not given:
        section = _admin_of_file(path)
        is_assumed = section is None
        if section and "bind" not in section:  # one of its keys may be a misspelt one
            return AdminAddress(None, False, mistakes)
        if section:
            given = {_VARIABLE: str(section["bind"])}
    try:
        bind = load(Path(os.devnull), given).admin.bind
    except ConfigError:
        return AdminAddress(None, False, mistakes)
    return AdminAddress(bind, is_assumed, mistakes)


def _admin_of_file(path: Path | None) -> dict[str, Any] | None:
    """The section ``[admin]`` of the file; None if the file may have one that cannot be read."""
    for candidate in SEARCH_PATHS if path is None else (path,):
        try:
            text = candidate.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            continue
        except OSError:
            return None
        with suppress(ValueError):
            section = tomllib.loads(text).get("admin", {})
            return section if isinstance(section, dict) else {"admin": section}
        return next(_readable_sections(text, "admin"), None)
    return {} if path is None else None


def _readable_sections(text: str, name: str) -> Iterator[dict[str, Any]]:
    """The sections of that name in a file that is no TOML as a whole."""
    for part in re.split(r"^(?=[ \t]*\[)", text, flags=re.MULTILINE):
        with suppress(ValueError):
            section = tomllib.loads(part).get(name)
            if isinstance(section, dict):
                yield section
