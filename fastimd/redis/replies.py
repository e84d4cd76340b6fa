"""What Redis says no with, as exceptions."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from redis import exceptions

Reply: TypeAlias = Any
"""What hiredis makes of a reply: bytes, int, None, a list of these, or an exception instance."""


class NotNow(exceptions.ResponseError):
    """Redis cannot do this now: it is out of memory, its disk fails, it is busy with a script…

    The connection is good, and the same command may work later.
    """


class InTransit(NotNow):
    """In a cluster: the keys are on their way from one server to another."""


class Redirected(InTransit):
    """In a cluster: the slot lies at another server, or is on its way there.

    ``slot`` is which, ``host`` and ``port`` where; ``is_moved`` when all of it is there.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        kind, slot, place = message.split(" ")[:3]
        host, _, port = place.rpartition(":")
        self.is_moved = kind == "MOVED"
        self.slot, self.host, self.port = int(slot), host, int(port)


USELESS_CONNECTION = (
    exceptions.BusyLoadingError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,
)
"""Refusals by which a server says that it is not the one to speak with: connect again."""

_ERRORS: dict[str, type[exceptions.RedisError]] = {
    "ASK": Redirected,
    "BUSY": NotNow,
    "CLUSTERDOWN": NotNow,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "MISCONF": NotNow,
    "MOVED": Redirected,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "NOREPLICAS": NotNow,
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": NotNow,
    "TRYAGAIN": InTransit,
    "READONLY": exceptions.ReadOnlyError,
    "WRONGPASS": exceptions.AuthenticationError,
}
# Before the arguments of a command that Redis does not know: a password may be among them.
_ARGUMENTS = ", with args beginning with"
# Redis 6 words what a script's command was refused with like this.
_IN_SCRIPT = re.compile(r"ERR Error running script .*?: -?(?P<message>[A-Z]+ .*)", re.DOTALL)
# Redis 7 says after it in which script, by its digest; Valkey 9 leaves the digest out.
_OF_SCRIPT = re.compile(r" script:( [0-9a-f]{40},)? on @user_script:\d+\.?$")


def reply_error(message: str) -> exceptions.RedisError:
    """The exception for a refusal."""
    in_script = _IN_SCRIPT.match(message)
    if in_script is not None:
        message = in_script["message"]
    message = _OF_SCRIPT.sub("", message.partition(_ARGUMENTS)[0])
    return _ERRORS.get(message.split(" ", 1)[0], exceptions.ResponseError)(message)
