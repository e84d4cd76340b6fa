"""Every method of the server API: what it does, and what it says to bodies that are wrong.

Each answer is held against the description that the daemon gives of itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, cast
from unittest.mock import ANY

import pytest
from calling import SETTINGS, ApiFailed, Backend, admin_of, backend
from clients import CLOSE, RawClient, metrics
from conftest import Daemon, ShareDaemon, StartDaemon, wait_for
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from fastimd.api.document import describe_api
from fastimd.api.methods import METHODS, NOT_SERVED

DOCUMENT: dict[str, Any] = json.loads(describe_api())
GROUP = "match-1"
LIVE_GROUP = "lobby"


class Example(NamedTuple):
    """A call, and its result."""

    body: dict[str, Any]
    result: Any


SAID = {"offset": ANY}
EXAMPLES: dict[str, Example] = {
    "publish": Example({"channel": GROUP, "data": {"score": [3, 2]}}, SAID),
    "broadcast": Example(
        {"channels": [GROUP, "bad\n", LIVE_GROUP], "data": "half time"},
        {
            "responses": [
                {"result": SAID},
                {"error": {"code": 107, "message": ANY}},
                {"result": SAID},
            ]
        },
    ),
    "history": Example(
        {"channel": GROUP, "limit": 10},
        {
            "publications": [
                {
                    "data": "first",
                    "info": {"user": "mara"},
                    "offset": ANY,
                    "tags": {"priority": "high"},
                    "time": ANY,
                },
                {"data": {"text": "second"}, "offset": ANY, "tags": {"kind": "goal"}, "time": ANY},
            ],
            "epoch": ANY,
            "offset": ANY,
        },
    ),
    "history_remove": Example({"channel": GROUP}, {}),
    "presence": Example({"channel": GROUP}, {"presence": ANY}),
    "presence_stats": Example({"channel": GROUP}, {"num_clients": 1, "num_users": 1}),
    "channels": Example(
        {"pattern": "match-?"}, {"channels": {GROUP: {"num_clients": 1, "num_messages": ANY}}}
    ),
    "info": Example({}, {"nodes": [ANY]}),
    "unsubscribe": Example({"channel": GROUP, "user": "bo"}, {}),
    "disconnect": Example(
        {"user": "bo", "disconnect": {"code": 4001, "reason": "the match is over"}}, {}
    ),
    "join": Example({"channel": GROUP, "user": "ann"}, {}),
    "leave": Example({"channel": GROUP, "user": "ann"}, {}),
    "groups": Example(
        {"user": "bo"},
        {"groups": [{"channel": GROUP, "total": 2, "unread": 2, "last": ANY}]},
    ),
    "ban": Example({"channel": GROUP, "user": "eve", "seconds": 60, "reason": "spam"}, {}),
    "unban": Example({"channel": GROUP, "user": "eve"}, {}),
    "mute": Example({"channel": GROUP, "user": "eve", "seconds": 0}, {}),
    "unmute": Example({"channel": GROUP, "user": "eve"}, {}),
    "slow_mode": Example({"channel": GROUP, "seconds": 5}, {}),
    "mute_all": Example({"channel": GROUP, "on": True}, {}),
    "moderators": Example({"channel": GROUP, "add": ["mara"]}, {"users": ["mara"]}),
    "delete_message": Example({"channel": GROUP, "ts": 0}, {}),  # that of the first message
    "delete_messages_of": Example({"channel": GROUP, "user": "mara"}, {"deleted": 1}),
    "reports": Example({"channel": GROUP}, {"reports": []}),
    "dismiss": Example({"channel": GROUP, "ts": 0}, {}),
    "policy": Example(
        {"channel": GROUP},
        {"bans": [], "mutes": [], "moderators": [], "slow_mode": 0, "mute_all": False},
    ),
    "search": Example({"channel": GROUP, "text": "FIRST"}, {"publications": [ANY], "before": 0}),
    "status": Example({}, {"daemons": [ANY]}),
    "drain": Example({"daemon": "nobody"}, None),
    "whoami": Example({}, {"name": "game", "methods": list(METHODS), "groups": ["*"]}),
    "batch": Example(
        {
            "commands": [
                {"publish": {"channel": GROUP, "data": "one"}},
                {"presence_stats": {"channel": GROUP}},
                {"no_method": {}},
                {"publish": {"channel": GROUP}},
                {},
            ]
        },
        [
            {"publish": SAID},
            {"presence_stats": {"num_clients": 1, "num_users": 1}},
            {"error": {"code": 104, "message": "method not found"}},
            {"error": {"code": 107, "message": ANY}},
            {"error": {"code": 107, "message": ANY}},
        ],
    ),
}
"""One of each method; ANY stands for what is another each time."""


class House(NamedTuple):
    """A daemon with a group in which two messages are, and ``bo``."""

    backend: Backend
    daemon: Daemon
    first_ts: int
    bo: RawClient


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon(**SETTINGS)


@pytest.fixture(params=["public", "admin"])
def house(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[House]:
    game = backend(daemon, admin=request.param == "admin")
    first = game.call("publish", channel=GROUP, data="first", user="mara")
    game.call("publish", channel=GROUP, data={"text": "second"}, tags={"kind": "goal"})
    with ExitStack() as stack:
        bo = stack.enter_context(RawClient(daemon.address, f"/group/chat/{GROUP}/bo/t"))
        bo.next_text()
        wait_for(lambda: game.call("presence_stats", channel=GROUP)["num_clients"] == 1, daemon)
        yield House(game, daemon, first["offset"], bo)
        game.call("disconnect", user="bo")


def resolve(schema: Any) -> dict[str, Any]:
    """What a schema is, or refers to."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return cast(dict[str, Any], schema)


def body_schema(name: str) -> dict[str, Any]:
    """What a method takes."""
    body = DOCUMENT["paths"][f"/api/{name}"]["post"]["requestBody"]
    return resolve(body["content"]["application/json"]["schema"])


def check_answer(name: str, status: int, answer: Any) -> None:
    """Fail unless the description has this answer."""
    responses = DOCUMENT["paths"][f"/api/{name}"]["post"]["responses"]
    schema = responses[str(status)]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(answer)


def test_the_description_is_openapi(daemon: Daemon) -> None:
    """A validator finds nothing wrong with what a daemon serves, on both addresses."""
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []
    for admin in (False, True):
        answer = backend(daemon, admin=admin).send("openapi.json", verb="GET")
        assert (answer.status, answer.json) == (200, DOCUMENT)


def test_the_table_has_every_method() -> None:
    """And so has the description."""
    assert EXAMPLES.keys() == METHODS.keys() | {"batch"}
    assert DOCUMENT["paths"].keys() == {f"/api/{name}" for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_call_is_done(house: House, name: str) -> None:
    """Each method on both addresses, with the answer that the description has."""
    example = EXAMPLES[name]
    body = dict(example.body)
    Draft202012Validator({**body_schema(name), "components": DOCUMENT["components"]}).validate(
        {**body, "ts": 1} if "ts" in body else body
    )
    if "ts" in body:
        body["ts"] = house.first_ts
    if name == "channels":  # what is heard here, a moment later
        house.backend.call("publish", channel=GROUP, data="x")
    answer = house.backend.send(name, body)
    assert answer.status == 200, answer.body
    check_answer(name, 200, answer.json)
    if name == "drain":  # of a daemon that is there it would end the other tests
        assert answer.json["error"]["code"] == 404
        return
    told = answer.json["replies" if name == "batch" else "result"]
    if name == "presence":
        [(client, found)] = told["presence"].items()
        assert found == {"user": "bo", "client": client}
    else:
        assert told == example.result
    assert answer.headers["Content-Type"] == "application/json"
    [line] = [each for each in house.daemon.events("api.call") if each["method"] == name][-1:]
    assert (line["key"], line["code"], line["error"]) == ("game", 0, None)
    assert line["request_id"] == answer.headers["X-Request-Id"]


BAD_VALUES: dict[str, list[Any]] = {
    "string": [5, None, {}, ["x"]],
    "integer": ["5", 1.5, None, True, {}],
    "boolean": ["true", 1, None],
    "array": ["x", {}, None, 5],
    "object": ["x", [], 5],
}
"""By the type in the description, what is none of it."""


def wrong_bodies(name: str) -> Iterator[tuple[str, Any]]:
    """Bodies that lack a field or have one of another type, and the field."""
    schema = body_schema(name)
    good = EXAMPLES[name].body
    good = {**good, "ts": 1} if "ts" in good else good
    for field in schema.get("required", []):
        yield field, {key: value for key, value in good.items() if key != field}
    for field, of_field in schema.get("properties", {}).items():
        for kind in resolve(of_field).get("anyOf", [of_field]):
            of_kind = resolve(kind).get("type")
            bad_values = BAD_VALUES.get(of_kind or "", [])
            may_be_null = "anyOf" in of_field
            for bad in bad_values:
                if bad is not None or not may_be_null:
                    yield field, {**good, field: bad}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_body_that_is_wrong_gets_an_error_that_names_the_field(daemon: Daemon, name: str) -> None:
    """A field that is missing or of another type, for each field of each method."""
    game = backend(daemon)
    for field, body in wrong_bodies(name):
        answer = game.send(name, body)
        assert answer.status == 200
        check_answer(name, 200, answer.json)
        error = answer.json["error"]
        assert error["code"] == 107, body
        assert error["message"].startswith("bad request: ")
        assert field in error["message"], (error, body)
    for no_object in (b"[]", b'"x"', b"5", b"null"):
        error = game.send(name, no_object).json["error"]
        assert error["code"] == 107
        assert "object" in error["message"]


LONG_ID = "x" * 129
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("publish", {"channel": "", "data": "x"}, "channel"),
    ("publish", {"channel": LONG_ID, "data": "x"}, "channel"),
    ("publish", {"channel": "a\0b", "data": "x"}, "channel"),
    ("publish", {"channel": GROUP}, "data"),
    ("publish", {"channel": GROUP, "data": None}, "data"),
    ("publish", {"channel": GROUP, "data": 5}, "data"),
    ("publish", {"channel": GROUP, "data": True}, "data"),
    ("publish", {"channel": GROUP, "b64data": "?"}, "b64data"),
    ("publish", {"channel": GROUP, "b64data": "Zm9v"}, "data"),
    ("publish", {"channel": GROUP, "data": "x", "user": "a\nb"}, "user"),
    ("publish", {"channel": GROUP, "data": "x", "tags": {"": "x"}}, "tag"),
    ("publish", {"channel": GROUP, "data": "x", "tags": {"event": "recall"}}, "tag event"),
    ("publish", {"channel": GROUP, "data": "x", "tags": {"x": "y" * 1024}}, "1025 bytes"),
    (
        "publish",
        {"channel": GROUP, "data": "x", "tags": dict.fromkeys("abcdefghijklmnopq", "")},
        "17 tags",
    ),
    ("broadcast", {"channels": [], "data": "x"}, "channels"),
    ("broadcast", {"channels": ["x"] * 10_001, "data": "x"}, "channels"),
    ("history", {"channel": ""}, "channel"),
    ("history", {"channel": GROUP, "since": {"offset": -1}}, "offset"),
    ("history", {"channel": GROUP, "since": {"offset": 2**53}}, "offset"),
    ("history", {"channel": GROUP, "since": {}, "reverse": True}, "since.offset"),
    ("unsubscribe", {"channel": GROUP, "user": ""}, "user"),
    ("disconnect", {"user": ""}, "user"),
    ("disconnect", {"user": "bo", "disconnect": {"code": 2999}}, "code"),
    ("disconnect", {"user": "bo", "disconnect": {"code": 5000}}, "code"),
    ("disconnect", {"user": "bo", "disconnect": {"reason": "x"}}, "code"),
    ("disconnect", {"user": "bo", "disconnect": {"code": 4000, "reason": "x" * 33}}, "reason"),
    ("channels", {"pattern": "x" * 257}, "pattern"),
    ("join", {"channel": GROUP, "user": " x"}, "user"),
    ("groups", {"user": "bo", "limit": 0}, "limit"),
    ("groups", {"user": "bo", "limit": 1001}, "limit"),
    ("ban", {"channel": GROUP, "user": "eve", "seconds": -1}, "seconds"),
    ("delete_message", {"channel": GROUP, "ts": 0}, "ts"),
    ("batch", {"commands": [{}] * 10_001}, "commands"),
]


@pytest.mark.parametrize(("name", "body", "named"), WRONG)
def test_a_value_that_is_wrong_is_named(
    daemon: Daemon, name: str, body: dict[str, Any], named: str
) -> None:
    """Ids, lengths and ranges: error 107 says which."""
    with pytest.raises(ApiFailed) as failed:
        backend(daemon).call(name, body)
    assert failed.value.code == 107
    assert named in failed.value.message


OTHERS: list[tuple[str, dict[str, Any], int, str]] = [
    ("publish", {"channel": GROUP, "data": "x" * 65_537}, 106, "65537 bytes"),
    ("publish", {"channel": GROUP, "data": "x", "skip_history": True}, 108, "skip_history"),
    ("broadcast", {"channels": [GROUP], "data": "x", "version": 3}, 108, "version"),
    ("history", {"channel": GROUP, "since": {"offset": 1, "epoch": "other"}}, 112, "position"),
    ("delete_message", {"channel": GROUP, "ts": 5}, 404, "message"),
    ("join", {"channel": "dialog#mara,tom", "user": "eve"}, 103, "private group"),
]


@pytest.mark.parametrize(("name", "body", "code", "named"), OTHERS)
def test_what_cannot_be_done_has_its_own_code(
    daemon: Daemon, name: str, body: dict[str, Any], code: int, named: str
) -> None:
    """As in Centrifugo, and 404 for what is not there."""
    answer = backend(daemon).send(name, body)
    check_answer(name, answer.status, answer.json)
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (200, code)
    assert named in error["message"]


@pytest.mark.parametrize("name", [*sorted(NOT_SERVED), "no_such_method", "", "batch/x", "publish/"])
def test_a_method_that_is_not_there(daemon: Daemon, name: str) -> None:
    """One of Centrifugo's is not available, any other is not found."""
    answer = backend(daemon).send(name)
    code, status = (108, 200) if name in NOT_SERVED else (104, 404)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_errors_have_a_status_for_who_wants_one(daemon: Daemon) -> None:
    """With the header of Centrifugo the error is the whole body."""
    wanted = {"X-Centrifugo-Error-Mode": "transport"}
    game = backend(daemon)
    cases: list[tuple[str, dict[str, Any], int, int]] = [
        ("publish", {"channel": GROUP}, 400, 107),
        ("no_such", {}, 404, 104),
        ("history", {"channel": GROUP, "since": {"offset": 1, "epoch": "x"}}, 416, 112),
        ("delete_message", {"channel": GROUP, "ts": 5}, 404, 404),
        ("publish", {"channel": GROUP, "data": "x", "version": 1}, 400, 108),
    ]
    for name, body, status, code in cases:
        answer = game.send(name, body, wanted)
        assert (answer.status, answer.json["code"]) == (status, code)
    assert game.send("publish", {"channel": GROUP, "data": "x"}, wanted).status == 200
    answer = backend(daemon, "speaker").send("info", {}, wanted)
    assert (answer.status, answer.json["code"]) == (403, 103)


def test_calls_are_counted(start_daemon: StartDaemon) -> None:
    """By method, key and code; what is no method has one name, however it is called."""
    daemon = start_daemon(**SETTINGS)
    game = backend(daemon)
    for body in ({"channel": GROUP, "data": "x"}, {"channel": GROUP, "data": "y"}, {}):
        game.send("publish", body)
    for name in ("no_such", "other", "subscribe"):
        game.send(name)
    game.call("batch", commands=[{"publish": {"channel": GROUP, "data": "z"}}] * 5)
    assert code_of_refused(backend(daemon, "speaker")) == 103
    shown = metrics(daemon)
    assert {name: value for name, value in shown.items() if "api_calls" in name} == {
        f'fastimd_api_calls_total{{code="{code}",key="{key}",method="{method}"}}': count
        for method, key, code, count in (
            ("publish", "game", 0, 2.0),
            ("publish", "game", 107, 1.0),
            ("unknown", "game", 104, 2.0),
            ("unknown", "game", 108, 1.0),
            ("batch", "game", 0, 1.0),
            ("info", "speaker", 103, 1.0),
        )
    }
    assert shown['fastimd_api_seconds_count{method="publish"}'] == 3
    assert shown["fastimd_api_keys_refused_total"] == 0


def code_of_refused(caller: Backend) -> int:
    """The code of a call that is refused."""
    with pytest.raises(ApiFailed) as failed:
        caller.call("info")
    return failed.value.code


# What calls do to members


def test_members_hear_what_a_backend_says(house: House) -> None:
    """The server's own words have nobody's name; those in a user's name have it."""
    house.backend.call("publish", channel=GROUP, data="hi", user="mara")
    house.backend.call("publish", channel=GROUP, data={"goal": 1})
    heard = [json.loads(house.bo.next_text()) for _ in range(2)]
    assert [(each["userId"], each["info"]) for each in heard] == [
        ("mara", "hi"),
        ("", '{"goal":1}'),
    ]


def test_b64data_is_data(house: House) -> None:
    """The same JSON, encoded."""
    house.backend.call("publish", channel=GROUP, b64data="eyJhIjoxfQ==")
    assert json.loads(house.bo.next_text())["info"] == '{"a":1}'


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ({}, 1008, "kicked"),
        ({"disconnect": {"code": 4001, "reason": "the match is over"}}, 4001, "the match is over"),
        ({"disconnect": {"code": 3000}}, 3000, ""),
        ({"disconnect": {"code": 4999, "reason": "字" * 32}}, 4999, "字" * 32),
    ],
)
def test_a_user_is_disconnected(house: House, body: dict[str, Any], code: int, reason: str) -> None:
    """With the usual code, or the backend's own."""
    house.backend.call("disconnect", user="bo", **body)
    frame = house.bo.next_frame()
    assert frame is not None
    assert (frame.opcode, frame.closing) == (CLOSE, (code, reason))


def test_one_of_a_users_sockets_is_disconnected(house: House) -> None:
    """``client`` names it; ``whitelist`` names those that stay."""
    game, address = house.backend, house.daemon.address
    [first] = game.call("presence", channel=GROUP)["presence"]
    with RawClient(address, f"/group/chat/{GROUP}/bo/t") as second:
        second.next_text()
        wait_for(lambda: game.call("presence_stats", channel=GROUP)["num_clients"] == 2)
        game.call("disconnect", user="bo", client=first)
        assert house.bo.next_frame() == (CLOSE, b"\x03\xf0kicked")
        [other] = game.call("presence", channel=GROUP)["presence"].keys() - {first}
        game.call("disconnect", user="bo", whitelist=[other])
        game.call("disconnect", user="bo", client="no-such-client")
        game.call("publish", channel=GROUP, data="still here")
        assert json.loads(second.next_text())["info"] == "still here"
        game.call("unsubscribe", channel=GROUP, user="bo")
        assert second.next_frame() == (CLOSE, b"\x03\xf0kicked")


def test_a_banned_user_cannot_be_put_into_a_group(daemon: Daemon) -> None:
    """And is in none afterwards; who may be is."""
    game = backend(daemon)
    game.call("ban", channel=GROUP, user="eve", seconds=0)
    with pytest.raises(ApiFailed) as failed:
        game.call("join", channel=GROUP, user="eve")
    assert failed.value.code == 103
    assert game.call("groups", user="eve") == {"groups": []}
    for _ in "12":
        game.call("join", channel=GROUP, user="ann")
    assert [each["channel"] for each in game.call("groups", user="ann")["groups"]] == [GROUP]
    game.call("leave", channel=GROUP, user="ann")
    assert game.call("groups", user="ann") == {"groups": []}


def test_history_is_read_in_pages(daemon: Daemon) -> None:
    """Forwards from a position, backwards from the newest, and the position alone."""
    game = backend(daemon)
    given = [game.call("publish", channel=GROUP, data=f"{n}")["offset"] for n in range(7)]

    def page(**fields: Any) -> list[int]:
        found = game.call("history", channel=GROUP, **fields)
        assert found["offset"] == given[-1]
        return [each["offset"] for each in found["publications"]]

    assert page() == []
    assert page(limit=3) == given[:3]
    assert page(limit=-1) == given
    assert page(limit=3, since={"offset": given[1]}) == given[2:5]
    assert page(limit=2, reverse=True) == given[:-3:-1]
    assert page(limit=9, reverse=True, since={"offset": given[3]}) == given[2::-1]
    epoch = game.call("history", channel=GROUP)["epoch"]
    assert page(limit=9, since={"offset": given[5], "epoch": epoch}) == given[6:]


def test_a_parallel_batch_answers_in_order(daemon: Daemon) -> None:
    """Each command has its own place, whichever is done first."""
    commands: list[dict[str, Any]] = [
        {"publish": {"channel": f"match-{number % 7}", "data": f"{number}"}}
        if number % 3
        else {"nothing": {}}
        for number in range(500)
    ]
    replies = backend(daemon).call("batch", commands=commands, parallel=True)
    assert [next(iter(each)) for each in replies] == [
        "publish" if number % 3 else "error" for number in range(500)
    ]


def test_the_largest_broadcast_is_said(daemon: Daemon) -> None:
    """To 10,000 groups with the longest ids, in one call."""
    names = [f"{number:0128}" for number in range(10_000)]
    [*replies] = backend(daemon).call("broadcast", channels=names, data="x")["responses"]
    assert len(replies) == 10_000
    assert all(reply["result"]["offset"] > 0 for reply in replies)


def test_presence_that_is_off_is_not_available(share_daemon: ShareDaemon) -> None:
    """Rather than empty."""
    daemon = share_daemon(presence__enabled="false", **SETTINGS)
    for name in ("presence", "presence_stats"):
        with pytest.raises(ApiFailed, match=r"presence\.enabled") as failed:
            backend(daemon).call(name, channel=GROUP)
        assert failed.value.code == 108
    assert backend(daemon).call("channels") == {"channels": {}}
    assert admin_of(daemon)
