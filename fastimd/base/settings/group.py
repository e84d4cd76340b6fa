"""``[group]``: who may enter a group."""

from __future__ import annotations

from typing import Annotated

from .section import About, Count, Section, Switch


class Group(Section, frozen=True):
    """Entry to groups, and how many of them a user may join."""

    login_auth: Annotated[
        Switch,
        About(
            "Check the token of a socket when it opens and with every message. With false, a"
            " socket may give any token. HTTP requests are always checked.",
        ),
    ] = False
    auto_join: Annotated[
        Switch,
        About(
            "Let a user who opens a group's socket join the group by doing so. With false, only"
            " members get in.",
        ),
    ] = True
    max_joined: Annotated[
        Count,
        About(
            "The most groups that a user may join; joining one more is refused. A user who is in"
            " more already stays in them.",
        ),
    ] = 10_000
