"""``[token]``: the keys of the JWTs with which clients of the live wire connect."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .section import AFTER_RESTART, About, Section
from .url import check_url

PEM = "-----BEGIN"
"""What the text of a key begins with, and no path."""

_LEAST_SECRET = 32  # bytes: as long as the digest of HS256


def _check_secret(value: str) -> None:
    if value and (PEM in value or len(value.encode()) < _LEAST_SECRET):
        raise ValueError("too short, or a key of another kind")


class Token(Section, frozen=True):
    """The keys of tokens (JWT) with which clients of the live wire connect."""

    hmac_secret: Annotated[
        str,
        Meta(
            description='"" (none), or a text of at least 32 bytes that is no PEM, such as'
            " `openssl rand -hex 32` prints",
        ),
        About(
            "The secret that your backend shares with the daemon, for tokens signed with HS256,"
            " HS384 or HS512. It is never logged. docs/TOKENS.md explains tokens.",
            check=_check_secret,
            holds=AFTER_RESTART,
            is_secret=True,
        ),
    ] = ""
    public_key: Annotated[
        str,
        Meta(
            description='"" (none), the path of a PEM file with one public key, or its text, which'
            ' begins with "-----BEGIN"; RSA of at least 2048 bits, P-256, P-384, P-521, Ed25519 or'
            " Ed448",
        ),
        About(
            "The public key of your backend, for tokens signed with RS, PS, ES or EdDSA. It needs"
            " the extra `fastimd[asymmetric]`.",
            holds=AFTER_RESTART,
            is_secret=True,  # in case it is the private one
        ),
    ] = ""
    jwks_url: Annotated[
        str,
        Meta(description='"" (none), or an http:// or https:// URL; not beside public_key'),
        About(
            "Where the daemon reads such public keys as a JSON Web Key Set, again every ten"
            " minutes and when a token names a key that it does not know. It needs the extra"
            " `fastimd[asymmetric]`.",
            check=check_url,
            holds=AFTER_RESTART,
            is_secret=True,
        ),
    ] = ""
    audience: Annotated[
        str,
        Meta(description='"" (any), or a text; it needs one of the keys above'),
        About("What the claim `aud` of a token must be or contain.", holds=AFTER_RESTART),
    ] = ""
    issuer: Annotated[
        str,
        Meta(description='"" (any), or a text; it needs one of the keys above'),
        About("What the claim `iss` of a token must be.", holds=AFTER_RESTART),
    ] = ""
