"""Public keys, from PEM or from a JSON Web Key Set; loaded only where one is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from .algorithms import CURVE_ALGORITHMS, LEAST_RSA_BITS, RSA_ALGORITHMS, Key

MAX_KEYS = 64
"""How many a set may have; a provider has a few."""

_ALGORITHMS = get_default_algorithms()
_FAMILIES = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}  # who reads which kty


class NotAKey(Exception):
    """It is no key that can be used; the text says what it is."""


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def pem_key(pem: bytes) -> Key:
    """The key of a PEM.

    Raises:
        NotAKey: it is none that fits an algorithm.
    """
    try:
        material = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise NotAKey("a private key" if b"PRIVATE KEY" in pem else "no public key") from None
    names = _fitting(material)
    if not names:
        raise NotAKey("a key that fits no algorithm")
    return Key("", {name: _ALGORITHMS[name] for name in names}, material)


def read_key_set(text: bytes) -> tuple[list[Key], int]:
    """The keys of a JSON Web Key Set that verify signatures, and how many it has beside them.

    Raises:
        NotAKey: it is no key set, or one without such keys.
    """
    try:
        given = msgspec.json.decode(text, type=_KeySet).keys
    except (ValueError, RecursionError):
        raise NotAKey("its answer is no key set") from None
    if len(given) > MAX_KEYS:
        raise NotAKey(f"its answer has more than {MAX_KEYS} keys")
    keys = [key for jwk in given if (key := _jwk_key(jwk)) is not None]
    if not keys:
        raise NotAKey("its answer has no key that can be used")
    return keys, len(given) - len(keys)


def _jwk_key(jwk: Mapping[str, Any]) -> Key | None:
    """The key; None for one that is for something else, private, or not understood."""
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not _has(operations, "verify"):
        return None
    family = jwk.get("kty")
    if not isinstance(family, str) or family not in _FAMILIES:
        return None
    try:
        material = _ALGORITHMS[_FAMILIES[family]].from_jwk(dict(jwk))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        return None
    names = [name for name in _fitting(material) if jwk.get("alg", name) == name]
    key_id = jwk.get("kid", "")
    if not names or not isinstance(key_id, str):
        return None
    return Key(key_id, {name: _ALGORITHMS[name] for name in names}, material)


def _has(operations: object, wanted: str) -> bool:
    return isinstance(operations, list) and wanted in operations


def _fitting(material: object) -> tuple[str, ...]:
    """The names of the algorithms that a key fits."""
    match material:
        case RSAPublicKey() if material.key_size >= LEAST_RSA_BITS:
            return RSA_ALGORITHMS
        case EllipticCurvePublicKey() if material.curve.name in CURVE_ALGORITHMS:
            return (CURVE_ALGORITHMS[material.curve.name],)
        case Ed25519PublicKey() | Ed448PublicKey():
            return ("EdDSA",)
        case _:
            return ()
