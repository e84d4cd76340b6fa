"""Asks Centrifugo's server API what the tests ask of fastimd, and keeps its answers.

    .venv/bin/python tests/api/side_by_side.py [CENTRIFUGO]

writes ``centrifugo_api.json``; CENTRIFUGO is the binary, else the one that ``make bench`` builds.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from websockets.sync.client import ClientConnection, connect

HERE = Path(__file__).parent
RECORD = HERE / "centrifugo_api.json"
API_KEY = "a-key-that-only-the-tests-know"
SECRET = "a-secret-that-only-the-tests-know"
JSON = {"Content-Type": "application/json"}
KEY = {**JSON, "X-API-Key": API_KEY}
TRANSPORT = {**KEY, "X-Centrifugo-Error-Mode": "transport"}


class Call(NamedTuple):
    """A request: what it is called in the record, and what it has."""

    name: str
    method: str
    body: Any
    headers: Mapping[str, str] = KEY
    verb: str = "POST"


def _code(code: int) -> dict[str, Any]:
    return {"code": code, "reason": "x"}


SAY = {"channel": "g", "data": {"text": "hi"}}
SINCE = {"offset": "FIRST", "epoch": "EPOCH"}
SAY_MANY = {"channels": ["g"], "data": 1}
LOST = {"channel": "g", "since": {"offset": 1, "epoch": "x"}}
BACK = {"channel": "g", "limit": 1, "reverse": True, "since": {}}
CALLS = [
    # What is said
    Call("publish", "publish", SAY),
    Call("publish a text", "publish", {"channel": "g", "data": "hi", "tags": {"a": "b"}}),
    Call("publish a number", "publish", {"channel": "g", "data": 5}),
    Call("publish null", "publish", {"channel": "g", "data": None}),
    Call("publish b64data", "publish", {"channel": "g", "b64data": "eyJhIjoxfQ=="}),
    Call("publish b64data that is none", "publish", {"channel": "g", "b64data": "?"}),
    Call("publish with a key", "publish", {**SAY, "idempotency_key": "k"}),
    Call("publish with the key again", "publish", {**SAY, "idempotency_key": "k"}),
    Call("publish past the history", "publish", {**SAY, "skip_history": True}),
    Call("publish a version", "publish", {**SAY, "version": 3}),
    Call("publish with a delta", "publish", {**SAY, "delta": True}),
    Call("publish more than is known", "publish", {**SAY, "unknown": 1}),
    Call("publish without a channel", "publish", {"data": "hi"}),
    Call("publish without data", "publish", {"channel": "g"}),
    Call("publish in a channel of a number", "publish", {"channel": 5, "data": "hi"}),
    Call("publish in a channel with a NUL", "publish", {"channel": "a\0b", "data": "hi"}),
    Call("publish in a long channel", "publish", {"channel": "x" * 300, "data": "hi"}),
    Call("broadcast", "broadcast", {"channels": ["g", "h"], "data": "hi"}),
    Call("broadcast with a key", "broadcast", {**SAY_MANY, "idempotency_key": "b"}),
    Call("broadcast to nobody", "broadcast", {"channels": [], "data": "hi"}),
    Call("broadcast without channels", "broadcast", {"data": "hi"}),
    Call("broadcast without data", "broadcast", {"channels": ["g"]}),
    Call("broadcast to a channel that is none", "broadcast", {"channels": ["g", ""], "data": "hi"}),
    # What was said
    Call("history", "history", {"channel": "g"}),
    Call("history of two", "history", {"channel": "g", "limit": 2}),
    Call("history of two backwards", "history", {"channel": "g", "limit": 2, "reverse": True}),
    Call("history of all", "history", {"channel": "h", "limit": -1}),
    Call("history of nothing", "history", {"channel": "nothing", "limit": 5}),
    Call("history since", "history", {"channel": "g", "limit": 1, "since": SINCE}),
    Call(
        "history since another epoch",
        "history",
        {"channel": "g", "since": {"offset": 1, "epoch": "x"}},
    ),
    Call(
        "history since nothing backwards",
        "history",
        {"channel": "g", "limit": 1, "reverse": True, "since": {}},
    ),
    Call("history with a wrong limit", "history", {"channel": "g", "limit": "x"}),
    Call("history without a channel", "history", {}),
    Call("history_remove", "history_remove", {"channel": "h"}),
    Call("history after that", "history", {"channel": "h", "limit": 5}),
    Call("history_remove without a channel", "history_remove", {}),
    # Who is here
    Call("presence", "presence", {"channel": "g"}),
    Call("presence of nobody", "presence", {"channel": "nothing"}),
    Call("presence without a channel", "presence", {}),
    Call("presence_stats", "presence_stats", {"channel": "g"}),
    Call("presence_stats without a channel", "presence_stats", {}),
    Call("channels", "channels", {}),
    Call("channels of a pattern", "channels", {"pattern": "g*"}),
    Call("channels of another pattern", "channels", {"pattern": "x*"}),
    Call("info", "info", {}),
    # What is done to users
    Call("subscribe", "subscribe", {"channel": "h", "user": "bo"}),
    Call("refresh", "refresh", {"user": "bo"}),
    Call("unsubscribe", "unsubscribe", {"channel": "h", "user": "bo"}),
    Call("unsubscribe nobody", "unsubscribe", {"channel": "h", "user": "no"}),
    Call("unsubscribe without a user", "unsubscribe", {"channel": "h"}),
    Call("unsubscribe without a channel", "unsubscribe", {"user": "bo"}),
    Call("disconnect nobody", "disconnect", {"user": "no"}),
    Call(
        "disconnect with a code",
        "disconnect",
        {"user": "no", "disconnect": _code(4001)},
    ),
    Call(
        "disconnect with a wrong code",
        "disconnect",
        {"user": "no", "disconnect": _code(2)},
    ),
    Call("disconnect without a user", "disconnect", {}),
    Call("rpc", "rpc", {"method": "x"}),
    # Batches
    Call("batch", "batch", {"commands": [{"publish": SAY}, {"presence_stats": {"channel": "g"}}]}),
    Call("batch side by side", "batch", {"commands": [{"publish": SAY}], "parallel": True}),
    Call("batch with an error", "batch", {"commands": [{"publish": {}}, {"publish": SAY}]}),
    Call("batch of nothing", "batch", {"commands": []}),
    Call("batch without commands", "batch", {}),
    Call("batch of what is unknown", "batch", {"commands": [{"no_such": {}}]}),
    # Requests
    Call("an unknown method", "no_such", {}),
    Call("an empty body", "info", b""),
    Call("no JSON", "publish", b"x"),
    Call("an array", "publish", []),
    Call("no key", "info", {}, JSON),
    Call("a wrong key", "info", {}, {**JSON, "X-API-Key": "x"}),
    Call("a key as authorization", "info", {}, {**JSON, "Authorization": f"apikey {API_KEY}"}),
    Call("a key in the URL", f"info?api_key={API_KEY}", {}, JSON),
    Call("GET", "info", b"", KEY, "GET"),
    Call("no content type", "info", {}, {"X-API-Key": API_KEY}),
    Call("an error as status", "publish", {}, TRANSPORT),
    Call(
        "a lost position as status",
        "history",
        {"channel": "g", "since": {"offset": 1, "epoch": "x"}},
        TRANSPORT,
    ),
    Call("no error as status", "presence_stats", {"channel": "g"}, TRANSPORT),
]


def play(address: str) -> dict[str, Any]:
    """Make all calls, with ``bo`` in the channels g and h; the answers by the calls' names."""
    token = jwt.encode({"sub": "bo", "info": {"name": "Bo"}}, SECRET, "HS256")
    with connect(f"ws://{address}/connection/websocket") as bo:
        _ask(bo, {"id": 1, "connect": {"token": token}})
        _ask(bo, {"id": 2, "subscribe": {"channel": "g"}})
        _ask(bo, {"id": 3, "subscribe": {"channel": "h"}})
        _await_presence(address)
        _, asked = _make(address, Call("", "history", {"channel": "g"}), {})
        known: dict[str, Any] = {"EPOCH": asked["result"]["epoch"]}
        answers = {}
        for call in CALLS:
            status, answer = _make(address, call, known)
            if call.name == "publish":
                known["FIRST"] = answer["result"]["offset"]
            answers[call.name] = {"status": status, "body": shape_of(answer)}
        return answers


def _ask(client: ClientConnection, command: dict[str, Any]) -> None:
    client.send(json.dumps(command))
    while True:
        for line in str(client.recv(10)).splitlines():
            reply = json.loads(line)
            if reply.get("id") == command["id"]:
                assert "error" not in reply, reply
                return


def _await_presence(address: str) -> None:
    deadline = time.monotonic() + 10
    while _make(address, Call("", "presence_stats", {"channel": "h"}), {})[1]["result"] != {
        "num_clients": 1,
        "num_users": 1,
    }:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _make(address: str, call: Call, known: Mapping[str, Any]) -> tuple[int, Any]:
    host, port = address.rsplit(":", 1)
    body = call.body if isinstance(call.body, bytes) else json.dumps(call.body)
    if isinstance(body, str):
        for name, value in known.items():
            body = body.replace(f'"{name}"', json.dumps(value))
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(call.verb, f"/api/{call.method}", body, dict(call.headers))
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(data)
    except ValueError:
        return response.status, "no JSON"


def shape_of(value: Any, name: str = "") -> Any:
    """A value without what is another each time: numbers, ids, and the words of errors."""
    match value:
        case dict():
            return {
                re.sub(r"^[0-9a-f-]{32,36}$|^\d+\.[0-9a-f.]+$", "CLIENT", key): shape_of(inner, key)
                if key != "data"
                else inner
                for key, inner in sorted(value.items())
            }
        case list() if name == "nodes":
            return ["NODE"] if value else []
        case list():
            return [shape_of(each) for each in value]
        case str() if name in ("epoch", "client", "message"):
            return name.upper()
        case int() if name in ("offset", "time", "num_messages"):
            return name.upper() if value else 0
    return value


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, list[str]]:
    """What differs, by the calls' names: each line has the place, their value and ours."""
    found: dict[str, list[str]] = {}
    for name, answer in theirs.items():
        lines = sorted(_lines(answer, ours[name], ""))
        if lines:
            found[name] = lines
    return found


def _lines(theirs: Any, ours: Any, place: str) -> list[str]:
    if theirs == ours:
        return []
    if isinstance(theirs, dict) and isinstance(ours, dict):
        lines = []
        for key in sorted(theirs.keys() | ours.keys()):
            inner = f"{place}.{key}".lstrip(".")
            lines += _lines(theirs.get(key, "nothing"), ours.get(key, "nothing"), inner)
        return lines
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return [
            line
            for number, pair in enumerate(zip(theirs, ours, strict=True))
            for line in _lines(*pair, f"{place}.{number}")
        ]
    told = [
        each if each == "nothing" else json.dumps(each, sort_keys=True) for each in (theirs, ours)
    ]
    return [f"{place}: {told[0]} -> {told[1]}"]


def read_record() -> dict[str, Any]:
    """What Centrifugo has answered."""
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


def main() -> None:
    """Ask Centrifugo, and write the record."""
    sys.path.append(str(HERE.parent / "live"))
    sys.path.append(str(HERE.parent))
    from beside import BINARY, run_centrifugo

    os.environ["CENTRIFUGO_HTTP_API_KEY"] = API_KEY
    with run_centrifugo(sys.argv[1] if len(sys.argv) > 1 else str(BINARY)) as address:
        answers = play(address)
    lines = [
        f"{json.dumps(name)}: {json.dumps(each, sort_keys=True)}" for name, each in answers.items()
    ]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
