"""The one tree of our own exceptions.

FastimdError
├── StartupError          the daemon cannot start, and an operator must act (exit status 78)
│   └── ConfigError       settings that are wrong, all of them at once
├── WorkerFailed          the first of several workers cannot serve
├── StoreUnavailable      Redis is away or does not answer; the same request may work later
│   └── FateUnknown       what was to be stored may be, or not
├── KeyUnusable           Redis refuses what concerns one key: one group or one user, nobody else
├── BadParameter          a client's parameter is missing or malformed
├── NotLoggedIn           a client's token is missing, wrong or expired
├── TokenRefused          a JWT is not good
│   └── TokenExpired      it was
├── Refused               a hook says no, and perhaps why
│   ├── PrivateGroup      the group's id names its users, and this one is none of them
│   └── Restrained        moderators of the group have decided so
└── HookFailed            a hook crashed, was late or answered what it may not

Errors of a client carry what the client may be told. Errors of Redis are redis-py's own classes
inside ``redis/``. They are translated where they leave it: into ``StoreUnavailable``, or into
``KeyUnusable`` by the store, which knows the keys.
"""

from __future__ import annotations

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h
"""The exit status after a ``StartupError``: trying again is no use."""


class FastimdError(Exception):
    """Root of every exception that fastimd raises on purpose."""


class StartupError(FastimdError):
    """The daemon cannot start; the message is one line that names what is wrong."""


class ConfigError(StartupError):
    """Settings that are wrong.

    Args:
        mistakes: one line each, naming where it stands, the key, what was given and what is
            accepted.
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class WorkerFailed(FastimdError):
    """The first worker cannot serve; it has said why. ``status`` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the first worker ended with status {status}")
        self.status = status


class StoreUnavailable(FastimdError):
    """Redis cannot be reached or did not answer in time."""


class FateUnknown(StoreUnavailable):
    """Redis was sent something to be stored, and never told whether it is."""


class KeyUnusable(FastimdError):
    """What stands at a key cannot be used, until somebody puts it right.

    It is a key of one group or one user, or that of the kicks; the rest of the daemon goes on.

    Args:
        key: the key, as Redis has it.
        error: what Redis says: a wrong type, a script that failed, a permission that is missing.
    """

    def __init__(self, key: str, error: str) -> None:
        super().__init__(f"the key {key} in Redis cannot be used: {error}")
        self.key = key
        self.error = error


class BadParameter(FastimdError):
    """A parameter of a client is missing or malformed.

    Args:
        name: the parameter, as the client spells it.
        accepted: what would have been accepted.
    """

    def __init__(self, name: str, accepted: str) -> None:
        super().__init__(f"{name}: {accepted}")
        self.name = name


class NotLoggedIn(FastimdError):
    """The token of a client is missing, wrong or expired."""


class TokenRefused(FastimdError):
    """A JWT is not good; the text says why, for the log, and holds nothing of the token.

    Args:
        cause: what a metric counts it as: one of a few words.
        is_temporary: the same token may be good later.
    """

    def __init__(self, cause: str, reason: str, is_temporary: bool = False) -> None:
        super().__init__(reason)
        self.cause = cause
        self.is_temporary = is_temporary


class TokenExpired(TokenRefused):
    """A JWT was good, and its time is over."""

    def __init__(self) -> None:
        super().__init__("expired", "it has expired")


class Refused(FastimdError):
    """A hook says no.

    Args:
        reason: what the client is told; "" leaves that to fastimd.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason.encode(errors="replace").decode())


class PrivateGroup(Refused):
    """The id of a group names its users, and this one is none of them."""


class Restrained(Refused):
    """Moderators of a group have decided that a user may not be in it, or not speak now.

    Args:
        why: ``banned``, ``muted``, ``mute_all`` or ``slow``.
    """

    def __init__(self, why: str, reason: str) -> None:
        super().__init__(reason)
        self.why = why


class HookFailed(FastimdError):
    """A hook could not decide; the text is fit for a log."""
