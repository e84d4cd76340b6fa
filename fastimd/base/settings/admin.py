"""``[admin]``: where an operator finds the daemon."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .bind import parse_bind, unix_path
from .section import AFTER_RESTART, About, Section


def _check_bind(value: str) -> None:
    if value and unix_path(value) is None:
        parse_bind(value)


class Admin(Section, frozen=True):
    """The address of the operator: metrics, health and commands."""

    bind: Annotated[
        str,
        Meta(
            description='"" (off), "HOST:PORT" or "[v6]:PORT", port 0 to 65535 (0 = a free one), or'
            ' "unix:/path/to/socket", at most 107 bytes',
        ),
        About(
            "The address that serves metrics, health, the console, the API, and `fastimd status`"
            " with the other operator's commands. Only the daemon's user and root can use a unix"
            " socket. Do not expose it to the public.",
            check=_check_bind,
            holds=AFTER_RESTART,
        ),
    ] = "127.0.0.1:9001"
