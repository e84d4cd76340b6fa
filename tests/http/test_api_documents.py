"""The machine-readable documents: each says what a real daemon does, no less and no more.

``openapi.json`` is held against the app's routes and a daemon's answers, ``docs/asyncapi.json``
against its sockets, and docs/PROTOCOL.md against both.
"""

from __future__ import annotations

import ast
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from http.client import HTTPMessage
from inspect import getsource
from pathlib import Path
from typing import Any, cast

import pytest
from clients import (
    Answer,
    closing,
    dial,
    frame,
    handshake,
    in_both_languages,
    log_in,
    log_in_async,
    post,
    request,
)
from conftest import Daemon, StartDaemon, connect, redis_servers, run_redis
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from redis import Redis

from fastimd.base.codec import MAX_ID_LENGTH
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.base.texts import MESSAGE_REFUSED, of_status
from fastimd.classic.routes import find_route
from fastimd.classic.subprotocol import FAST_IM
from fastimd.daemon.drain import _restart_hint
from fastimd.door.head import HEAD_SECONDS, IDLE_SECONDS, MAX_HEAD_BYTES
from fastimd.groups.access import Access
from fastimd.groups.moderation.judge import Judge
from fastimd.groups.moderation.restraint import banned
from fastimd.groups.store import Store
from fastimd.groups.store.policy import Sentence
from fastimd.hooks.runner import HookRunner
from fastimd.http.app import BODY_SECONDS as APP_BODY_SECONDS
from fastimd.http.app import MAX_BODY_BYTES, create_app
from fastimd.http.parameters import MAX_TS
from fastimd.http.server import BODY_SECONDS
from fastimd.live.sockets import PATH as LIVE_PATH
from fastimd.websocket.frames import MAX_REASON_BYTES
from fastimd.websocket.outbox import STALE_SECONDS
from fastimd.websocket.pace import FLOOD_SECONDS
from fastimd.websocket.session import CLOSE_SECONDS

ROOT = Path(__file__).parent.parent.parent
LAST_RELEASE = re.findall(r"^## (\d\S*) - ", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
OPENAPI_TEXT = (ROOT / "fastimd" / "http" / "openapi.json").read_bytes()
OPENAPI: dict[str, Any] = json.loads(OPENAPI_TEXT)

JUDGING = """
from dataclasses import replace

from fastimd.hooks import Refused

VERDICTS = {verdicts}


def judge(code, reason):
    if code == 403:
        raise Refused(reason)
    if code == 503:
        raise RuntimeError("a fault of the tests")


def login(user_id, password):
    judge(*VERDICTS.get(password, (200, "")))
    return "user_info"


async def authorize(user_id, token, action, group_id):
    judge(*VERDICTS.get(token, (200, "")))
    return token != "wrong"


async def on_message(message):
    judge(*VERDICTS.get(message.info, (200, "")))
    return replace(message, info=message.info.replace("darn", "****"))
"""
VERDICTS = {"refuse": (403, ""), "explain": (403, "wrong password"), "fail": (503, "")}
"""What the hooks make of a password, a token or a text: code and reason."""
BREAKING = """
from fastimd.groups.store.history import History
from fastimd.groups.store.logins import Logins
from fastimd.groups.store.members import Members
from fastimd.groups.store.messages import Messages


def login(user_id, password):
    return "user_info"


def fail(*arguments):
    raise RuntimeError("a fault of the tests")


for part, names in {
    Logins: ("log_in",),
    Members: ("join", "leave", "groups_of"),
    History: ("range", "before"),
    Messages: ("recall",),
}.items():
    for name in names:
        setattr(part, name, fail)
"""


# The document


def resolve(document: Mapping[str, Any], part: Any) -> Any:
    """What a part of a document is, or refers to."""
    while isinstance(part, dict) and "$ref" in part:
        found: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def check(document: Mapping[str, Any], schema: Mapping[str, Any], value: object) -> None:
    """Fail unless the value is as the schema of a document says."""
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


@dataclass(frozen=True)
class Operation:
    """One operation of openapi.json; ``parts`` is its object there."""

    method: str
    path: str
    parts: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.parts["operationId"])

    @property
    def is_protected(self) -> bool:
        return bool(self.parts.get("security", OPENAPI["security"]))

    @property
    def target(self) -> str:
        """The path with the examples of its parameters."""
        path = self.path
        for parameter in self.parts.get("parameters", []):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
        return path

    @property
    def forms(self) -> list[Mapping[str, Any]]:
        """The schemas of the forms it takes."""
        schema = self.body.get("schema")
        listed = [] if schema is None else schema.get("anyOf", [schema])
        return [resolve(OPENAPI, each) for each in listed]

    @property
    def body(self) -> Mapping[str, Any]:
        """What it has to say of a request's body; nothing if it takes none."""
        content = dict(self.parts.get("requestBody", {}).get("content", {}))
        body = content.pop("application/x-www-form-urlencoded", {})
        assert not content
        return cast(Mapping[str, Any], body)

    def examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each example of a request: its name, and the form."""
        for name, example in self.body.get("examples", {}).items():
            value = resolve(OPENAPI, example)["value"]
            check(OPENAPI, self.body["schema"], value)
            yield name, value

    def example_answer(self, name: str) -> Any:
        return self.parts["responses"]["200"]["content"]["application/json"]["examples"][name][
            "value"
        ]

    def check_answer(self, answer: Answer) -> None:
        """Fail unless an answer is one of those that the document has."""
        response = resolve(OPENAPI, self.parts["responses"][str(answer.status)])
        for name, header in response["headers"].items():
            header = resolve(OPENAPI, header)
            value = answer.headers[name]
            assert value is not None or not header.get("required"), (self.name, name)
            if value is not None:
                check(OPENAPI, header["schema"], value)
        content = response.get("content", {})
        if not content:
            assert answer.body == b""
            return
        kind = answer.headers["Content-Type"].partition(";")[0]
        if kind == "application/json":
            check(OPENAPI, content[kind]["schema"], answer.json)
        else:
            check(OPENAPI, content[kind]["schema"], answer.body.decode())


OPERATIONS = [
    Operation(method.upper(), path, parts)
    for path, methods in OPENAPI["paths"].items()
    for method, parts in methods.items()
]
POSTS = [operation for operation in OPERATIONS if operation.method == "POST"]
FORMS = [form for operation in POSTS for form in operation.forms]
GETS = [operation for operation in OPERATIONS if operation.method == "GET"]


def test_the_document_is_openapi() -> None:
    """A validator finds nothing wrong with it, its examples included."""
    assert [error.message for error in OpenAPIV31SpecValidator(OPENAPI).iter_errors()] == []
    assert OPENAPI["info"]["version"] == LAST_RELEASE
    for operation in OPERATIONS:
        for response in operation.parts["responses"].values():
            for body in resolve(OPENAPI, response).get("content", {}).values():
                examples = [example["value"] for example in body.get("examples", {}).values()]
                for value in [*examples, *([body["example"]] if "example" in body else [])]:
                    check(OPENAPI, body["schema"], value)


def test_nothing_in_the_document_is_unused() -> None:
    """Each component is referred to."""
    text = OPENAPI_TEXT.decode()
    for kind, parts in OPENAPI["components"].items():
        for name in parts if kind != "securitySchemes" else ():
            assert f'"#/components/{kind}/{name}"' in text, name


def test_generators_of_clients_understand_the_document() -> None:
    """It has what they make good names of, and nothing that those in use stumble over.

    openapi-python-client 0.29 writes broken code for a body of two media types, openapi-generator
    7.26 ends at a property of the type null.
    """
    assert '{"type": "null"}' not in OPENAPI_TEXT.decode()
    for operation in POSTS:
        contents = [
            resolve(OPENAPI, response)["content"]
            for response in operation.parts["responses"].values()
        ]
        if "requestBody" in operation.parts:
            contents.append(operation.parts["requestBody"]["content"])
        for content in contents:
            [body] = content.values()
            schema = body["schema"]
            named = schema.get("oneOf") or schema.get("anyOf") or [schema]
            assert all(each.keys() == {"$ref"} for each in named), operation.name


def test_the_document_has_the_routes_of_the_app() -> None:
    """Each rule with each of its methods, but for those that every route has."""
    config, store, metrics = Config(), cast(Store, None), Metrics()
    hooks = HookRunner({}, config, metrics)
    app = create_app(config, store, Access(config, store, hooks), cast(Judge, None), hooks, metrics)
    routes = {
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == {(operation.method, operation.path) for operation in OPERATIONS}


# A daemon


def test_the_daemon_serves_the_document(daemon: Daemon) -> None:
    """As it is; to pages of other origins; and not again to who has it."""
    answer = request(daemon, "GET", "/openapi.json", headers={"Origin": "https://docs.example"})
    assert answer.body == OPENAPI_TEXT
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://docs.example")
    assert answer.headers["Cache-Control"] == "no-cache"
    operation = next(each for each in GETS if each.path == "/openapi.json")
    operation.check_answer(answer)
    for etag, status in ((answer.headers["ETag"], 304), ('"another"', 200)):
        again = request(daemon, "GET", "/openapi.json", headers={"If-None-Match": etag})
        assert again.status == status
        operation.check_answer(again)


@pytest.mark.parametrize("multipart", [True, False])
def test_a_daemon_asks_for_the_documented_parameters(daemon: Daemon, multipart: bool) -> None:
    """Given nothing, it names one parameter after another, until it has all of the document."""
    headers = log_in(daemon, "2")  # logging in as 1 ends no token of 2
    for operation in POSTS:
        for form in operation.forms or [{"properties": {}, "required": []}]:
            assert set(form["properties"]) == set(form["required"])
            wanted = dict.fromkeys(form["required"], "1")
            # What tells one form of a route from the other.
            given = {"ts": "1"} if "ts" in wanted and len(operation.forms) > 1 else {}
            for _ in wanted.keys() - given.keys():
                answer = post(daemon, operation.path, given, headers, multipart=multipart)
                assert answer.status == 400, (operation.name, given)
                operation.check_answer(answer)
                name = answer.json["msg"].partition(" ")[2].partition(" ")[0]
                assert name not in given
                given[name] = wanted[name]
            answer = post(daemon, operation.path, given, headers, multipart=multipart)
            assert answer.status == 200, (operation.name, given)
            operation.check_answer(answer)


def test_a_daemon_asks_for_the_documented_headers(daemon: Daemon) -> None:
    """Without one of them the protected routes answer as documented; login asks for none."""
    schemes = {
        scheme["name"]: OPENAPI["security"][0][name]
        for name, scheme in OPENAPI["components"]["securitySchemes"].items()
    }
    headers = log_in(daemon)
    assert set(schemes) == set(headers)
    for operation in POSTS:
        for left_out in headers if operation.is_protected else ():
            given = {name: value for name, value in headers.items() if name != left_out}
            answer = post(daemon, operation.path, {"groupId": "1"}, given)
            assert answer.json == operation.example_answer("notLoggedIn")
            operation.check_answer(answer)
    [login] = [operation for operation in POSTS if not operation.is_protected]
    assert login.path == "/user/login"


def lay_down_examples(redis: Redis) -> None:
    """What the examples of the document tell of."""
    lists = next(operation for operation in POSTS if operation.name == "listMessage")
    for example in ("byIndex", "last"):
        redis.rpush("gml:1", *lists.example_answer(example)["data"])


def test_each_example_gets_the_answer_that_stands_beside_it(
    start_daemon: StartDaemon, redis: Redis, hooks: None
) -> None:
    """Every example of a request, in both forms, to a real daemon."""
    usual = start_daemon()
    patient = start_daemon(group_message__recall_time_limit=str(100 * 365 * 86400))
    strict = start_daemon(hooks__handler="judging")
    sent: set[tuple[str, str]] = set()
    for multipart in (True, False):
        redis.flushall()
        lay_down_examples(redis)
        redis.sadd("ugs:1", "1", "5")
        headers = log_in(usual)
        for operation in POSTS:
            for name, form in operation.examples():
                daemon = patient if name in ("recall", "notThere") else usual
                answer = post(daemon, operation.path, form, headers, multipart=multipart)
                operation.check_answer(answer)
                expected = operation.example_answer(name)
                if name == "logIn":
                    headers["token"] = answer.json["msg"]
                    expected = {**expected, "msg": answer.json["msg"]}
                assert answer.json == expected, (operation.name, name)
                sent.add((operation.name, name))
    lists = next(operation for operation in POSTS if operation.name == "listGroup")
    answer = post(usual, lists.path, {}, headers)
    answer.json["data"].sort()
    assert sorted(answer.json["data"]) == lists.example_answer("groups")["data"]
    login = next(operation for operation in POSTS if operation.name == "login")
    for name, password in (("refused", "refuse"), ("refusedWithReason", "explain")):
        answer = post(strict, login.path, {"userId": "1", "password": password})
        assert answer.json == login.example_answer(name)
    protected = [operation for operation in POSTS if operation.is_protected]
    for operation in protected:
        barred = {"userId": "1", "token": "refuse"}
        answer = post(strict, operation.path, whole_form(operation), barred)
        assert answer.json == operation.example_answer("notAllowed")
    # The answers without a request beside them are those of this test and the one above.
    documented = {
        (operation.name, name)
        for operation in POSTS
        for name in operation.parts["responses"]["200"]["content"]["application/json"]["examples"]
    }
    others = {("listGroup", "groups"), ("login", "refused"), ("login", "refusedWithReason")}
    join = next(operation for operation in POSTS if operation.name == "joinGroup")
    crowded = start_daemon(group__max_joined="1")
    redis.sadd("ugs:1", "1")
    answer = post(crowded, join.path, {"groupId": "none yet"}, log_in(crowded))
    assert answer.json == join.example_answer("tooManyGroups")
    others.add(("joinGroup", "tooManyGroups"))
    for name in ("notLoggedIn", "notAllowed"):
        others |= {(operation.name, name) for operation in protected}
    assert documented == sent | others


def test_messages_in_answers_are_messages(daemon: Daemon, redis: Redis) -> None:
    """Each text in ``data``, parsed once more, is as the document says."""
    lay_down_examples(redis)
    form = {"groupId": "1", "startPage": 0, "endPage": -1}
    texts = post(daemon, "/group/listMessage", form, log_in(daemon)).json["data"]
    assert len(texts) == 3
    for text in texts:
        check(OPENAPI, OPENAPI["components"]["schemas"]["Message"], json.loads(text))


# Errors


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that a daemon can name as its hooks: one judges, one makes faults."""
    declined = ASYNCAPI["components"]["messages"]["declined"]["examples"]
    said = [example["payload"] for example in declined]
    verdicts = VERDICTS | {each["data"]: (each["code"], reason_of(each["msg"])) for each in said}
    (tmp_path / "judging.py").write_text(JUDGING.format(verdicts=verdicts))
    (tmp_path / "breaking.py").write_text(BREAKING)
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")


def reason_of(msg: str) -> str:
    """What a hook says for a ``msg``; the default is for hooks that say nothing."""
    return "" if msg == MESSAGE_REFUSED else msg


def ask(
    daemon: Daemon, operation: Operation, fields: bytes = b"", *, last: bytes = b"\r\n"
) -> Answer:
    """Send the head of a request with further fields; ``last`` is how it ends."""
    with dial(daemon.address) as stream:
        head = f"{operation.method} {operation.target} HTTP/1.1\r\nHost: x\r\n".encode()
        stream.sendall(head + fields + b"Connection: close\r\n" + last)
        return read_answer(stream)


def read_answer(stream: socket.socket) -> Answer:
    said = b""
    while data := stream.recv(65536):
        said += data
    head, _, body = said.partition(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    headers = cast(HTTPMessage, BytesHeaderParser().parsebytes(fields))
    return Answer(int(status.split()[1]), headers, body)


@contextmanager
def one_connection(daemon: Daemon) -> Iterator[None]:
    """Hold the only connection that a daemon lets in."""
    with dial(daemon.address) as stream:
        stream.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.recv(65536).startswith(b"HTTP/1.1 200 ")
        yield


def large_post(daemon: Daemon, operation: Operation) -> Answer:
    return post(daemon, operation.path, {"userId": "x" * 2**20}, {"userId": "1", "token": "t"})


Produce = Callable[[Daemon, Operation], Answer]
BY_THE_REQUEST: dict[int, Produce] = {
    400: lambda daemon, operation: ask(daemon, operation, b"Host: y\r\n"),
    408: lambda daemon, operation: ask(daemon, operation, last=b"X: "),
    431: lambda daemon, operation: ask(daemon, operation, b"X: " + b"x" * 17_000 + b"\r\n"),
    501: lambda daemon, operation: ask(daemon, operation, b"Upgrade: h2c\r\n"),
}
"""How each operation is made to answer with a status, of any daemon."""


def whole_form(operation: Operation) -> dict[str, str]:
    return {name: "1" for form in operation.forms for name in form["required"]}


def check_errors(daemon: Daemon, status: int, produce: Produce) -> set[tuple[str, int]]:
    """Have each operation answer so that has that status; returns those that did."""
    operations = [each for each in OPERATIONS if str(status) in each.parts["responses"]]
    with ThreadPoolExecutor(len(OPERATIONS)) as pool:
        answers = list(pool.map(lambda operation: produce(daemon, operation), operations))
    for operation, answer in zip(operations, answers, strict=True):
        assert answer.status == status, (operation.name, status, answer.body)
        operation.check_answer(answer)
        assert status >= 500 or answer.json["code"] == status
        assert in_both_languages(answer.json["msg"])
    return {(operation.name, status) for operation in operations}


@pytest.mark.timeout(120)
def test_every_documented_error_is_one_of_a_real_daemon(
    start_daemon: StartDaemon, tmp_path: Path, hooks: None
) -> None:
    """Each status of each operation is brought about, and the answer is as documented."""
    seen: set[tuple[str, int]] = set()
    daemon = start_daemon()
    for status, produce in BY_THE_REQUEST.items():
        seen |= check_errors(daemon, status, produce)
    seen |= check_errors(daemon, 413, large_post)
    missing = Operation("GET", "/test/static/no-such-file", GETS[0].parts)
    seen |= check_errors(daemon, 404, lambda daemon, _: ask(daemon, missing))
    for status, limit in ((429, "max_connections_per_ip"), (503, "max_connections")):
        full = start_daemon(**{f"server__{limit}": "1"})
        with one_connection(full):
            seen |= check_errors(full, status, ask)
    faulty = start_daemon(hooks__handler="breaking")
    headers = log_in(daemon)
    seen |= check_errors(
        faulty,
        500,
        lambda faulty, operation: post(faulty, operation.path, whole_form(operation), headers),
    )
    # What one route of the API may answer, each may.
    assert len({frozenset(operation.parts["responses"]) for operation in POSTS}) == 1
    assert seen == {
        (operation.name, int(status))
        for operation in OPERATIONS
        for status in operation.parts["responses"]
        if int(status) >= 400
    }


def test_what_is_in_no_document_is_answered_as_documented(daemon: Daemon) -> None:
    """Other paths, and other methods of these."""
    elsewhere = Operation("", "", {"operationId": "", "responses": OPENAPI["x-elsewhere"]})
    for path in ("/nowhere", "/user/login/", "/user//login", "/openapi.json/"):
        answer = post(daemon, path, {"userId": "1", "password": "x"})
        assert answer.status == 404
        elsewhere.check_answer(answer)
    for operation in OPERATIONS:
        answer = request(daemon, "DELETE", operation.target)
        assert answer.status == 405
        elsewhere.check_answer(answer)


def test_without_redis_the_routes_answer_as_documented(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """503, once Redis has gone."""
    with run_redis(redis_servers()[0], tmp_path) as url:
        daemon = start_daemon(redis__url=url)
        headers = log_in(daemon)
    for operation in POSTS:
        answer = post(daemon, operation.path, whole_form(operation), headers)
        assert answer.status == 503
        operation.check_answer(answer)


def test_with_failing_hooks_the_routes_answer_as_documented(
    start_daemon: StartDaemon, hooks: None
) -> None:
    """503, and what it says is the example; nothing is said of why. Reasons reach the client."""
    daemon = start_daemon(hooks__handler="judging")
    unavailable = OPENAPI["components"]["responses"]["Unavailable"]
    example = unavailable["content"]["application/json"]["examples"]["hook"]["value"]
    for operation in POSTS:
        form = whole_form(operation) | ({} if operation.is_protected else {"password": "fail"})
        answer = post(daemon, operation.path, form, {"userId": "1", "token": "fail"})
        assert (answer.status, answer.json) == (503, example)
        operation.check_answer(answer)
        form = whole_form(operation) | ({} if operation.is_protected else {"password": "explain"})
        answer = post(daemon, operation.path, form, {"userId": "1", "token": "explain"})
        assert (answer.status, answer.json["msg"]) == (200, "wrong password")
        operation.check_answer(answer)


# The sockets

ASYNCAPI: dict[str, Any] = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
CHANNELS: dict[str, Any] = ASYNCAPI["channels"]
SOURCES = [
    *(ROOT / "fastimd" / "websocket").glob("*.py"),
    *(ROOT / "fastimd" / "classic").glob("*.py"),
    *(ROOT / "fastimd" / "door").glob("*.py"),
    ROOT / "fastimd" / "daemon" / "drain.py",
    ROOT / "fastimd" / "groups" / "access.py",
    ROOT / "fastimd" / "http" / "server.py",
]
"""Where sockets are closed and handshakes refused."""


def check_frame(channel: str, name: str, frame: str) -> Any:
    """Fail unless a frame is as the document has that message; returns it parsed."""
    message = resolve(ASYNCAPI, CHANNELS[channel]["messages"][name])
    value = json.loads(frame) if message["contentType"] == "application/json" else frame
    check(ASYNCAPI, message["payload"], value)
    return value


def test_the_examples_of_messages_are_such_messages() -> None:
    """Each is as its schema says, and every message has one."""
    assert ASYNCAPI["info"]["version"] == LAST_RELEASE
    for message in ASYNCAPI["components"]["messages"].values():
        assert message["examples"]
        for example in message["examples"]:
            check(ASYNCAPI, message["payload"], example["payload"])


def test_every_message_of_a_channel_is_sent_or_received() -> None:
    """The operations have each message once."""
    prefix = "#/channels/"
    operated = [
        message["$ref"].removeprefix(prefix)
        for operation in ASYNCAPI["operations"].values()
        for message in operation["messages"]
    ]
    assert sorted(operated) == sorted(
        f"{channel}/messages/{message}"
        for channel, parts in CHANNELS.items()
        for message in parts["messages"]
    )


async def test_the_channels_are_the_sockets_of_the_daemon(daemon: Daemon) -> None:
    """The routes of the handshake, and a daemon opens each."""
    routes = re.findall(r'case \["", "(\w+)", "(\w+)", ([\w, ]+)\] if', getsource(find_route))
    assert {
        f"/{first}/{second}/" + "/".join(f"{{{name}}}" for name in names.split(", "))
        for first, second, names in routes
    } | {LIVE_PATH.decode()} == {
        parts["address"].replace("Id}", "}") for parts in CHANNELS.values()
    }
    for parts in CHANNELS.values():
        names = re.findall(r"\{(\w+)\}", parts["address"])
        assert set(names) == set(parts.get("parameters", {}))
        path = re.sub(r"\{\w+\}", "1", parts["address"])
        assert (await handshake(daemon, path)).status == 101
        assert (await handshake(daemon, f"{path}/more")).status == 404


async def test_the_frames_of_a_daemon_are_those_of_the_document(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """Each message that the document says is sent comes, and is as it says."""
    daemon = start_daemon(group__login_auth="true", group_list__update_rate="0.05")
    token = (await log_in_async(daemon))["token"]
    redis.sadd("ugs:1", "quiet")
    async with connect(daemon.chat_url(token=token)) as member:
        greeting = check_frame("groupChat", "greeting", await frame(member))
        assert greeting == {"list": [], "total": 0}
        said = ASYNCAPI["components"]["messages"]["said"]["examples"][0]["payload"]
        await member.send_message(said)
        assert check_frame("groupChat", "message", await frame(member))["info"] == said
    async with connect(daemon.chat_url(token=token)) as member:
        assert len(check_frame("groupChat", "greeting", await frame(member))["list"]) == 1
    async with connect(daemon.list_url(token=token)) as watcher:
        groups = check_frame("groupList", "groups", await frame(watcher))
        assert [group["total"] for group in groups] == [1, 0]
        await watcher.send_message("ignored")
    for channel, url in (
        ("groupChat", daemon.chat_url(token="wrong")),
        ("groupList", daemon.list_url(token="wrong")),
    ):
        async with connect(url) as refused:
            check_frame(channel, "loginRequired", await frame(refused))
            assert await closing(refused) == (1008, "login required")


async def test_the_frames_of_a_daemon_with_hooks_are_those_of_the_document(
    start_daemon: StartDaemon, hooks: None
) -> None:
    """What is refused, what a failing hook leaves undone, and what is changed."""
    daemon = start_daemon(hooks__handler="judging")
    async with connect(daemon.chat_url(token="good")) as member:
        check_frame("groupChat", "greeting", await frame(member))
        for example in ASYNCAPI["components"]["messages"]["declined"]["examples"]:
            await member.send_message(example["payload"]["data"])
            assert check_frame("groupChat", "declined", await frame(member)) == example["payload"]
        await member.send_message("darn it")
        assert check_frame("groupChat", "message", await frame(member))["info"] == "**** it"
    ends = {
        "refuse": (1008, "not allowed"),
        "explain": (1008, "wrong password"),
        "fail": (1013, "try again later"),
    }
    for token, end in ends.items():
        for url in (daemon.chat_url(token=token), daemon.list_url(token=token)):
            async with connect(url) as refused:
                assert await closing(refused) == end
    for channel, url in (
        ("groupChat", daemon.chat_url(token="wrong")),
        ("groupList", daemon.list_url(token="wrong")),
    ):
        async with connect(url) as refused:
            check_frame(channel, "loginRequired", await frame(refused))
            assert await closing(refused) == (1008, "login required")


# The document for people


def protocol_table(first: str) -> list[list[str]]:
    """The rows of the table of docs/PROTOCOL.md whose head begins so."""
    text = (ROOT / "docs" / "PROTOCOL.md").read_text()
    _, found, rest = text.partition(f"\n| {first} |")
    assert found, first
    rows = rest.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def literal(node: ast.expr) -> str:
    """The text of a string of the code, ``N`` where a number is put in."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.JoinedStr(values=values):
            return "".join(literal(value) for value in values)
        case ast.FormattedValue(value=ast.IfExp(body=ast.Constant(value=str(value)))):
            return value  # of the sockets of Fast-IM
        case ast.FormattedValue():
            return "N"
        case ast.Call(func=ast.Name(id="cut_reason"), args=[reason]):
            return literal(reason)
        case ast.BoolOp(op=ast.Or(), values=[_, default]):
            return literal(default)
    return ""


def calls_of(*functions: str) -> Iterator[list[ast.expr]]:
    """The arguments of each call of such a name where sockets are closed."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in functions:
                yield node.args


SCHEMAS: dict[str, Any] = OPENAPI["components"]["schemas"]
HEAD_AND_BODY = [
    f"head took longer than {HEAD_SECONDS:g} seconds",
    f"head is longer than {MAX_HEAD_BYTES // 1024} KiB",
    f"body is larger than {MAX_BODY_BYTES // 1024**2} MiB",
]
SOCKET = [
    f"the reason may be the hook's own, at most {MAX_REASON_BYTES} bytes",
    f"`socket.max_messages_per_second` for {FLOOD_SECONDS:g} seconds",
    f"or a byte for {STALE_SECONDS:g} seconds",
]
LIMITS = {
    "docs/PROTOCOL.md": [
        f"1 to {MAX_ID_LENGTH} printable characters",
        f"A client has {CLOSE_SECONDS:g} seconds to answer a close frame",
        f"has at most {MAX_BODY_BYTES // 1024**2} MiB and {BODY_SECONDS:g} seconds to arrive",
        f"body took longer than {BODY_SECONDS:g} seconds",
        f"may stay silent for {IDLE_SECONDS:g} seconds",
        *HEAD_AND_BODY,
        *SOCKET,
    ],
    "fastimd/http/openapi.json": [
        f"1 to {MAX_ID_LENGTH} printable characters",
        f"at most {MAX_BODY_BYTES // 1024**2} MiB, and {BODY_SECONDS:g} seconds to arrive",
        f"or the body longer than {BODY_SECONDS:g}.",
        *HEAD_AND_BODY,
    ],
    "docs/asyncapi.json": [
        f"1 to {MAX_ID_LENGTH} printable characters",
        *HEAD_AND_BODY[:2],
        *SOCKET,
    ],
}
"""What each document says of limits that no setting changes."""


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_of_the_documents_are_those_of_the_code(name: str) -> None:
    """A number that changes in one place must change in the others."""
    assert BODY_SECONDS == APP_BODY_SECONDS
    text = " ".join((ROOT / name).read_text().split())
    assert [limit for limit in LIMITS[name] if limit not in text] == []


def test_no_field_of_an_answer_or_a_frame_may_be_left_out() -> None:
    """The daemon sends all of them, always, and no other. Only tags may be missing.

    On the live wire what is nothing is left out.
    """
    closed = [
        schema
        for schemas in (SCHEMAS, ASYNCAPI["components"]["schemas"])
        for name, each in schemas.items()
        if not name.startswith("Live")
        for schema in (each, each.get("items", {}))
        if "properties" in schema and schema not in FORMS
    ]
    assert len(closed) > 10
    for schema in closed:
        assert set(schema["required"]) == set(schema["properties"]) - {"tags"}
        assert schema["additionalProperties"] is False


def test_the_bounds_of_the_schemas_are_those_of_the_code() -> None:
    """Of ids and of numbers."""
    for ids in (SCHEMAS["Id"], ASYNCAPI["components"]["schemas"]["Id"]):
        assert (ids["minLength"], ids["maxLength"]) == (1, MAX_ID_LENGTH)
    bounds = [
        (SCHEMAS["Index"], -MAX_TS),
        (SCHEMAS["Ts"], 0),
        (SCHEMAS["BeforeForm"]["properties"]["count"], 0),
    ]
    for number, least in bounds:
        assert (number["minimum"], number["maximum"]) == (least, MAX_TS)


def test_close_codes_are_the_same_everywhere() -> None:
    """docs/PROTOCOL.md and asyncapi.json have the same, and those that the code has."""
    rows = protocol_table("code | reason")
    table = [
        [int(code), reason.strip("`") if reason.startswith("`") else None, when, client]
        for code, reason, when, client in rows
    ]
    assert table == [
        [close["code"], close.get("reason"), close["when"], close["client"]]
        for close in ASYNCAPI["x-close-codes"]
    ]
    documented = {(code, reason) for code, reason, _, _ in table}
    written = {
        (int(literal(arguments[0])), literal(each))
        for arguments in calls_of("close", "abort", "_Fault")
        if len(arguments) == 2 and isinstance(arguments[0], ast.Constant)
        for each in (
            (arguments[1].body, arguments[1].orelse)
            if isinstance(arguments[1], ast.IfExp)
            else (arguments[1],)
        )
    }
    # What a socket of any wire may be closed for, in the codes of this one.
    written |= {each for each in FAST_IM if isinstance(each, tuple)}
    written |= {
        (
            code,
            literal(arguments[-1].body if isinstance(arguments[-1], ast.IfExp) else arguments[-1]),
        )
        for code, function in ((1001, "dismiss"), (1008, "drop"))
        for arguments in calls_of(function)
    }
    # A refusal of a user closes the socket with its text; one of the door has a status before it.
    written |= {
        (1008, literal(arguments[0]))
        for arguments in calls_of("Refused", "PrivateGroup")
        if len(arguments) == 1 and isinstance(arguments[0], ast.Constant)
    }
    written.add((1008, str(banned(Sentence(0)))))  # where moderators say no more
    # The table says of these only that the reason tells what is wrong, or there is no close frame.
    unnamed = {code for code, reason in documented if reason is None}
    assert unnamed == {1000, 1002, 1007, 1006}
    assert {code for code, _ in written} | {1000} == {code for code, _ in documented}
    named = {(code, reason) for code, reason in written if code not in unnamed and reason}
    restart = re.sub(r"\d+", "N", _restart_hint(1))
    assert named | {(1001, restart)} == {each for each in documented if each[1] is not None}


def test_refusals_are_the_same_everywhere() -> None:
    """docs/PROTOCOL.md and asyncapi.json have those of the code; openapi.json those of a route."""
    rows = protocol_table("status | `msg` | when")
    table = [[int(status), when, client] for status, _, when, client in rows]
    assert table == [
        [refusal["status"], refusal["when"], refusal["client"]]
        for refusal in ASYNCAPI["x-refused-handshakes"]
    ]
    refusals = [arguments for arguments in calls_of("Refused") if len(arguments) > 1]
    statuses = {int(literal(arguments[0])) for arguments in refusals}
    assert statuses == {status for status, _, _ in table}
    shown = {int(status): msg.strip("`") for status, msg, _, _ in rows}
    for status, *reason in (map(literal, arguments) for arguments in refusals):
        said = of_status(int(status), reason[0])
        plain = re.sub(r"\d+", "N", shown[int(status)])
        assert plain in (re.sub(r"\d+", "N", said), of_status(int(status), "…"))
    of_routes = {int(row[0]) for row in protocol_table("status | `code`")} - {200}
    in_openapi = {
        int(status) for operation in OPERATIONS for status in operation.parts["responses"]
    } | {int(status) for status in OPENAPI["x-elsewhere"] if status.isdigit()}
    assert in_openapi >= of_routes
    assert in_openapi - of_routes - {200, 302, 304} <= statuses
    # Of a handshake, not of a route: its origin, and its version.
    assert statuses - in_openapi == {403, 426}


def test_answers_are_the_same_everywhere() -> None:
    """docs/PROTOCOL.md has the routes, parameters, codes and texts of openapi.json."""
    rows = protocol_table("route")
    routes = sorted((row[0].strip("`"), sorted(re.findall(r"`(\w+)`", row[1]))) for row in rows)
    assert routes == sorted(
        (operation.path, sorted(form["required"]))
        for operation in POSTS
        for form in operation.forms or [{"required": []}]
    )
    answers = {
        (int(code), text)
        for _, code, texts, *_ in protocol_table("status | `code`")
        for text in re.findall(r"`([^`]+)`", texts)
    }
    schemas = [
        schema["properties"]
        for schema in OPENAPI["components"]["schemas"].values()
        if "const" in schema.get("properties", {}).get("code", {})
    ]
    texts = {
        (schema["code"]["const"], text)
        for schema in schemas
        for text in schema["msg"].get(
            "enum",
            [
                *(schema["msg"].get(key) for key in ("const", "default")),
                *schema["msg"].get("examples", ()),
            ],
        )
        if text is not None
    }
    assert texts == {answer for answer in answers if answer[0] in (100, 200, 403, 440)}
    # Of a 503, one of the daemon's own and one of its hooks.
    unavailable = OPENAPI["components"]["responses"]["Unavailable"]
    examples = unavailable["content"]["application/json"]["examples"].values()
    assert {(503, example["value"]["msg"]) for example in examples} == {
        answer for answer in answers if answer[0] == 503
    }
    # The frames of a chat socket.
    rows = protocol_table("from | frame")
    declined = ASYNCAPI["components"]["messages"]["declined"]["examples"]
    told = {
        (int(code), text)
        for _, frame_shown, meaning in rows
        for code in re.findall(r'"code":(\d+)', frame_shown)
        for text in re.findall(r"`([^`]+)`", meaning)
        if text not in ("data", "msg")
    }
    assert told <= {(each["payload"]["code"], each["payload"]["msg"]) for each in declined}
    assert {code for code, _ in told} == {403, 503}
