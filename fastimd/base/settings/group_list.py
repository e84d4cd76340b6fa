"""``[group_list]``: how often the list of a user's groups is pushed."""

from __future__ import annotations

from typing import Annotated

from .section import About, Period, Section


class GroupList(Section, frozen=True):
    """The list of a user's groups, as it is pushed to list sockets."""

    update_rate: Annotated[
        Period, About("The minimum time between two pushes of a user's group list.")
    ] = 1.0
