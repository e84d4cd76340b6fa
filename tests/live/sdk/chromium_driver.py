"""The driver in a browser: ``python chromium_driver.py json|protobuf FOLDER``.

The page and the browser build of the npm package come from a server of this process, so that the
page's origin is not the daemon's. FOLDER is where the package is installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

HERE = Path(__file__).parent / "javascript"

sys.path.insert(0, str(Path(__file__).parents[2]))
from browser import find_programs, running_browser  # noqa: E402 - from the folder of all tests


def serve_files(encoding: str, packages: Path) -> str:
    """Serve the page from a thread; its URL."""
    built = packages / "node_modules" / "centrifuge" / "dist"
    name = "centrifuge.protobuf.js" if encoding == "protobuf" else "centrifuge.js"
    files = {
        "/page.html": ("text/html", HERE / "page.html"),
        "/driver.js": ("text/javascript", HERE / "driver.js"),
        "/library.js": ("text/javascript", built / name),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, path = files[self.path]
            body = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/page.html#{encoding}"


def main(encoding: str, packages: str) -> None:
    """Take commands and give events until standard input ends."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        running_browser(find_programs(), Path(profile), "en-US") as browser,
    ):
        browser.get(serve_files(encoding, Path(packages)))
        while (commands := take(lines)) is not None:
            script = "exchange(arguments[0], arguments[1])"
            for event in browser.execute_async_script(script, commands):
                print(json.dumps(event, ensure_ascii=False), flush=True)


def take(lines: SimpleQueue[str | None]) -> list[Any] | None:
    """The commands that are there, without waiting for any; None at the end."""
    commands: list[Any] = []
    try:
        while True:
            line = lines.get_nowait()
            if line is None:
                return None
            commands.append(json.loads(line))
    except Empty:
        return commands


if __name__ == "__main__":
    main(*sys.argv[1:])
