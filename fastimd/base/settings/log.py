"""``[log]``: how much is logged, and in which form."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .section import AFTER_RESTART, About, Section, Switch


class Log(Section, frozen=True):
    """The log on standard error: how much, and in which form."""

    format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description='"auto", "console" or "json"'),
        About(
            '"console" is for people, "json" writes one JSON object per line, "auto" is console'
            " in a terminal and json otherwise.",
            holds=AFTER_RESTART,
        ),
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description='"debug", "info", "warning" or "error"'),
        About("The lowest level of events that are logged."),
    ] = "info"
    message_text: Annotated[
        Switch,
        About(
            "Add message texts to the debug lines. The texts are private: turn this on only while"
            " you debug.",
        ),
    ] = False
