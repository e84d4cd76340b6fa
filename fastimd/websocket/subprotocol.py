"""What differs between sockets that speak differently: their frames, their pings, their closes."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Reason: TypeAlias = tuple[int, str]
"""The code and the reason of a close."""

LOST = 1006
"""The code of a connection that ends without a close frame, RFC 6455 section 7.4.1."""


class Subprotocol(NamedTuple):
    """How a socket is spoken to.

    ``name`` is for the log and the metrics, ``opcode`` that of the frames with messages, ``ping`` a
    whole frame that asks the client whether it is there. With ``pings_always`` it is asked however
    much it says.

    The rest are closes: by an error of ours; while Redis or a hook is away; for a reader that is
    too slow; for a client that does not keep its pace; for one that is silent; for one that is told
    to go; and for one that has to go as the daemon stops, None for what the drain says.
    """

    name: str
    opcode: int
    ping: bytes
    pings_always: bool
    crashed: Reason
    unavailable: Reason
    slow: Reason
    flood: Reason
    silent: Reason
    kicked: Reason
    drained: Reason | None
