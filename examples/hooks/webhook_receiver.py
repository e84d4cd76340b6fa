"""A receiver of webhooks, in the standard library alone: a pattern for one in any language.

It checks signatures, refuses what is stale, answers what is asked twice in the same way, lets two
users log in, refuses links, and prints who comes and goes:

    export FASTIMD_HOOKS__WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)
    .venv/bin/python examples/hooks/webhook_receiver.py 8080 &
    export FASTIMD_HOOKS__WEBHOOK_URL=http://127.0.0.1:8080/
    export FASTIMD_HOOKS__WEBHOOK_EVENTS=login,on_message,on_join,on_leave
    .venv/bin/fastimd

User 1 may log in with the password "correct horse". ``kill %1`` ends the receiver.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOLERANCE_SECONDS = 300
"""How old a request may be, and how long its id is remembered."""
MAX_BODY_BYTES = 16 * 1024 * 1024 + 65536
"""The largest message that can be set, and what is around it."""

PASSWORDS = {"1": "correct horse", "2": "battery staple"}


def decide(event: dict[str, Any]) -> dict[str, Any]:
    """What fastimd is answered; this is what you would write."""
    match event["type"]:
        case "login":
            if PASSWORDS.get(event["userId"]) != event["password"]:
                return {"allow": False, "reason": "wrong user or password"}
            return {"allow": True, "data": {"name": f"User {event['userId']}"}}
        case "on_message":
            if "://" in event["info"]:
                return {"allow": False, "reason": "no links, please"}
            return {"allow": True, "info": event["info"].strip()}
        case "on_join" | "on_leave":
            print(event["type"], event["groupId"], event["userId"], event["connectionId"])
            return {}
    raise ValueError("an event that was not asked for")


def is_good(key: bytes, headers: Any, body: bytes) -> bool:
    """Whether a request is from who has the key, unchanged, and fresh."""
    timestamp = headers.get("webhook-timestamp", "")
    if not is_number(timestamp) or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    signed = f"{headers.get('webhook-id')}.{timestamp}.".encode() + body
    expected = "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()
    given = headers.get("webhook-signature", "").split(" ")  # several while a secret is changed
    return any(hmac.compare_digest(expected.encode(), each.encode()) for each in given)


def is_number(text: str) -> bool:
    """Whether it is one as this receiver takes it: what comes from outside may be anything."""
    return re.fullmatch("[0-9]{1,12}", text) is not None


class Answers:
    """The answers of the last minutes by the request's id: what comes twice is decided once."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, message_id: str, body: bytes) -> bytes:
        with self._lock:
            self._forget(time.monotonic() - TOLERANCE_SECONDS)
            if message_id not in self._answers:
                answer = json.dumps(decide(json.loads(body))).encode()
                self._answers[message_id] = time.monotonic(), answer
            return self._answers[message_id][1]

    def _forget(self, before: float) -> None:
        while self._answers and next(iter(self._answers.values()))[0] < before:
            self._answers.popitem(last=False)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # fastimd keeps its connections
    disable_nagle_algorithm = True  # else each answer waits for an acknowledgement
    key: bytes
    answers = Answers()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not is_number(length) or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self._answer(413 if is_number(length) else 411, b"")
        body = self.rfile.read(int(length))
        if not is_good(self.key, self.headers, body):
            return self._answer(401, b"")
        return self._answer(200, self.answers.answer(self.headers["webhook-id"], body))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing for each request."""


def main() -> None:
    if len(sys.argv) != 2 or "FASTIMD_HOOKS__WEBHOOK_SECRET" not in os.environ:
        sys.exit("usage: FASTIMD_HOOKS__WEBHOOK_SECRET=whsec_… webhook_receiver.py PORT")
    secret = os.environ["FASTIMD_HOOKS__WEBHOOK_SECRET"]
    Receiver.key = b64decode(secret.removeprefix("whsec_"))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"listening on port {server.server_address[1]}")
    server.serve_forever()


if __name__ == "__main__":
    main()
