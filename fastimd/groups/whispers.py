"""Groups whose ids name their users: ``dialog#mara,tom`` is for mara and tom alone.

The names stand after the last ``#``, with commas between. Such a group needs no list of members
anywhere and no hook, and holds on every daemon: both wires, the routes of HTTP and the lists of
groups ask here.
"""

from __future__ import annotations

MARK = "#"


def may_enter(group: str, user: str) -> bool:
    """Whether a group's id lets a user in, to hear, to speak and to read what was said."""
    _, mark, users = group.rpartition(MARK)
    return not mark or user in users.split(",")
