"""``[api]``: the server API, and the keys of the backends that call it."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

from .section import About, Section, Switch

_EXAMPLE = """\
[[api.keys]]
name = "game"
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
methods = ["publish", "broadcast"]
groups = ["match-*"]
"""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backend: its name, the digest of its secret, and what it may do.

    ``methods`` and ``groups`` are globs, of which one has to fit.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
    methods: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ("*",)


def digest_of(secret: bytes) -> str:
    """What is kept of a secret: its SHA-256, in hexadecimal digits."""
    return sha256(secret).hexdigest()


class Api(Section, frozen=True):
    """The server API: your backend speaks, moderates and asks with it (docs/API.md)."""

    public: Annotated[
        Switch,
        About(
            "Whether the API is served on server.bind as well. The address of admin.bind always"
            " serves it.",
        ),
    ] = False
    keys: Annotated[
        tuple[ApiKey, ...],
        Meta(
            description="`[[api.keys]]` tables of name (up to 64 letters, digits and ._-), sha256"
            " (64 hex digits), methods and groups (lists of globs, all by default); each name once",
        ),
        About(
            "The keys of the backends. `fastimd api-key NAME` makes one, and prints the table for"
            " this file.",
            example=_EXAMPLE,
        ),
    ] = ()
