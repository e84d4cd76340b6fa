"""Groups whose ids name their users: who is not named comes in by no way, and is told nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import trio
from clients import Answer, closing, frame, log_in, message, post, request
from conftest import Daemon, StartDaemon, connect, receive
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from fastimd.groups.whispers import may_enter

GROUP = "dialog#mara,tom"
PRIVATE = {"code": 403, "msg": "该群组仅限指定的用户 (private group)", "data": None}
ENTRY = message(1000, group=GROUP, user="mara", info="between us")


# --- who is named


@pytest.mark.parametrize(
    ("group", "named", "others"),
    [
        ("lobby", ["mara", "", "lobby"], []),
        ("dialog#mara,tom", ["mara", "tom"], ["", "eve", "mara,tom", "Mara", " mara", "dialog"]),
        ("#mara", ["mara"], ["", "#mara"]),
        ("notes#", [], ["mara", "notes", "#"]),
        ("a#mara#tom", ["tom"], ["mara", "mara#tom"]),
        ("a#mara,,tom", ["mara", "tom"], [",", "eve"]),
        ("a#mara, tom", ["mara", " tom"], ["tom"]),
        ("群#小明,小红", ["小明", "小红"], ["小"]),
        ("fullwidth＃mara", ["mara", "tom"], []),
    ],
)
def test_the_names_stand_after_the_last_mark(
    group: str, named: list[str], others: list[str]
) -> None:
    """With commas between, letter for letter; a group without a mark is for everybody."""
    assert [user for user in [*named, *others] if may_enter(group, user)] == named


NAMES = st.text(st.characters(exclude_characters=",#"), min_size=1, max_size=6)


@given(before=st.text(max_size=8), users=st.lists(NAMES, max_size=4), user=NAMES)
def test_a_user_enters_if_and_only_if_named(before: str, users: list[str], user: str) -> None:
    """Whatever stands before the names."""
    group = f"{before}#{','.join(users)}"
    assert may_enter(group, user) == (user in users)


# --- the ways in


def by_form(path: str, **fields: object) -> Callable[[Daemon, dict[str, str]], Answer]:
    return lambda daemon, headers: post(daemon, path, {"groupId": GROUP, **fields}, headers)


def by_query(path: str, **fields: object) -> Callable[[Daemon, dict[str, str]], Answer]:
    query = urlencode({"groupId": GROUP, **fields})
    return lambda daemon, headers: request(daemon, "POST", f"{path}?{query}", headers=headers)


def past_another(path: str, **fields: object) -> Callable[[Daemon, dict[str, str]], Answer]:
    """The group in the query string, which counts, and another in the form."""
    target = f"{path}?{urlencode({'groupId': GROUP})}"
    return lambda daemon, headers: post(daemon, target, {"groupId": "lobby", **fields}, headers)


PAGE = {"startPage": 0, "endPage": -1}
BEFORE = {"userId": "mara", "ts": 1001, "count": 5}
ROUTES = {
    "join": by_form("/user/joinGroup"),
    "join, by the query": by_query("/user/joinGroup"),
    "join, past another": past_another("/user/joinGroup"),
    "history": by_form("/group/listMessage", **PAGE),
    "history, by the query": by_query("/group/listMessage", **PAGE),
    "history, past another": past_another("/group/listMessage", **PAGE),
    "history by ts": by_form("/group/listMessage", **BEFORE),
    "old history": by_form("/group/listOldMessage", **BEFORE),
    "old history, past another": past_another("/group/listOldMessage", **BEFORE),
    "recall": by_form("/group/delMessage", ts=1000),
    "recall, by the query": by_query("/group/delMessage", ts=1000),
}
HOOK = "async def authorize(user_id, token, action, group_id): return True\n"
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "login_auth": {"group__login_auth": "true"},
    "no auto_join": {"group__auto_join": "false"},
    "a hook that lets everybody in": {"hooks__handler": "everybody"},
}


@pytest.fixture(params=SETTINGS)
def house(
    request: pytest.FixtureRequest,
    start_daemon: StartDaemon,
    redis: Redis,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Daemon:
    """A daemon with a whisper of mara's and tom's, of which eve was a member once."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "everybody.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for user in ("mara", "tom", "eve"):
        redis.sadd(f"ugs:{user}", GROUP)
    redis.rpush(f"gml:{GROUP}", ENTRY)
    redis.rpush("gml:lobby", message(1000, group="lobby"))
    return start_daemon(**SETTINGS[request.param])


def chat_url(daemon: Daemon, user: str, token: str) -> str:
    return daemon.chat_url(quote(GROUP, safe=""), user, token)


async def test_who_is_not_named_comes_in_by_no_way(house: Daemon, redis: Redis) -> None:
    """Not by a socket nor by a route, whatever the settings and the hook say."""
    eve = await trio.to_thread.run_sync(log_in, house, "eve")
    async with connect(chat_url(house, "eve", eve["token"])) as socket:
        assert await closing(socket) == (1008, "private group")
    for name, ask in ROUTES.items():
        answer = await trio.to_thread.run_sync(ask, house, eve)
        assert (answer.status, answer.json) == (200, PRIVATE), name
    assert redis.lrange(f"gml:{GROUP}", 0, -1) == [ENTRY.encode()]


async def test_who_is_named_comes_in_by_every_way(house: Daemon) -> None:
    """As into any other group."""
    for user in ("tom", "mara"):  # who recalls the message comes last
        headers = await trio.to_thread.run_sync(log_in, house, user)
        async with connect(chat_url(house, user, headers["token"])) as socket:
            assert (await receive(socket))["list"][0] == json.loads(ENTRY)
            await socket.send_message("hi")
            assert (await receive(socket))["groupId"] == GROUP
        for name, ask in ROUTES.items():
            answer = await trio.to_thread.run_sync(ask, house, headers)
            assert answer.json["code"] in (100, 200), name
            if "history" in name:
                assert "between us" in answer.json["data"][0], name
        async with connect(house.list_url(user, headers["token"])) as socket:
            assert len(await receive(socket)) == 1


async def test_lists_do_not_show_a_whisper_to_whom_it_does_not_name(
    house: Daemon, redis: Redis
) -> None:
    """Neither an old membership nor one that another program announces; and all may leave."""
    eve = await trio.to_thread.run_sync(log_in, house, "eve")
    assert post(house, "/user/listGroup", {}, eve).json["data"] == []
    redis.sadd("ugs:eve", "lobby")
    async with connect(house.list_url("eve", eve["token"])) as socket:
        only_lobby = [{"newMessage": json.loads(message(1000, group="lobby")), "total": 1}]
        assert await receive(socket) == only_lobby
        redis.publish("fastimd:events", json.dumps({"group": GROUP, "user": "eve"}))
        redis.rpush(f"gml:{GROUP}", ENTRY)
        redis.publish(f"mq:{GROUP}", ENTRY)
        redis.publish("fastimd:events", json.dumps({"group": "lobby", "user": "", "ts": 1000}))
        redis.delete("gml:lobby")  # the next list is pushed for this
        assert json.loads(await frame(socket)) == [{"newMessage": None, "total": 0}]
    left = post(house, "/user/leaveGroup", {"groupId": GROUP}, eve)
    assert left.json["code"] == 200
    assert redis.smembers("ugs:eve") == {b"lobby"}


def test_who_is_not_logged_in_is_told_that_first(daemon: Daemon) -> None:
    """As for any group: the answer says nothing of the names."""
    headers: dict[str, Any] = {"userId": "eve", "token": "wrong"}
    for ask in ROUTES.values():
        assert ask(daemon, headers).json["code"] == 440


def test_the_other_groups_of_a_request_do_not_matter(daemon: Daemon) -> None:
    """A list of one's groups asks about none; a parameter that it does not have changes nothing."""
    eve = log_in(daemon, "eve")
    assert post(daemon, "/user/listGroup", {"groupId": GROUP}, eve).json["code"] == 200
