"""A key, and the algorithms that it fits.

A token's header chooses among our pairs of both and makes none of its own: a public key's text is
never a secret. PyJWT computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
PUBLIC_ALGORITHMS = frozenset((*RSA_ALGORITHMS, *CURVE_ALGORITHMS.values(), "EdDSA"))
LEAST_RSA_BITS = 2048


class Key(NamedTuple):
    """A key; ``id`` is "" where it has none."""

    id: str
    algorithms: Mapping[str, Algorithm]
    material: Any

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether the signature is of this key; the algorithm is one of the key's."""
        return self.algorithms[algorithm].verify(signed, self.material, signature)
