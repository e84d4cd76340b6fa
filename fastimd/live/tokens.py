"""JWTs: who a client of the live wire is, and which group it may subscribe to.

A token is a string of a stranger's until its signature is verified. It is bounded before anything
is made of it, its header only chooses among keys of ours, and each claim has a type. A refusal says
why, for the log, and holds nothing of the token.
"""

from __future__ import annotations

import binascii
import time
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import structlog
import trio
from msgspec import UNSET, Meta, Raw, UnsetType

from ..base.codec import check_id
from ..base.errors import BadParameter, TokenExpired, TokenRefused
from ..base.metrics import Metrics
from ..base.settings import Config
from .algorithms import PUBLIC_ALGORITHMS, SECRET_ALGORITHMS, Key
from .keys import load_keys

MAX_TOKEN = 16 * 1024  # characters
LEEWAY = 10.0
"""Seconds that the clock of who signs may be ahead; a token that expires does so at once."""
ROLES = ("", "moderator")

_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")  # "!" is in no alphabet of base64
_Time = Annotated[float, Meta(ge=0, le=2**53)] | UnsetType
_Kind = TypeVar("_Kind", bound="_Signed")

log = structlog.get_logger("fastimd.token")


class Claims(NamedTuple):
    """What a connect token says.

    Args:
        expires_at: seconds since the epoch, or 0.
        info: JSON on one line, or b"".
        channels: groups that the daemon subscribes the client to.
        role: one of ``ROLES``.
        groups: the groups that the role is for, as ids or globs.
    """

    user: str
    expires_at: int
    info: bytes
    channels: tuple[str, ...]
    role: str
    groups: tuple[str, ...]


class SubscriptionClaims(NamedTuple):
    """What a subscription token says; its fields are as those of ``Claims``."""

    channel: str
    user: str
    expires_at: int
    info: bytes


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""
    crit: Raw | UnsetType = UNSET


class _Signed(msgspec.Struct):
    """The claims of both kinds of tokens; others are ignored."""

    sub: str = ""
    exp: _Time = UNSET
    nbf: _Time = UNSET
    iat: _Time = UNSET
    expire_at: _Time = UNSET
    aud: str | list[str] = ""
    iss: str = ""
    info: Raw = Raw(b"null")
    channel: str | UnsetType = UNSET


class _Connect(_Signed):
    channels: list[str] = []
    role: str = ""
    groups: list[str] = []


class _Subscription(_Signed):
    client: str | UnsetType = UNSET


class Tokens:
    """Reads tokens with the keys of ``[token]``.

    Raises:
        ConfigError: the keys cannot be used.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._settings = config.token
        self._metrics = metrics
        self._keys = {name: key for key in load_keys(config) for name in key.algorithms}
        self._jwks = None
        if config.token.jwks_url:
            from .jwks import Jwks  # here, because it needs cryptography

            self._jwks = Jwks(config.token.jwks_url, metrics)

    @property
    def is_configured(self) -> bool:
        """There is a key, so that tokens can be read."""
        return bool(self._keys) or self._jwks is not None

    async def run(self) -> None:
        """Keep the keys of ``token.jwks_url``, if there is one, until cancelled."""
        if self._jwks is not None:
            await self._jwks.run()
        await trio.sleep_forever()

    async def read_connect(self, token: str) -> Claims:
        """What a token says with which a client connects.

        Raises:
            TokenExpired: it was good.
            TokenRefused: it is not.
        """
        claims = _decode(await self._verify(token), _Connect)
        expires_at = self._check(claims)
        if claims.channel is not UNSET:
            raise TokenRefused("claims", "it is a subscription token")
        if claims.role not in ROLES:
            raise TokenRefused("claims", 'role: must be "moderator"')
        channels, groups = _ids("channels", claims.channels), _ids("groups", claims.groups)
        info = _on_one_line(claims.info)
        return Claims(claims.sub, expires_at, info, channels, claims.role, groups)

    async def read_subscription(
        self, token: str, user: str, channel: str, client: str
    ) -> SubscriptionClaims:
        """What a token says with which a client, of this id and user, subscribes to a channel.

        Raises:
            TokenExpired: it was good.
            TokenRefused: it is not.
        """
        claims = _decode(await self._verify(token), _Subscription)
        expires_at = self._check(claims)
        if claims.channel is UNSET:
            raise TokenRefused("claims", "it is no subscription token: it has no channel")
        if claims.channel != channel:
            raise TokenRefused("claims", "it is for another channel")
        if claims.sub != user:
            raise TokenRefused("claims", "it is for another user")
        if claims.client is not UNSET and claims.client != client:
            raise TokenRefused("claims", "it is for another client")
        return SubscriptionClaims(channel, user, expires_at, _on_one_line(claims.info))

    def tell_refused(self, purpose: str, refusal: TokenRefused) -> None:
        """Log and count a refusal: whoever asked for the claims calls this, once."""
        self._metrics.count_token_refused(refusal.cause)
        log.info("token.refused", purpose=purpose, cause=refusal.cause, reason=str(refusal))

    async def _verify(self, token: str) -> bytes:
        """The payload of a token whose signature is good."""
        if len(token) > MAX_TOKEN:
            raise TokenRefused("malformed", f"it is longer than {MAX_TOKEN} characters")
        try:
            signed, _, signature_text = token.encode("ascii").rpartition(b".")
            header_text, payload_text = signed.split(b".")
            header = _read_header(_from_base64url(header_text))
            payload, signature = _from_base64url(payload_text), _from_base64url(signature_text)
        except (ValueError, RecursionError):  # also of another number of parts
            raise TokenRefused("malformed", "it is no JWT") from None
        if header.crit is not UNSET:
            raise TokenRefused("malformed", "its header has extensions that must be understood")
        key = await self._find_key(header)
        if not key.verifies(header.alg, signed, signature):
            raise TokenRefused("signature", "its signature is not of this key")
        return payload

    async def _find_key(self, header: _Header) -> Key:
        name = header.alg
        if (key := self._keys.get(name)) is not None:
            return key
        is_known = name in SECRET_ALGORITHMS or name in PUBLIC_ALGORITHMS
        if self._jwks is None or name not in PUBLIC_ALGORITHMS:
            shown = name if is_known else "which is not served"
            raise TokenRefused("algorithm", f"no key fits its algorithm, {shown}")
        if (key := await self._jwks.find(name, header.kid)) is not None:
            return key
        reason = "its key is not known" if header.kid else "it names no key, and not one fits"
        raise TokenRefused("key", f"{reason} ({name})")

    def _check(self, claims: _Signed) -> int:
        """Check what both kinds of tokens have; returns when it is over."""
        try:
            check_id("sub", claims.sub)
        except BadParameter as exc:
            raise TokenRefused("claims", str(exc)) from None
        settings, now = self._settings, time.time()
        for name, begins in (("nbf", claims.nbf), ("iat", claims.iat)):
            if begins is not UNSET and begins > now + LEEWAY:
                raise TokenRefused("claims", f"{name}: it is not valid yet")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if settings.audience and settings.audience not in audiences:
            raise TokenRefused("claims", "aud: it is for another audience")
        if settings.issuer and settings.issuer != claims.iss:
            raise TokenRefused("claims", "iss: it is of another issuer")
        if claims.exp is not UNSET and claims.exp <= now:
            raise TokenExpired
        expires_at = claims.exp if claims.expire_at is UNSET else claims.expire_at
        if expires_at is UNSET or expires_at == 0:
            return 0
        if expires_at <= now:
            raise TokenExpired
        return int(expires_at)


_read_header = msgspec.json.Decoder(_Header).decode
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (_Connect, _Subscription)
}


def _decode(payload: bytes, kind: type[_Kind]) -> _Kind:
    try:
        payload.decode()
        claims: _Kind = _decoders[kind].decode(payload)
    except msgspec.ValidationError as exc:  # names the claim and its type, and no value
        raise TokenRefused("claims", str(exc)) from None
    except (ValueError, RecursionError):
        raise TokenRefused("claims", "they are no JSON") from None
    return claims


def _from_base64url(text: bytes) -> bytes:
    """Decode what has no padding, as RFC 7515 has it.

    Raises:
        ValueError: it is not base64url, or not the only way to write this.
    """
    padded = text.translate(_TO_STANDARD) + b"=" * (-len(text) % 4)
    decoded = binascii.a2b_base64(padded, strict_mode=True)
    if binascii.b2a_base64(decoded, newline=False) != padded:
        raise ValueError("bits that mean nothing are set")
    return decoded


def _ids(name: str, values: list[str]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(check_id(name, value) for value in values))
    except BadParameter as exc:
        raise TokenRefused("claims", str(exc)) from None


def _on_one_line(info: Raw) -> bytes:
    """JSON as it can be passed on, in a frame of lines; nothing for null."""
    try:
        text = msgspec.json.format(info, indent=-1)
        return b"" if msgspec.json.decode(text) is None else text
    except (ValueError, RecursionError):
        raise TokenRefused("claims", "info: it is no JSON") from None
