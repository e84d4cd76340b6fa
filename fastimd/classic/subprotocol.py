"""How the sockets of Fast-IM are spoken to, and which codes close them."""

from __future__ import annotations

from ..websocket.frames import PING, TEXT, control_frame
from ..websocket.subprotocol import LOST, Subprotocol

FAST_IM = Subprotocol(
    name="fast-im",
    opcode=TEXT,
    ping=control_frame(PING, b""),
    pings_always=False,
    crashed=(1011, "internal error"),
    unavailable=(1013, "try again later"),
    slow=(1013, "slow"),
    flood=(1008, "flood"),
    silent=(LOST, "ping timeout"),
    kicked=(1008, "kicked"),
    drained=None,
)
