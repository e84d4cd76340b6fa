"""The test page, whose files lie in ``fastimd/page/``.

They are read once. The policy lets the page run and load nothing but these files, and connect to
any server, for it may be one that another daemon serves.
"""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from .static import read_files, send_file

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss: http: https:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)


def add_page(app: QuartTrio) -> None:
    """Add the routes under ``/test/``, and the way there from ``/``."""
    page = read_files("fastimd.page")

    async def send(name: str) -> Response:
        return await send_file(page, name, _POLICY)

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
