"""``[room]``: what one large group may cost."""

from __future__ import annotations

from typing import Annotated

from .section import About, Count, Section


class Room(Section, frozen=True):
    """Limits of large groups."""

    max_deliveries_per_second: Annotated[
        Count,
        About(
            "How many deliveries (messages times members) a group may have per second on one"
            " daemon. Beyond it, messages are left out of what members receive live, except those"
            ' whose tag priority is "high". All messages are stored.'
        ),
    ] = 0
