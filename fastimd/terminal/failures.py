"""Why a chat does not begin, or ends by itself; each with the exit status that tells it.

ChatError
├── Unreachable    nobody answers there, or who answers is no fastimd, or has no room (69)
├── LoginRefused   the password is wrong, or the token goes to somebody else again and again (77)
├── TokenLost      the token is not valid (any more); a new login may help (77)
├── Refused        the server answers that it will not do that (1)
├── LocalTrouble   standard input or output cannot be used (74)
└── TurnedOut      the server closed the socket for good (3, 4, 5 or 77)
"""

from __future__ import annotations

from typing import ClassVar

from ..base.errors import FastimdError

EXIT_UNSENT = 1
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_KICKED = 3
EXIT_NO_MEMBER = 4
EXIT_FLOOD = 5
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_LOCAL = 74  # EX_IOERR
EXIT_LOGIN = 77  # EX_NOPERM

_TURNED_OUT = {
    "kicked": EXIT_KICKED,
    "not a member": EXIT_NO_MEMBER,
    "left the group": EXIT_NO_MEMBER,
    "flood": EXIT_FLOOD,
}


class ChatError(FastimdError):
    """The message is one line for people."""

    status: ClassVar[int]


class Unreachable(ChatError):
    """There is no chat to be had there, for now at least.

    Args:
        retry_after: seconds after which the server asks to be tried again.
    """

    status = EXIT_UNAVAILABLE

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoginRefused(ChatError):
    """The user is not let in."""

    status = EXIT_LOGIN


class TokenLost(ChatError):
    """The server does not know the token."""

    status = EXIT_LOGIN


class Refused(ChatError):
    """The server will not do what it was asked."""

    status = EXIT_REFUSED


class LocalTrouble(ChatError):
    """The input cannot be read, or the output not written."""

    status = EXIT_LOCAL


class TurnedOut(ChatError):
    """The server closed the socket with 1008, and coming back would not help.

    Args:
        reason: of the close frame.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server ended it: {reason or 'no reason given'}")
        self.reason = reason

    @property
    def status(self) -> int:  # type: ignore[override]
        """By the reason."""
        return _TURNED_OUT.get(self.reason, EXIT_LOGIN)
