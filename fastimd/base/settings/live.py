"""``[live]``: the wire on which one connection is in many groups."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .section import About, Section


class Live(Section, frozen=True):
    """The live wire: Centrifugo's client protocol at /connection/websocket."""

    max_subscriptions: Annotated[
        int,
        Meta(ge=1, le=100_000, description="a whole number, from 1 to 100000"),
        About("How many groups one connection may subscribe to."),
    ] = 128
    recover_limit: Annotated[
        int,
        Meta(ge=0, le=100_000, description="a whole number of messages, from 0 to 100000"),
        About(
            "How many missed messages of a group a returning client is sent. One that missed"
            " more is told that it has not recovered.",
        ),
    ] = 1000
