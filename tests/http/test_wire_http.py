"""The HTTP routes of Fast-IM, byte by byte, on whole daemons."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from clients import (
    Answer,
    log_in,
    log_in_async,
    message,
    metrics,
    post,
    post_async,
    request,
    wrapped,
)
from conftest import Daemon, ShareDaemon, StartDaemon, connect, receive, run_daemon
from redis import Redis

REDIS_AND_VALKEY = True
DONE = {"code": 200, "msg": "操作成功", "data": None}
LOGIN_REQUIRED = {"code": 440, "msg": "请登录后访问", "data": None}
LOGIN_FAILED = {"code": 100, "msg": "登录失败", "data": None}
NO_SUCH_MESSAGE = {"code": 100, "msg": "消息不存在", "data": None}

PROTECTED = (
    "/group/listMessage",
    "/group/listOldMessage",
    "/group/delMessage",
    "/user/joinGroup",
    "/user/leaveGroup",
    "/user/listGroup",
)

HOOKS = '''
"""Login hooks of the tests."""


def sync_hook(user, password):
    return {"name": user, "level": 7} if password == "right" else None


async def async_hook(user, password):
    return sync_hook(user, password)


def broken_hook(user, password):
    raise RuntimeError("no database")
'''


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    """One with default settings, that the tests share."""
    return share_daemon()


def fill(redis: Redis, *tss: int, group: str = "1", user: str = "1") -> list[str]:
    """Put messages with the given ``ts`` into a group's list."""
    entries = [message(ts, group=group, user=user, info=f"m{ts}") for ts in tss]
    redis.rpush(f"gml:{group}", *entries)
    return entries


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with login hooks that daemons can import."""
    (tmp_path / "fastimd_test_hooks.py").write_text(HOOKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fastimd_test_hooks"


# --- login


def test_login_gives_a_token_that_lives_a_day(daemon: Daemon, redis: Redis) -> None:
    """``msg`` is 32 hex digits, stored under ``login:`` for 24 hours; ``data`` is user_info."""
    answer = post(daemon, "/user/login", {"userId": "1", "password": "123456"})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.json) == ["code", "msg", "data"]
    token = answer.json["msg"]
    assert answer.json == {"code": 200, "msg": token, "data": "user_info"}
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert redis.get("login:1") == token.encode()
    assert 86390 <= redis.ttl("login:1") <= 86400


def test_each_login_gives_another_token_and_ends_the_last(daemon: Daemon) -> None:
    """The older token of a user is refused after the next login."""
    first, second = log_in(daemon), log_in(daemon)
    assert first != second
    assert post(daemon, "/user/listGroup", headers=first).json == LOGIN_REQUIRED
    assert post(daemon, "/user/listGroup", headers=second).json["code"] == 200


@pytest.mark.parametrize("name", ["sync_hook", "async_hook"])
def test_a_login_hook_decides(
    start_daemon: StartDaemon, redis: Redis, hooks: str, name: str
) -> None:
    """A hook, plain or async, refuses, or lets in and says what ``data`` is."""
    daemon = start_daemon(login__hook=f"{hooks}:{name}")
    refused = post(daemon, "/user/login", {"userId": "ann", "password": "wrong"})
    assert (refused.status, refused.json) == (200, LOGIN_FAILED)
    assert redis.get("login:ann") is None
    answer = post(daemon, "/user/login", {"userId": "ann", "password": "right"}).json
    assert (answer["code"], answer["data"]) == (200, {"name": "ann", "level": 7})
    assert redis.get("login:ann") == answer["msg"].encode()


def test_a_login_hook_that_raises_lets_nobody_in(
    start_daemon: StartDaemon, redis: Redis, hooks: str
) -> None:
    """The client gets a plain 503, the log the reason, and the daemon serves on."""
    daemon = start_daemon(login__hook=f"{hooks}:broken_hook")
    answer = post(daemon, "/user/login", {"userId": "ann", "password": "secret-word"})
    assert (answer.status, answer.json["code"], answer.json["data"]) == (503, 503, None)
    assert b"database" not in answer.body
    (line,) = daemon.events("hook.failed")
    assert (line["purpose"], line["error"]) == ("login", "RuntimeError: no database")
    assert "in broken_hook" in line["exception"]
    assert redis.get("login:ann") is None
    assert "secret-word" not in daemon.log_path.read_text()
    assert request(daemon, "GET", "/test/websocket").status == 200


@pytest.mark.parametrize("name", ["no_such_module:check", "json:no_such_hook", "json:__doc__"])
def test_a_login_hook_that_cannot_be_loaded_stops_the_start(
    tmp_path: Path, redis_url: str, name: str
) -> None:
    """Exit status 78 and one line that names the setting and the hook."""
    daemon = run_daemon(tmp_path, redis_url, wait_serving=False, login__hook=name)
    assert daemon.process.wait(timeout=20) == 78
    said = [line for line in daemon.log_path.read_text().splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert said[0].startswith("fastimd: login.hook: ")
    assert name in said[0]


# --- tokens


def test_every_protected_route_wants_the_right_token(daemon: Daemon) -> None:
    """No token, another's token, a wrong one, no user: 440 with status 200."""
    headers = log_in(daemon)
    other = log_in(daemon, "2")
    wrong: list[dict[str, str]] = [
        {},
        {"userId": "1"},
        {"token": headers["token"]},
        {"userId": "1", "token": other["token"]},
        {"userId": "1", "token": headers["token"][:-1]},
        {"userId": "1", "token": "密码"},
        {"userId": "", "token": headers["token"]},
        {"userId": "nobody", "token": ""},
    ]
    for path in PROTECTED:
        for given in wrong:
            answer = post(daemon, path, {"groupId": "1"}, given)
            assert (answer.status, answer.json) == (200, LOGIN_REQUIRED), (path, given)
        for kind in (True, False):
            answer = post(daemon, path, {"groupId": "1"}, headers, multipart=kind)
            assert answer.json["code"] != 440


def test_a_token_is_not_taken_from_the_form(daemon: Daemon) -> None:
    """Only header fields log a request in."""
    headers = log_in(daemon)
    assert post(daemon, "/user/listGroup", headers).json == LOGIN_REQUIRED


def test_a_checked_token_lives_a_day_more(daemon: Daemon, redis: Redis) -> None:
    """A good token's life is renewed by each request, a wrong one renews nothing."""
    headers = log_in(daemon)
    redis.expire("login:1", 100)
    post(daemon, "/user/listGroup", headers={**headers, "token": "wrong"})
    assert redis.ttl("login:1") <= 100
    post(daemon, "/user/listGroup", headers=headers)
    assert redis.ttl("login:1") > 86390


def test_a_token_of_the_java_server_is_accepted(daemon: Daemon, redis: Redis) -> None:
    """The Java server stores tokens as JSON strings."""
    token = "84e9d36e4c7c44e0a79bb71f1b4ce9c4"
    redis.set("login:7", wrapped(token))
    answer = post(daemon, "/user/listGroup", headers={"userId": "7", "token": token})
    assert answer.json == {**DONE, "data": []}


def test_ids_of_any_script_travel_in_headers(daemon: Daemon, redis: Redis) -> None:
    """A user id in header fields is UTF-8."""
    headers = log_in(daemon, "小 明:1")
    assert post(daemon, "/user/joinGroup", {"groupId": "群 1"}, headers).json == DONE
    assert redis.smembers("ugs:小 明:1") == {"群 1".encode()}
    assert post(daemon, "/user/listGroup", {}, headers).json["data"] == ["群 1"]


# --- messages


@pytest.mark.parametrize("multipart", [True, False])
def test_messages_by_index(daemon: Daemon, redis: Redis, multipart: bool) -> None:
    """startPage and endPage are LRANGE indices; ``data`` holds the entries as JSON strings."""
    entries = fill(redis, *range(101, 111))
    headers = log_in(daemon)

    def ask(start: int, end: int, group: str = "1") -> Any:
        fields = {"groupId": group, "startPage": start, "endPage": end}
        answer = post(daemon, "/group/listMessage", fields, headers, multipart=multipart)
        assert answer.status == 200
        return answer.json

    assert ask(0, 5) == {**DONE, "data": entries[:6]}
    assert ask(3, 3)["data"] == [entries[3]]
    assert ask(-2, -1)["data"] == entries[-2:]
    assert ask(0, -1)["data"] == entries
    assert ask(8, 99)["data"] == entries[8:]
    assert ask(5, 2)["data"] == []
    assert ask(50, 60)["data"] == []
    assert ask(0, -1, "nowhere") == {**DONE, "data": []}


@pytest.mark.parametrize("path", ["/group/listMessage", "/group/listOldMessage"])
def test_messages_before_one(daemon: Daemon, redis: Redis, path: str) -> None:
    """Exactly ``count`` messages just before the named one, oldest first."""
    entries = fill(redis, *range(101, 111))
    headers = log_in(daemon)

    def ask(ts: int, count: int) -> Any:
        fields = {"groupId": "1", "userId": "1", "ts": ts, "count": count}
        return post(daemon, path, fields, headers).json

    assert ask(108, 3) == {**DONE, "data": entries[4:7]}
    assert ask(108, 1)["data"] == [entries[6]]
    assert ask(103, 50)["data"] == entries[:2]
    assert ask(101, 5)["data"] == []
    assert ask(108, 0)["data"] == []


@pytest.mark.parametrize("path", ["/group/listMessage", "/group/listOldMessage"])
def test_messages_before_one_that_is_gone(daemon: Daemon, redis: Redis, path: str) -> None:
    """When the named message is not there, those with a smaller ts are taken."""
    entries = fill(redis, 100, 200, 300)
    headers = log_in(daemon)

    def ask(ts: int, user: str = "1", group: str = "1") -> Any:
        fields = {"groupId": group, "userId": user, "ts": ts, "count": 2}
        return post(daemon, path, fields, headers).json["data"]

    assert ask(250) == entries[:2]
    assert ask(999) == entries[1:]
    assert ask(300, user="another") == entries[:2]
    assert ask(50) == []
    assert ask(50, group="nowhere") == []


def test_messages_of_one_moment_are_told_apart_by_user(daemon: Daemon, redis: Redis) -> None:
    """Java servers may have stored two messages of one millisecond."""
    entries = [message(10), message(20, user="a"), message(20, user="b"), message(30)]
    redis.rpush("gml:1", *entries)
    headers = log_in(daemon)

    def ask(user: str) -> Any:
        fields = {"groupId": "1", "userId": user, "ts": 20, "count": 9}
        return post(daemon, "/group/listMessage", fields, headers).json["data"]

    assert ask("a") == entries[:1]
    assert ask("b") == entries[:2]


def test_entries_of_the_java_server_are_read(daemon: Daemon, redis: Redis) -> None:
    """Wrapped entries, slightly out of order, come out plain, in the order of the list."""
    entries = [message(ts, info='"引号" \\ 😀') for ts in (10, 12, 11, 13, 15, 14, 16)]
    redis.rpush("gml:1", *map(wrapped, entries[:-1]), entries[-1])
    headers = log_in(daemon)

    def ask(**fields: object) -> Any:
        return post(daemon, "/group/listMessage", {"groupId": "1", **fields}, headers).json["data"]

    assert ask(startPage=0, endPage=-1) == entries
    assert ask(userId="1", ts=11, count=2) == entries[:2]
    assert ask(userId="1", ts=12, count=9) == entries[:1]
    assert ask(userId="1", ts=14, count=2) == entries[3:5]
    assert ask(userId="1", ts=16, count=9) == entries[:-1]


def test_numeric_ids_in_entries_are_read_as_strings(daemon: Daemon, redis: Redis) -> None:
    """Some writers store ids as numbers; on the wire they are strings."""
    redis.rpush("gml:1", '{"groupId":1,"userId":3,"info":"x","ts":10}')
    answer = post(
        daemon,
        "/group/listMessage",
        {"groupId": "1", "startPage": 0, "endPage": 0},
        log_in(daemon),
    )
    assert answer.json["data"] == [message(10, user="3")]


# --- recall


def test_recall_deletes_the_own_message_once(daemon: Daemon, redis: Redis) -> None:
    """Done, and the second time it is not there."""
    ts = now_ms()
    kept = message(ts - 5, info="kept")
    redis.rpush("gml:1", kept, message(ts), wrapped(message(ts + 1)))
    headers = log_in(daemon)

    def recall(ts: int) -> Any:
        return post(daemon, "/group/delMessage", {"groupId": "1", "ts": ts}, headers).json

    for each in (ts, ts + 1):
        assert recall(each) == {"code": 200, "msg": "撤回消息成功", "data": None}
        assert recall(each) == NO_SUCH_MESSAGE
    assert redis.lrange("gml:1", 0, -1) == [kept.encode()]


def test_recall_does_not_touch_the_messages_of_others(daemon: Daemon, redis: Redis) -> None:
    """Another's message does not exist for the caller, nor does one of another group."""
    ts = now_ms()
    redis.rpush("gml:1", message(ts, user="2"))
    headers = log_in(daemon, "1")
    for group in ("1", "nowhere"):
        fields = {"groupId": group, "ts": ts, "userId": "2"}
        assert post(daemon, "/group/delMessage", fields, headers).json == NO_SUCH_MESSAGE
    assert redis.llen("gml:1") == 1


def test_recall_has_a_time_limit(start_daemon: StartDaemon, redis: Redis) -> None:
    """A message older than recall_time_limit stays."""
    daemon = start_daemon(group_message__recall_time_limit="30")
    old, young = now_ms() - 31_000, now_ms() - 10_000
    redis.rpush("gml:1", message(old), message(young))
    headers = log_in(daemon)
    answer = post(daemon, "/group/delMessage", {"groupId": "1", "ts": old}, headers)
    assert answer.json == {"code": 100, "msg": "无法撤回消息", "data": None}
    assert redis.llen("gml:1") == 2
    answer = post(daemon, "/group/delMessage", {"groupId": "1", "ts": young}, headers)
    assert answer.json["code"] == 200
    assert redis.lrange("gml:1", 0, -1) == [message(old).encode()]


# --- groups


@pytest.mark.parametrize("multipart", [True, False])
def test_join_once(daemon: Daemon, redis: Redis, multipart: bool) -> None:
    """The second join of a group fails; the id lies plain in the set."""
    headers = log_in(daemon)

    def join() -> Any:
        return post(daemon, "/user/joinGroup", {"groupId": "3"}, headers, multipart=multipart).json

    assert join() == DONE
    assert join() == {"code": 100, "msg": "操作失败", "data": None}
    assert redis.smembers("ugs:1") == {b"3"}


def test_join_knows_the_sets_of_the_java_server(daemon: Daemon, redis: Redis) -> None:
    """A group id that the Java server has stored as a JSON string counts as joined."""
    redis.sadd("ugs:1", '"3"', '"群"')
    headers = log_in(daemon)
    for group in ("3", "群"):
        assert post(daemon, "/user/joinGroup", {"groupId": group}, headers).json["code"] == 100
    assert redis.scard("ugs:1") == 2


@pytest.mark.parametrize("multipart", [True, False])
@pytest.mark.parametrize("stored", ["3", '"3"'], ids=["plain", "as the Java server wrote it"])
def test_leave_once(daemon: Daemon, redis: Redis, stored: str, multipart: bool) -> None:
    """The second leave of a group fails; other groups, and others in the group, stay."""
    redis.sadd("ugs:1", stored, "4")
    redis.sadd("ugs:2", "3")
    headers = log_in(daemon)

    def leave() -> Any:
        return post(daemon, "/user/leaveGroup", {"groupId": "3"}, headers, multipart=multipart).json

    assert leave() == DONE
    assert leave() == {"code": 100, "msg": "不是该群组的成员 (not a member)", "data": None}
    assert (redis.smembers("ugs:1"), redis.smembers("ugs:2")) == ({b"4"}, {b"3"})


def test_so_many_groups_may_be_joined(share_daemon: ShareDaemon, redis: Redis) -> None:
    """At max_joined one more is refused, and members stay members; 0 is no limit."""
    redis.sadd("ugs:1", "1", '"2"', "3")
    for most, code in ((4, 200), (4, 100), (2, 100), (0, 200)):
        daemon = share_daemon(group__max_joined=str(most))
        headers = log_in(daemon)
        new = f"new-{redis.scard('ugs:1')}"
        answer = post(daemon, "/user/joinGroup", {"groupId": new}, headers)
        assert (answer.status, answer.json["code"]) == (200, code)
        if code == 100:
            assert answer.json["msg"] == "加入的群组过多 (too many groups)"
        for group in ("1", "2", "3"):
            again = post(daemon, "/user/joinGroup", {"groupId": group}, headers).json
            assert again == {"code": 100, "msg": "操作失败", "data": None}
    assert redis.scard("ugs:1") == 5


def test_a_set_of_groups_that_is_none(daemon: Daemon, redis: Redis) -> None:
    """500 with the key named, and never an empty list; it works again when the key is right."""
    headers, others = log_in(daemon, "odd"), log_in(daemon, "2")
    redis.set("ugs:odd", "x")
    for path, fields in (("/user/listGroup", {}), ("/user/joinGroup", {"groupId": "1"})):
        answer = post(daemon, path, fields, headers)
        assert (answer.status, answer.json["code"], answer.json["data"]) == (500, 500, None)
        assert "ugs:odd" in answer.json["msg"]
        assert post(daemon, path, fields, others).json["code"] == 200
    assert {line["key"] for line in daemon.events("store.key_unusable")} == {"ugs:odd"}
    redis.delete("ugs:odd")
    assert post(daemon, "/user/listGroup", {}, headers).json == {**DONE, "data": []}
    assert post(daemon, "/user/joinGroup", {"groupId": "1"}, headers).json["code"] == 200


def test_members_of_a_set_of_groups_that_are_no_ids(daemon: Daemon, redis: Redis) -> None:
    """They are left out and counted."""
    headers = log_in(daemon)
    before = metrics(daemon)["fastimd_corrupt_entries_total"]
    redis.sadd("ugs:1", "1", "", '""', b"\xff", "x" * 10_000, "a\x1b[31m", " a", '"\\u0000"', "群")
    answer = post(daemon, "/user/listGroup", {}, headers)
    assert sorted(answer.json["data"]) == ["1", "群"]
    assert metrics(daemon)["fastimd_corrupt_entries_total"] == before + 7
    assert "x" * 100 not in daemon.log_path.read_text()


def test_the_groups_of_a_user(daemon: Daemon, redis: Redis) -> None:
    """listGroup gives plain ids, each once, whoever wrote them; an empty array without any."""
    headers = log_in(daemon)
    assert post(daemon, "/user/listGroup", {}, headers).json == {**DONE, "data": []}
    redis.sadd("ugs:1", "1", '"2"', "3", '"3"')
    answer = post(daemon, "/user/listGroup", {}, headers).json
    assert sorted(answer["data"]) == ["1", "2", "3"]
    # The seed's clients may send no body at all.
    answer = request(daemon, "POST", "/user/listGroup", headers=headers).json
    assert sorted(answer["data"]) == ["1", "2", "3"]


# --- what is wrong with a request

BAD_REQUESTS: list[tuple[str, str, dict[str, object]]] = [
    ("/user/login", "userId", {"password": "x"}),
    ("/user/login", "password", {"userId": "1"}),
    ("/user/login", "userId", {"userId": "", "password": "x"}),
    ("/user/login", "userId", {"userId": "a\nb", "password": "x"}),
    ("/user/login", "userId", {"userId": "a\x00b", "password": "x"}),
    ("/user/login", "userId", {"userId": " a", "password": "x"}),
    ("/user/login", "userId", {"userId": "9" * 129, "password": "x"}),
    ("/user/joinGroup", "groupId", {}),
    ("/user/joinGroup", "groupId", {"groupId": "g\x1b[31m"}),
    ("/user/joinGroup", "groupId", {"groupId": "\u202egroup"}),
    ("/user/joinGroup", "groupId", {"groupId": "群" * 129}),
    ("/group/listMessage", "groupId", {"startPage": 0, "endPage": 5}),
    ("/group/listMessage", "startPage", {"groupId": "1", "endPage": 5}),
    ("/group/listMessage", "endPage", {"groupId": "1", "startPage": 0}),
    ("/group/listMessage", "startPage", {"groupId": "1", "startPage": "abc", "endPage": 5}),
    ("/group/listMessage", "endPage", {"groupId": "1", "startPage": 0, "endPage": "1.5"}),
    ("/group/listMessage", "endPage", {"groupId": "1", "startPage": 0, "endPage": "9" * 30}),
    ("/group/listMessage", "endPage", {"groupId": "1", "startPage": 0, "endPage": "9" * 5000}),
    ("/group/listMessage", "startPage", {"groupId": "1", "startPage": "１", "endPage": 5}),
    ("/group/listMessage", "startPage", {"groupId": "1", "startPage": "1_0", "endPage": 5}),
    ("/group/listMessage", "count", {"groupId": "1", "userId": "1", "ts": 5}),
    ("/group/listMessage", "userId", {"groupId": "1", "ts": 5, "count": 5}),
    ("/group/listOldMessage", "ts", {"groupId": "1", "userId": "1", "count": 5}),
    ("/group/listOldMessage", "ts", {"groupId": "1", "userId": "1", "ts": "", "count": 5}),
    ("/group/listOldMessage", "ts", {"groupId": "1", "userId": "1", "ts": -1, "count": 5}),
    ("/group/listOldMessage", "count", {"groupId": "1", "userId": "1", "ts": 5, "count": -1}),
    ("/group/delMessage", "groupId", {"ts": 5}),
    ("/group/delMessage", "ts", {"groupId": "1"}),
    ("/group/delMessage", "ts", {"groupId": "1", "ts": "yesterday"}),
]


def test_a_bad_parameter_is_named(daemon: Daemon) -> None:
    """Status 400 and a message that names the parameter, for both kinds of body."""
    headers = log_in(daemon)
    for path, name, fields in BAD_REQUESTS:
        for multipart in (True, False):
            answer = post(daemon, path, fields, headers, multipart=multipart)
            assert answer.status == 400, (path, fields, answer.body)
            assert answer.json["code"] == 400
            assert answer.json["data"] is None
            assert answer.json["msg"].startswith(f"参数 {name} 有误 ({name}: "), answer.body


def test_a_bad_parameter_is_not_echoed(daemon: Daemon) -> None:
    """What a client sends stands in no error message and in no log line."""
    headers = log_in(daemon)
    fields = {"groupId": "<script>\x07", "startPage": 0, "endPage": 1}
    answer = post(daemon, "/group/listMessage", fields, headers)
    assert answer.status == 400
    assert b"script" not in answer.body
    assert "<script>" not in daemon.log_path.read_text()


def test_ids_of_full_length_are_taken(daemon: Daemon, redis: Redis) -> None:
    """128 characters of any script are an id."""
    group = "群" * 128
    assert post(daemon, "/user/joinGroup", {"groupId": group}, log_in(daemon)).json == DONE
    assert redis.smembers("ugs:1") == {group.encode()}


def test_other_paths_and_methods_are_refused_as_json(daemon: Daemon) -> None:
    """404 and 405 have the shape of every other answer."""
    answer = request(daemon, "GET", "/nowhere")
    assert (answer.status, answer.json["code"], answer.json["data"]) == (404, 404, None)
    for path in ("/user/login", *PROTECTED):
        answer = request(daemon, "GET", path)
        assert (answer.status, answer.json["code"], answer.json["data"]) == (405, 405, None)
        assert "POST" in answer.headers["Allow"]
    answer = request(daemon, "POST", "/test/websocket")
    assert (answer.status, answer.json["code"]) == (405, 405)
    for name in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py", "../app.py"):
        assert request(daemon, "GET", f"/test/static/{name}").status == 404


def test_a_body_that_is_too_big_is_refused(daemon: Daemon) -> None:
    """A form of more than a megabyte gets 413."""
    body = urlencode({"userId": "1", "password": "x" * (1024 * 1024)}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = request(daemon, "POST", "/user/login", body=body, headers=kind)
    assert (answer.status, answer.json["code"]) == (413, 413)


@pytest.mark.parametrize("multipart", [True, False])
def test_a_body_just_short_of_a_megabyte(daemon: Daemon, multipart: bool) -> None:
    """Both forms may have one, be it all one field."""
    form = {"userId": "1", "password": "x" * (1024 * 1024 - 1024)}
    assert post(daemon, "/user/login", form, multipart=multipart).json["code"] == 200


# --- other origins


def preflight(daemon: Daemon, origin: str, path: str = "/group/listMessage") -> Answer:
    return request(
        daemon,
        "OPTIONS",
        path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "token,userid",
        },
    )


def test_any_origin_may_call_by_default(daemon: Daemon) -> None:
    """The preflight needs no token; answers, errors too, may be read by the page."""
    for path in ("/user/login", *PROTECTED):
        answer = preflight(daemon, "https://chat.example", path)
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://chat.example")
        allowed = answer.headers["Access-Control-Allow-Headers"].lower()
        assert {name.strip() for name in allowed.split(",")} >= {"token", "userid"}
        methods = answer.headers["Access-Control-Allow-Methods"]
        assert "POST" in methods or methods == "*"
    origin = {"Origin": "https://chat.example"}
    for headers in (log_in(daemon), {}):
        answer = post(daemon, "/user/listGroup", {}, {**headers, **origin})
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://chat.example")
    answer = post(daemon, "/user/login", {"userId": "1"}, origin)
    assert answer.status == 400
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://chat.example")


def test_only_allowed_origins_may_call(start_daemon: StartDaemon) -> None:
    """A page of another origin may not read the answers."""
    daemon = start_daemon(server__allowed_origins='["https://chat.example"]')
    allowed, other = "https://chat.example", "https://evil.example"
    assert preflight(daemon, allowed).headers["Access-Control-Allow-Origin"] == allowed
    assert preflight(daemon, other).headers["Access-Control-Allow-Origin"] is None
    headers = log_in(daemon)
    answer = post(daemon, "/user/listGroup", {}, {**headers, "Origin": allowed})
    assert answer.headers["Access-Control-Allow-Origin"] == allowed
    answer = post(daemon, "/user/listGroup", {}, {**headers, "Origin": other})
    assert answer.headers["Access-Control-Allow-Origin"] is None
    assert "Origin" in answer.headers["Vary"]


# --- the test page


def test_the_test_page_works_offline(daemon: Daemon) -> None:
    """It needs no token, and its policy lets it load from this daemon alone."""
    page = request(daemon, "GET", "/test/websocket")
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")
    rules = dict(
        rule.strip().split(" ", 1) for rule in page.headers["Content-Security-Policy"].split(";")
    )
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert links
    for link in links:
        assert link.startswith("/test/static/"), link
        part = request(daemon, "GET", link)
        assert part.status == 200
        assert part.headers["Content-Type"].split(";")[0] in (
            "text/css",
            "text/javascript",
            "image/svg+xml",
        )
        # Nothing is loaded from elsewhere (an XML name space is a name, not a link).
        code = part.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://[a-z]", code), link


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_leads_to_the_test_page(daemon: Daemon, method: str) -> None:
    """The way is relative: it leads there also behind a proxy with a name of its own."""
    answer = request(daemon, method, "/")
    assert (answer.status, answer.body) == (302, b"")
    assert answer.headers["Location"] == "/test/websocket"
    assert request(daemon, method, answer.headers["Location"]).status == 200


# Long histories


@pytest.mark.parametrize("java", [False, True])
def test_a_long_history_is_whole(daemon: Daemon, redis: Redis, java: bool) -> None:
    """However long, by index or before a message, in one answer, as the short ones."""
    headers = log_in(daemon)
    listed = [message(ts, info=f"第{ts}条") for ts in range(1, 1001)]
    redis.rpush("gml:1", *(wrapped(text) if java else text for text in listed))
    for start, stop in [(0, -1), (0, 999), (-1000, 5000), (100, 700), (0, 199), (0, 200)]:
        fields = {"groupId": "1", "startPage": start, "endPage": stop}
        answer = post(daemon, "/group/listMessage", fields, headers)
        assert answer.json == {**DONE, "data": listed[slice(start, stop + 1 or None)]}
    named = {"groupId": "1", "userId": "1", "ts": 901}
    for count in (200, 201, 900, 10**9):
        answer = post(daemon, "/group/listOldMessage", {**named, "count": count}, headers)
        assert answer.json == {**DONE, "data": listed[max(0, 900 - count) : 900]}


def test_a_long_history_without_a_readable_message_is_an_empty_one(
    daemon: Daemon, redis: Redis
) -> None:
    """Pages of garbage are passed over."""
    headers = log_in(daemon)
    redis.rpush("gml:1", *["garbage"] * 1000)
    fields = {"groupId": "1", "startPage": 0, "endPage": -1}
    assert post(daemon, "/group/listMessage", fields, headers).json == {**DONE, "data": []}


async def test_a_long_history_holds_nobody_up(daemon: Daemon, redis: Redis) -> None:
    """While 100,000 messages are read, members go on talking: hundreds of times, not a few."""
    text = "x" * 200
    for start in range(0, 100_000, 10_000):
        redis.rpush("gml:long", *(message(ts, info=text) for ts in range(start, start + 10_000)))
    headers = await log_in_async(daemon)
    answers: list[Answer] = []

    async def read() -> None:
        fields = {"groupId": "long", "startPage": 0, "endPage": -1}
        answers.append(await post_async(daemon, "/group/listMessage", fields, headers))

    async with connect(daemon.chat_url(group="short")) as member, trio.open_nursery() as nursery:
        await receive(member)
        nursery.start_soon(read)
        echoes = 0
        while not answers:
            await member.send_message(str(echoes))
            assert (await receive(member))["info"] == str(echoes)
            echoes += 1
    assert len(answers[0].json["data"]) == 100_000
    assert echoes > 100
