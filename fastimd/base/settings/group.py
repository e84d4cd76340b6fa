"""``[group]``: who may enter a group."""

from __future__ import annotations

from typing import Annotated

from .section import About, Count, Section, Switch


class Group(Section, frozen=True):
    """Entry to groups, and how many of them a user may join."""

    login_auth: Annotated[
        Switch,
        About(
            "Check a socket's token when it opens and with every message. With false, a socket"
            " may use any token. HTTP requests are always checked.",
        ),
    ] = False
    auto_join: Annotated[
        Switch,
        About(
            "Opening a group's socket joins the group. With false, only members get in.",
        ),
    ] = True
    max_joined: Annotated[
        Count,
        About(
            "The maximum number of groups of a user; joining another is refused. Users already in"
            " more stay in them.",
        ),
    ] = 10_000
