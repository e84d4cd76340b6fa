"""What the two encodings of the live wire have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from ..websocket.subprotocol import Subprotocol
from .protocol import Command, Publication, Reply


class BadFrame(ValueError):
    """A client has sent what is no command."""


class Wire(Protocol):
    """An encoding: a module with the following.

    ``NAME`` is for the log and the metrics, ``OPCODE`` that of its frames, ``PING`` a whole frame.
    """

    NAME: str
    OPCODE: int
    PING: bytes

    def read_commands(self, payload: Any) -> Iterator[Command]:
        """The commands of a frame, one after the other.

        Raises:
            BadFrame: what comes next is no command.
        """
        ...

    def encode(self, reply: Reply) -> bytes:
        """A reply, as it stands among others in a frame."""
        ...

    def encode_publication(self, group: str, publication: Publication) -> bytes:
        """The push of a publication: most of what is encoded is one."""
        ...

    def encode_published(self, number: int) -> bytes:
        """The answer to a publish command, which is most of the rest."""
        ...

    def frame(self, replies: Iterable[bytes]) -> bytes:
        """Encoded replies in one frame."""
        ...


def subprotocol(wire: Wire) -> Subprotocol:
    """How the connections of an encoding are spoken to, and which codes close them.

    From codes below 3500 clients come back by themselves, from others they do not.
    """
    return Subprotocol(
        name=wire.NAME,
        opcode=wire.OPCODE,
        ping=wire.PING,
        pings_always=True,
        crashed=(3004, "internal server error"),
        unavailable=(3004, "internal server error"),
        slow=(3008, "slow"),
        flood=(3013, "too many requests"),
        silent=(3012, "no pong"),
        kicked=(3503, "force disconnect"),
        drained=(3001, "shutdown"),
    )
