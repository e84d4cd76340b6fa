"""The files of a page, which lie in a package and are read once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from quart import Response
from werkzeug.exceptions import NotFound

from .document import send_document

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


def read_files(package: str) -> dict[str, bytes]:
    """The files of a page by their names."""
    return {
        file.name: file.read_bytes()
        for file in files(package).iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }


async def send_file(page: Mapping[str, bytes], name: str, policy: str) -> Response:
    """The answer to this request: a file of a page, under a content security policy.

    Raises:
        NotFound: the page has none of that name.
    """
    if name not in page:
        raise NotFound
    response = await send_document(page[name], _TYPES[name.rpartition(".")[2]])
    response.headers["Content-Security-Policy"] = policy
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
