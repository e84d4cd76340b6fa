"""The test page, whose files lie in ``fastimd/page/``.

They are read once. The policy lets the page run and load nothing but these files, and connect to
any server, for it may be one that another daemon serves.
"""

from __future__ import annotations

from importlib.resources import files

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

from .document import send_document

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss: http: https:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


def add_page(app: QuartTrio) -> None:
    """Add the routes under ``/test/``, and the way there from ``/``."""
    page = {
        file.name: file.read_bytes()
        for file in files("fastimd.page").iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }

    async def send(name: str) -> Response:
        if name not in page:
            raise NotFound
        response = await send_document(page[name], _TYPES[name.rpartition(".")[2]])
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.get("/")
    async def root() -> Response:
        # Relative: the Host of a request is whatever a proxy or a client made of it.
        return Response(b"", status=302, headers={"Location": "/test/websocket"})

    @app.get("/test/websocket")
    async def test_page() -> Response:
        return await send("websocket.html")

    @app.get("/test/static/<name>")
    async def test_page_part(name: str) -> Response:
        return await send(name)
