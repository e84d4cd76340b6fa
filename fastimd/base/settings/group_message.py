"""``[group_message]``: how many of a group's messages are kept and sent, and how long."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .section import CENTURY, FOR_NEW_SOCKETS, About, Count, Life, Section


class GroupMessage(Section, frozen=True):
    """The messages of a group: how long they are kept, how many, and how large."""

    timeout: Annotated[Life, About("How long a group's messages are kept after the last one.")] = (
        604_800
    )
    list_num: Annotated[
        int,
        Meta(ge=0, le=10_000, description="a whole number of messages, from 0 to 10000"),
        About("How many of the latest messages the greeting contains."),
    ] = 50
    recall_time_limit: Annotated[
        int,
        Meta(ge=0, le=CENTURY, description="whole seconds, from 0 to 3153600000 (100 years)"),
        About("How long a user may recall a message after sending it."),
    ] = 120
    max_length: Annotated[
        Count, About("The maximum number of messages kept in a group; the oldest go first.")
    ] = 100_000
    max_bytes: Annotated[
        int,
        Meta(ge=1, le=16_777_216, description="bytes, from 1 to 16777216 (16 MiB)"),
        About("The largest message a client may send.", holds=FOR_NEW_SOCKETS),
    ] = 65_536
