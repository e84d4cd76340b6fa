"""``fastimd api-key``: makes a key, and prints the secret once."""

from __future__ import annotations

import argparse
import json
import secrets
import sys

import msgspec

from ..base.errors import EXIT_CONFIG
from ..base.settings.api import ApiKey, digest_of

SECRET_BYTES = 32


def run_command(arguments: argparse.Namespace) -> int:
    """Print a new secret, and the table for the settings; returns the exit status."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    key = {
        "name": arguments.name,
        "sha256": digest_of(secret.encode()),
        "methods": arguments.methods,
        "groups": arguments.groups,
    }
    try:
        msgspec.convert(key, ApiKey)
    except msgspec.ValidationError:
        print(
            f"fastimd: a name has at most 64 letters, digits, _ . and -: {arguments.name!r}",
            file=sys.stderr,
        )
        return EXIT_CONFIG
    print(f"The secret, which is shown only now. Your backend sends it as X-API-Key:\n\n{secret}\n")
    print("The table for the settings, which tells nobody the secret:\n\n[[api.keys]]")
    for name, value in key.items():
        if value != ["*"]:
            print(f"{name} = {json.dumps(value)}")
    return 0
