"""The keys that stand in the settings.

PyJWT is loaded only where there is a key, and cryptography only where that is a public one.
"""

from __future__ import annotations

from pathlib import Path

from ..base.errors import ConfigError
from ..base.settings import PEM, Config
from .algorithms import LEAST_RSA_BITS, SECRET_ALGORITHMS, Key

_EXTRA = "pip install 'fastimd[asymmetric]'"


def load_keys(config: Config) -> list[Key]:
    """The keys that stand in the settings themselves.

    Raises:
        ConfigError: one cannot be read or is none, or what is needed for it is not installed.
    """
    keys: list[Key] = []
    if config.token.hmac_secret:
        keys.append(_secret_key(config.token.hmac_secret))
    if config.token.public_key:
        keys.append(_public_key(config))
    elif config.token.jwks_url:
        _need_cryptography(config, "jwks_url")
    return keys


def _secret_key(secret: str) -> Key:
    from jwt.algorithms import get_default_algorithms  # here, as few daemons have keys

    every = get_default_algorithms()
    return Key("", {name: every[name] for name in SECRET_ALGORITHMS}, secret.encode())


def _public_key(config: Config) -> Key:
    _need_cryptography(config, "public_key")
    from .asymmetric import NotAKey, pem_key

    given = config.token.public_key
    shown = "its text" if PEM in given else repr(given)
    try:
        pem = given.encode() if PEM in given else Path(given).read_bytes()
        return pem_key(pem)
    except (OSError, ValueError) as exc:  # a path may have a NUL
        reason = exc.strerror if isinstance(exc, OSError) else "no path"
        raise _mistake(config, f"public_key: cannot read {shown}: {reason}") from exc
    except NotAKey as exc:
        raise _mistake(
            config,
            f"public_key: {shown} is {exc}; accepted: a public key as PEM, RSA of at least"
            f" {LEAST_RSA_BITS} bits, P-256, P-384, P-521, Ed25519 or Ed448",
        ) from None


def _need_cryptography(config: Config, key: str) -> None:
    try:
        import cryptography
    except ImportError as exc:
        raise _mistake(
            config, f"{key}: needs the package cryptography, which is not installed: {_EXTRA}"
        ) from exc
    assert cryptography


def _mistake(config: Config, line: str) -> ConfigError:
    return ConfigError([f"{config.source}: token.{line}"])
