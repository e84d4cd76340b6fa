"""TLS on the way to Redis, as the options of ``redis.url`` ask for it."""

from __future__ import annotations

import ssl
from typing import Any

from ..base.errors import StartupError
from .cause import cause_of


def ssl_context(options: dict[str, Any]) -> ssl.SSLContext:
    """What the URL says of TLS.

    Raises:
        StartupError: a certificate or key that it names cannot be used.
    """
    authority, certificate = options.get("ssl_ca_certs"), options.get("ssl_certfile")
    key = options.get("ssl_keyfile")
    about = f"ssl_ca_certs={authority}" if authority else "ssl_ca_data"
    try:
        context = ssl.create_default_context(cafile=authority, cadata=options.get("ssl_ca_data"))
        about = f"ssl_certfile={certificate or ''}, ssl_keyfile={key or ''}"
        if certificate or key:
            # Without a password OpenSSL would ask for one at the terminal.
            password = options.get("ssl_password", "")
            context.load_cert_chain(certificate or "", key, password)
    except (OSError, ValueError) as exc:
        raise StartupError(f"redis.url: {about}: {cause_of(exc)}") from exc
    if not options.get("ssl_check_hostname", True) or options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
