"""``[presence]``: who is in which group, over all daemons."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .section import AFTER_RESTART, About, Section, Switch


class Presence(Section, frozen=True):
    """Who is here: lists and counts of members, joins and leaves, who is typing."""

    enabled: Annotated[
        Switch,
        About(
            "Note in Redis who is in which group. With false, clients that ask for it are told"
            " that it is not available, and it costs nothing.",
            holds=AFTER_RESTART,
        ),
    ] = True
    announce_up_to: Annotated[
        int,
        Meta(ge=0, le=1000, description="a whole number of users, from 0 to 1000"),
        About(
            "Joins, leaves and typing are told in groups of up to this many users. In larger"
            " ones nobody could read them.",
        ),
    ] = 200
