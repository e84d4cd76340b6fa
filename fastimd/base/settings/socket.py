"""``[socket]``: pings, slow readers and fast senders."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .section import FOR_NEW_SOCKETS, About, Period, Section


class Socket(Section, frozen=True):
    """Pings and limits of a WebSocket connection."""

    ping_interval: Annotated[Period, About("How often the daemon pings a client.")] = 25.0
    ping_timeout: Annotated[
        float,
        Meta(
            gt=0, le=86_400, description="seconds, more than ping_interval, at most 86400 (a day)"
        ),
        About(
            "How long a client may be silent, not even answering pings, before its socket is"
            " closed."
        ),
    ] = 60.0
    outbox_bytes: Annotated[
        int,
        Meta(ge=4096, description="bytes, 4096 or more"),
        About(
            "How much may wait for a client that reads too slowly before its socket is closed.",
            holds=FOR_NEW_SOCKETS,
        ),
    ] = 1_048_576
    max_messages_per_second: Annotated[
        float,
        Meta(ge=0, le=1_000_000, description="a number, from 0 (no limit) to 1000000"),
        About(
            "How many messages a socket may send per second; 0.5 is one every two seconds. A"
            " faster one is slowed down, and closed if it stays faster for 10 seconds. For people"
            " who type, 5 is plenty.",
        ),
    ] = 0.0
    message_burst: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="a whole number, from 1 to 1000000"),
        About("How many messages a socket may send at once after a pause."),
    ] = 20
