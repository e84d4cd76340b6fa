"""Asks Centrifugo what the scripts ask, and keeps its answers for the tests.

    .venv/bin/python tests/live/beside.py [CENTRIFUGO]

writes ``centrifugo.json``; CENTRIFUGO is the binary, else the one that ``make bench`` builds.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from play import SECRET, Transcript, play_all
from scripts import SCRIPTS

HERE = Path(__file__).parent
RECORD = HERE / "centrifugo.json"
VERSION = "6.9.1"
BINARY = HERE.parent.parent / "bench" / "peers" / "bin" / VERSION / "centrifugo"
START_SECONDS = 20.0


@contextmanager
def run_centrifugo(binary: str) -> Iterator[str]:
    """A Centrifugo with its data in memory; yields its HOST:PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "CENTRIFUGO_HTTP_SERVER_PORT": str(port),
        "CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY": SECRET,
    }
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            [binary, "-c", str(HERE / "centrifugo.yaml")],
            env=os.environ | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _await_listening(port, process, log.name)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _await_listening(port: int, process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Centrifugo did not start:\n{Path(log).read_text()}") from None
            time.sleep(0.05)
        else:
            return


def unfolded(record: dict[str, dict[str, Any]]) -> dict[str, dict[str, Transcript]]:
    """The record, with what Protobuf has as JSON has."""
    return {
        name: {wire: told["json"] if was == "as json" else was for wire, was in told.items()}
        for name, told in record.items()
    }


def folded(played: dict[str, dict[str, Transcript]]) -> dict[str, dict[str, Any]]:
    """What is written down: that of Protobuf only where it differs."""
    return {
        name: {
            wire: "as json" if wire == "protobuf" and was == told.get("json") else was
            for wire, was in told.items()
        }
        for name, told in played.items()
    }


def main() -> None:
    """Play all, and write the record."""
    binary = sys.argv[1] if len(sys.argv) > 1 else str(BINARY)
    with run_centrifugo(binary) as address:
        played = trio.run(
            play_all,
            address,
            [(name, script, wire) for name, script in SCRIPTS.items() for wire in script.wires],
        )
    inorder = {name: {wire: played[name][wire] for wire in SCRIPTS[name].wires} for name in SCRIPTS}
    lines = [f"{json.dumps(name)}: {json.dumps(told)}" for name, told in folded(inorder).items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
