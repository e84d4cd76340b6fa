"""The codes of the live wire: errors that answer a command, closes, and ends of subscriptions.

They are those of Centrifugo's protocol, so that its clients know what to do: after an error that is
temporary they try again, after a close below 3500 they connect again, and after the end 2500 they
subscribe again.
"""

from __future__ import annotations

import math
import time

from ..websocket.subprotocol import Reason
from .protocol import Error, Unsubscribed

INTERNAL = Error(100, "internal server error", temporary=True)
PERMISSION_DENIED = Error(103, "permission denied")
METHOD_NOT_FOUND = Error(104, "method not found")
ALREADY_SUBSCRIBED = Error(105, "already subscribed")
LIMIT_EXCEEDED = Error(106, "limit exceeded")
NOT_AVAILABLE = Error(108, "not available")
TOKEN_EXPIRED = Error(109, "token expired")
TOO_MANY_REQUESTS = Error(111, "too many requests", temporary=True)
UNRECOVERABLE_POSITION = Error(112, "unrecoverable position")
NOT_FOUND = Error(404, "no such message")
"""Ours, in the range that the protocol leaves to applications."""

CONNECTION_EXPIRED: Reason = (3005, "connection expired")
INVALID_TOKEN: Reason = (3500, "invalid token")
BAD_REQUEST: Reason = (3501, "bad request")
STALE: Reason = (3502, "stale")
BANNED: Reason = (3507, "banned")
NO_SEND: Reason = (3508, "not available")

UNSUBSCRIBED = Unsubscribed(2000, "server unsubscribe")
BANNED_HERE = Unsubscribed(2103, "banned")
INSUFFICIENT_STATE = Unsubscribed(2500, "insufficient state")
SUBSCRIPTION_EXPIRED = Unsubscribed(2501, "subscription expired")


MAX_TTL = 2**32 - 1
"""The most seconds that both encodings can tell: somebody's clock may be in milliseconds."""


class Refusal(Exception):
    """A command gets an error for its answer."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class Disconnect(Exception):
    """A command ends its connection."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(*reason)
        self.reason = reason


def denied(reason: str) -> Error:
    """A refusal by the application, in its words."""
    return Error(PERMISSION_DENIED.code, reason) if reason else PERMISSION_DENIED


def bad_request(reason: str = "") -> Error:
    """A request that is none, and what is wrong with it."""
    return Error(107, f"bad request: {reason}" if reason else "bad request")


def ttl_of(expires_at: int) -> int:
    """The seconds until something expires, at least one; 0 when it does not expire."""
    return min(max(1, math.ceil(expires_at - time.time())), MAX_TTL) if expires_at else 0
