"""The operator's console: files of ``fastimd/console/``, and some that the chat page has, too.

Anybody who reaches the admin address may have them: they show nothing but what the server API
answers. The policy lets them run nothing else, and speak with nobody but the daemon they come from.
"""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from .static import read_files, send_file

SHARED = ("page.css", "dark.css", "icon.svg", "dom.js", "language.js", "moderation-words.js")
"""What the console has in common with the chat page."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)


def add_console(app: QuartTrio) -> None:
    """Add the routes under ``/console``, and the way there from ``/``."""
    page = read_files("fastimd.page")
    console = {name: page[name] for name in SHARED} | read_files("fastimd.console")

    async def send(name: str) -> Response:
        response = await send_file(console, name, _POLICY)
        response.headers["X-Frame-Options"] = "DENY"
        return response

    @app.get("/")
    async def way_there() -> Response:
        # Relative: a proxy may have put a prefix before it.
        return Response(b"", status=302, headers={"Location": "console"})

    @app.get("/console")
    async def show_console() -> Response:
        return await send("console.html")

    @app.get("/console/")
    async def way_back() -> Response:
        return Response(b"", status=302, headers={"Location": "../console"})

    @app.get("/console/<name>")
    async def console_part(name: str) -> Response:
        return await send(name)
