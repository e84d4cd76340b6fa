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
from play import SECRET, Played, play_all
from scripts import SCRIPTS

HERE = Path(__file__).parent
RECORD = HERE / "centrifugo.json"
VERSION = "6.9.1"
BINARY = HERE.parent.parent / "bench" / "peers" / "bin" / VERSION / "centrifugo"
START_SECONDS = 20.0
PLAYS = [(name, wire) for name, script in SCRIPTS.items() for wire in script.wires]


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


def read_record() -> Played:
    """What Centrifugo has answered."""
    record: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())
    return {
        (name, wire): record[name]["json"]
        if record[name][wire] == "as json"
        else record[name][wire]
        for name, wire in PLAYS
    }


def _write_record(played: Played) -> None:
    """A line for each script; what Protobuf has as JSON has is said once."""
    lines = []
    for name, script in SCRIPTS.items():
        told = {
            wire: "as json"
            if wire != "json" and played[name, wire] == played.get((name, "json"))
            else played[name, wire]
            for wire in script.wires
        }
        lines.append(f"{json.dumps(name)}: {json.dumps(told, sort_keys=True)}")
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Play all, and write the record."""
    binary = sys.argv[1] if len(sys.argv) > 1 else str(BINARY)
    with run_centrifugo(binary) as address:
        played = trio.run(play_all, address, PLAYS)
    failed = [
        f"{play}: {told[0]['failed']}" for play, told in played.items() if "failed" in told[0]
    ]
    if failed:
        raise SystemExit("\n".join(failed))
    _write_record(played)


if __name__ == "__main__":
    main()
