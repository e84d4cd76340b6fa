"""Messages that come as lines, several in a frame, and answers and pings among them.

A server may put what it has for a client into one frame, and so cut the same messages otherwise for
each member of a group. The reader makes one stream of lines of that, which a transcript compares as
it does frames; the answers to a member, and pings, are its own and are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from .dialect import CLOSE, PING, TEXT, Lines, client_frame, find_frame
from .links import Link, closing
from .transcript import Disorder


class LineReader:
    """Between a socket and what wants the messages that come there.

    Args:
        on_open: gets the socket when it is greeted.
        on_data: gets whole lines that are messages, each with its end.
    """

    __slots__ = ("_answer", "_lines", "_link", "_on_data", "_on_open", "_ping", "_rest")

    def __init__(
        self, lines: Lines, on_open: Callable[[Link], None], on_data: Callable[[bytes], None]
    ) -> None:
        self._lines = lines
        self._answer = b"\n" + lines.answer
        self._ping = b"\n" + lines.ping + b"\n"
        self._on_open = on_open
        self._on_data = on_data
        self._rest = b""
        self._link: Link

    def enter(self, link: Link) -> None:
        """The socket is open."""
        self._link = link
        self._on_open(link)

    def take(self, data: bytes) -> None:
        """Bytes have come.

        Raises:
            Disorder: they are no frames, or the server refused a message.
            ConnectionError: among them is a close frame.
        """
        data = self._rest + data
        at = 0
        payloads = [b""]
        try:
            while (frame := find_frame(data, at)) is not None:
                opcode, start, at = frame
                if opcode == TEXT:
                    payloads.append(data[start:at])
                elif opcode == PING:
                    self._link.pong(data[start:at])
                elif opcode == CLOSE:
                    raise closing(data[start:at])
        except ValueError as exc:
            raise Disorder(str(exc)) from None
        self._rest = data[at:]
        payloads.append(b"")
        said = b"\n".join(payloads)
        if self._answer in said or self._ping in said:
            said = self._messages(said)
        if len(said) > 1:
            self._on_data(said[1:])

    def _messages(self, said: bytes) -> bytes:
        """The lines that are messages, of lines that stand between two ends of lines, as these."""
        lines, kept = self._lines, [b""]
        for line in said[1:-1].split(b"\n"):
            if line == lines.ping:
                self._link.send(client_frame(TEXT, line))
            elif not line.startswith(lines.answer):
                kept.append(line)
            elif lines.refusal in line:
                raise Disorder(f"a message was refused: {line[:200]!r}")
        kept.append(b"")
        return b"\n".join(kept)
