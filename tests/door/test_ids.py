"""What is a group id, a user id and an origin, and what becomes of those that are none.

A malformed id is refused before Redis hears anything: MONITOR tells. A good one is plain text, of
any script, with any punctuation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import trio
from clients import (
    BOUNDARY,
    Answer,
    handshake,
    log_in,
    log_in_async,
    post,
    post_async,
    request,
    wrapped,
)
from conftest import Daemon, connect, receive, run_daemon, run_redis, wait_for
from redis import Redis

from fastimd.redis.embedded import find_server

BY_THEMSELVES = ("PING", "TIME", "UNSUBSCRIBE")
"""What daemons say unasked: they look whether Redis is there and what time it has, and leave groups
of a while ago.

The monitor loses a last argument that ends with a backslash, as the channel of such a group does.
"""

SILENT: dict[str, Any] = {"presence__enabled": "false"}
"""Redis hears of who is in a group a moment after they have come or gone."""

LOGIN_REQUIRED = {"code": 440, "msg": "请登录后访问", "data": None}


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that nobody but the daemons of this file speaks to."""
    with run_redis(str(find_server()), tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def house(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for everybody who knocks."""
    folder = tmp_path_factory.mktemp("house")
    with stopped_cleanly(run_daemon(folder, redis_server, **SILENT)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def guarded(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that serves the pages of one origin."""
    folder = tmp_path_factory.mktemp("guarded")
    daemon = run_daemon(folder, redis_server, server__allowed_origins=ORIGIN, **SILENT)
    with stopped_cleanly(daemon):
        yield daemon


@contextmanager
def stopped_cleanly(daemon: Daemon) -> Iterator[Daemon]:
    try:
        yield daemon
        assert daemon.stop() == 0
        assert not daemon.events("connection.crashed")
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


class Monitor(threading.Thread):
    """Hears every command that Redis gets."""

    def __init__(self, url: str) -> None:
        super().__init__(name="monitor", daemon=True)
        self._url = url
        self._speaker = Redis.from_url(url)
        self._heard: list[str] = []
        self._listening = threading.Event()
        self._markers = 0
        self.start()
        assert self._listening.wait(10)
        self._mark()

    def run(self) -> None:
        with Redis.from_url(self._url) as client, client.monitor() as monitor:
            self._listening.set()
            for each in monitor.listen():
                self._heard.append(each["command"])
                if each["command"] == "ECHO the-end":
                    return

    def end(self) -> None:
        self._speaker.echo("the-end")
        self.join(10)
        assert not self.is_alive()
        self._speaker.close()

    @contextmanager
    def silence(self, *about: object) -> Iterator[None]:
        """While the block runs Redis hears nothing but what daemons say by themselves."""
        begin = self._mark() + 1
        yield
        heard = self._heard[begin : self._mark()]
        assert [each for each in heard if not each.startswith(BY_THEMSELVES)] == [], about

    def _mark(self) -> int:
        """Let Redis hear something; returns where it stands in what was heard."""
        self._markers += 1
        self._speaker.echo(f"marker-{self._markers}")
        marker = f"ECHO marker-{self._markers}"
        wait_for(lambda: marker in self._heard)
        return self._heard.index(marker)


@pytest.fixture
def monitor(redis_url: str) -> Iterator[Monitor]:
    listening = Monitor(redis_url)
    yield listening
    listening.end()


# --- ids that are none

MALFORMED_TEXTS = {
    "empty": "",
    "129 characters": "x" * 129,
    "129 characters of four bytes": "😀" * 129,
    "a space": " ",
    "space before": " a",
    "space behind": "a ",
    "no-break space behind": "a\u00a0",
    "ideographic space before": "\u3000a",
    "tab": "a\tb",
    "line feed": "a\nb",
    "line feed behind": "a\n",
    "carriage return": "a\rb",
    "zero": "a\x00b",
    "escape": "a\x1b[31m",
    "delete": "a\x7fb",
    "C1 control": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "left-to-right override": "a\u202db",
    "right-to-left override": "a\u202eb",
    "right-to-left embedding": "a\u202bb",
    "pop directional formatting": "a\u202cb",
    "right-to-left isolate": "a\u2067b",
    "first strong isolate": "a\u2068b",
    "pop directional isolate": "a\u2069b",
    "right-to-left mark": "a\u200fb",
    "arabic letter mark": "a\u061cb",
    "byte order mark": "\ufeffa",
    "noncharacter": "a\uffff",
}
MALFORMED = {
    **{name: text.encode() for name, text in MALFORMED_TEXTS.items()},
    "no UTF-8": b"a\xff",
    "half a character": "张".encode()[:2],
    "surrogate": b"\xed\xa0\x80",
    "overlong slash": b"a\xc0\xaf",
}


def knock(daemon: Daemon, path: str, **fields: str) -> Answer:
    """Send a good opening handshake for a path."""
    return trio.run(partial(handshake, daemon, path, **fields))


def quoted(value: bytes) -> str:
    return quote_from_bytes(value, safe="")


SOCKET_PATHS = {
    "chat group": ("/group/chat/{}/ann/t", "groupId"),
    "chat user": ("/group/chat/1/{}/t", "userId"),
    "list user": ("/group/list/{}/t", "userId"),
}


@pytest.mark.parametrize("place", SOCKET_PATHS)
def test_a_socket_with_a_malformed_id_is_refused(
    house: Daemon, monitor: Monitor, place: str
) -> None:
    """400 that names the id, and Redis hears nothing of it."""
    path, parameter = SOCKET_PATHS[place]
    for name, value in MALFORMED.items():
        with monitor.silence(name):
            answer = knock(house, path.format(quoted(value)))
            assert (answer.status, answer.json["code"]) == (400, 400), name
        if name in MALFORMED_TEXTS:
            assert parameter in answer.json["msg"], name


OLD: dict[str, bytes] = {"groupId": b"1", "userId": b"ann", "ts": b"1", "count": b"1"}
FORMS: dict[str, tuple[str, str, dict[str, bytes]]] = {
    "login": ("/user/login", "userId", {"password": b"p"}),
    "joinGroup": ("/user/joinGroup", "groupId", {}),
    "leaveGroup": ("/user/leaveGroup", "groupId", {}),
    "listMessage": ("/group/listMessage", "groupId", {"startPage": b"0", "endPage": b"9"}),
    "listMessage by ts, group": ("/group/listMessage", "groupId", OLD),
    "listMessage by ts, user": ("/group/listMessage", "userId", OLD),
    "listOldMessage, group": ("/group/listOldMessage", "groupId", OLD),
    "listOldMessage, user": ("/group/listOldMessage", "userId", OLD),
    "delMessage": ("/group/delMessage", "groupId", {"ts": b"1"}),
}
"""Route, the id that is looked at, and what else it wants."""


def submit(
    daemon: Daemon,
    route: str,
    fields: Mapping[str, bytes],
    headers: Mapping[str, str | bytes],
    *,
    multipart: bool = False,
) -> Answer:
    """Post a form whose values are bytes, whatever they are."""
    if multipart:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        mark = BOUNDARY.encode()
        body = b"".join(
            b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
            % (mark, name.encode(), value)
            for name, value in fields.items()
        )
        body += b"--%s--\r\n" % mark
    else:
        kind = "application/x-www-form-urlencoded"
        body = "&".join(f"{name}={quoted(value)}" for name, value in fields.items()).encode()
    return request(daemon, "POST", route, body=body, headers={"Content-Type": kind, **headers})


@pytest.mark.parametrize("multipart", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_with_a_malformed_id_is_refused(
    house: Daemon, monitor: Monitor, form: str, multipart: bool
) -> None:
    """400 that names the parameter, before Redis is asked even for the good token."""
    headers = log_in(house, "ann")
    route, parameter, others = FORMS[form]
    for name, value in MALFORMED.items():
        if parameter == "userId" and not value and "ts" in others:
            continue  # a message of the server's own has no author
        with monitor.silence(name):
            fields = {**others, parameter: value}
            answer = submit(house, route, fields, headers, multipart=multipart)
            assert (answer.status, answer.json["code"]) == (400, 400), (name, answer.json)
            assert parameter in answer.json["msg"], name


@pytest.mark.parametrize("form", ["joinGroup", "listOldMessage, user", "delMessage"])
def test_a_malformed_id_in_the_header_is_refused(
    house: Daemon, monitor: Monitor, form: str
) -> None:
    """400 that names the header field; what cannot stand in a head at all is refused with it."""
    token = log_in(house, "ann")["token"]
    route, parameter, others = FORMS[form]
    fields = {**others, parameter: b"1"}
    for name, value in MALFORMED.items():
        if value.strip(b" \t") != value or b"\r" in value or b"\n" in value or not value:
            continue  # the field would say something else
        with monitor.silence(name):
            answer = submit(house, route, fields, {"userId": value, "token": token})
            assert (answer.status, answer.json["code"]) == (400, 400), (name, answer.json)
            assert "userId" in answer.json["msg"] or "header field" in answer.json["msg"], name
        if name in ("129 characters", "right-to-left override", "no UTF-8"):
            assert "userId" in answer.json["msg"], name


def test_without_an_id_in_the_header_a_login_is_asked_for(daemon: Daemon, monitor: Monitor) -> None:
    """440, and Redis is not asked for the token of nobody."""
    token = log_in(daemon, "ann")["token"]
    for route, parameter, others in FORMS.values():
        if route == "/user/login":
            continue
        for headers in ({"token": token}, {}):
            with monitor.silence(route, headers):
                answer = submit(daemon, route, {**others, parameter: b"1"}, headers)
                assert (answer.status, answer.json) == (200, LOGIN_REQUIRED)


# --- ids that are good

SCRIPTS = {
    "latin": "Zoë Ångström",
    "greek": "Ωμέγα",
    "cyrillic": "Привет-мир",
    "arabic": "مرحبا",
    "hebrew": "שלום",
    "devanagari": "नमस्ते",
    "thai": "สวัสดี",
    "chinese": "群聊一",
    "japanese": "こんにちは・カナ",
    "korean": "안녕하세요",
    "georgian": "გამარჯობა",
    "ethiopic": "ሰላም",
    "emoji": "😀🎉",
    "both directions": "abc אבג 123",
    "combining": "e\u0301",
    "composed": "\u00e9",
    "one character": "1",
    "one character of four bytes": "𐍈",
    "128 characters": "x" * 128,
    "128 characters of four bytes": "😀" * 128,
}
PUNCTUATION = (
    *("{a}", "{}", "{", "}", "a:b", ":", "login:ann", "gml:1", "*", "?", "[a-z]", "a*", "\\"),
    *("a b", "a  b", "a/b", "/", "//", "..", ".", "../..", "../gml:1", "%", "%41", "%2F", "%00"),
    *("a?b=c", "#", "a#b", "a;b", "a,b", "a&b=c", "a+b", '"', "'", '"quoted"', '""', "\\n", "$(x)"),
    *("<b>&amp;</b>", "null", "true", "0", "-1", "1e3", "[]", "\\u0000", "KEYS[1]", "@", "=", "|"),
)
GOOD = (*SCRIPTS.values(), *PUNCTUATION)


PAIRS = [
    *((name, name) for name in GOOD if "#" not in name),
    *(("of everybody", name) for name in GOOD if "#" in name),
    *((f"{name}#ann", "ann") for name in GOOD if "#" in name),
]
"""Groups and their users; a group whose id has a # is for the users behind it."""


async def test_good_ids_are_plain_text(house: Daemon, redis: Redis) -> None:
    """Log in, join, speak, read and list as any user in any group, under exactly those keys."""
    for name, user in PAIRS:
        before = keys(redis) - {f"login:{user}", f"ugs:{user}"}
        redis.delete(f"ugs:{user}")
        headers = await log_in_async(house, user)
        path = f"/group/chat/{quoted(name.encode())}/{quoted(user.encode())}/t"
        async with connect(f"ws://{house.address}{path}") as member:
            assert await receive(member) == {"list": [], "total": 0}
            await member.send_message("hello")
            said = await receive(member)
        assert (said["groupId"], said["userId"], said["info"]) == (name, user, "hello")
        assert keys(redis) - before == {f"login:{user}", f"ugs:{user}", f"gml:{name}"}
        assert redis.llen(f"gml:{name}") == 1
        # An id that looks like the Java server's form of another one may stand there in that form.
        assert redis.smembers(f"ugs:{user}") in ({name.encode()}, {wrapped(name).encode()})

        async def ask(
            route: str, name: str = name, headers: dict[str, str] = headers, **fields: object
        ) -> Any:
            answer = await post_async(house, route, {"groupId": name, **fields}, headers)
            return answer.json["code"], answer.json["data"]

        assert await ask("/user/listGroup") == (200, [name])
        assert await ask("/user/joinGroup") == (100, None)
        code, listed = await ask("/group/listMessage", startPage=0, endPage=-1)
        assert (code, len(listed)) == (200, 1)
        ts = said["ts"] + 1
        assert await ask("/group/listOldMessage", userId=user, ts=ts, count=9) == (200, listed)
        assert await ask("/group/delMessage", ts=said["ts"]) == (200, None)
        assert redis.exists(f"gml:{name}") == 0


def keys(redis: Redis) -> set[str]:
    """Every key but the daemon's own."""
    found: Any = redis.keys("*")
    return {key.decode() for key in found if not key.startswith(b"fastimd:")}


async def test_no_id_is_a_pattern(daemon: Daemon, redis: Redis) -> None:
    """Who is in ``*`` hears what is said in ``*``, and nothing else."""
    groups = ("*", "?", "a*", "[a-z]", "a", "{a}", "a:b")
    for speaking in groups:
        async with trio.open_nursery() as nursery:
            done = trio.Event()
            ready = [trio.Event() for _ in groups]

            async def listen(group: str, is_ready: trio.Event, done: trio.Event) -> None:
                async with connect(daemon.chat_url(quoted(group.encode()), "ann")) as member:
                    await receive(member)
                    is_ready.set()
                    await done.wait()
                    await member.send_message("last")
                    heard = await receive(member)
                    assert (heard["groupId"], heard["info"]) == (group, "last")

            for group, is_ready in zip(groups, ready, strict=True):
                if group != speaking:
                    nursery.start_soon(listen, group, is_ready, done)
                else:
                    is_ready.set()
            for is_ready in ready:
                await is_ready.wait()
            async with connect(daemon.chat_url(quoted(speaking.encode()), "bob")) as speaker:
                await receive(speaker)
                await speaker.send_message("who hears this?")
                assert (await receive(speaker))["groupId"] == speaking
            done.set()
    assert keys(redis) == {f"gml:{group}" for group in groups} | {"ugs:ann", "ugs:bob"}


def test_ids_that_look_alike_are_two(daemon: Daemon, redis: Redis) -> None:
    """Nothing is folded: neither case nor the forms of a letter."""
    headers = log_in(daemon, "ann")
    names = ["e\u0301", "\u00e9", "E\u0301", "a", "A", "\u0430", "\uff41", "K", "k", "\u212a"]
    names += ["1", "\uff11", "\u0661", "fi", "\ufb01", "x", '"x"', "s", "\u017f", "ss", "\u00df"]
    for name in names:
        assert post(daemon, "/user/joinGroup", {"groupId": name}, headers).json["code"] == 200
    assert redis.scard("ugs:ann") == len(names)
    listed = post(daemon, "/user/listGroup", {}, headers).json["data"]
    assert sorted(listed) == sorted(names)


# --- origins

ORIGIN = "https://chat.example.org"
FOREIGN = (
    "",
    "null",
    "*",
    "http://chat.example.org",
    "wss://chat.example.org",
    "https://chat.example.org:8443",
    "https://chat.example.org.evil.com",
    "https://evilchat.example.org",
    "https://evil.chat.example.org",
    "https://example.org",
    "https://chat.example.org@evil.com",
    "https://user@chat.example.org",
    "https://chat.example.org.",
    "https://chat.example.org/",
    "https://chat.example.org/x",
    "https://chat.example.org#",
    "https://chat.example.org, https://evil.com",
    "https://evil.com https://chat.example.org",
    "https://chat.example.org%00.evil.com",
    "https://chat.example.orgevil.com",
    "https://chat-example.org",
    "https://chatxexample.org",
    "https://сhat.example.org",
    "chat.example.org",
    "//chat.example.org",
    "file://",
)


@pytest.mark.parametrize("path", ["/group/chat/1/ann/t", "/group/list/ann/t"])
def test_sockets_of_other_origins_are_refused(guarded: Daemon, monitor: Monitor, path: str) -> None:
    """403, unheard by Redis; in whatever case its own origin is written, it gets in."""
    for origin in FOREIGN:
        with monitor.silence(origin):
            answer = knock(guarded, path, Origin=origin)
            assert (answer.status, answer.json["code"]) == (403, 403), origin
    for origin in (ORIGIN, "HTTPS://Chat.Example.ORG", "https://CHAT.example.org"):
        assert knock(guarded, path, Origin=origin).status == 101
    assert knock(guarded, path).status == 101


def test_two_origins_are_none(guarded: Daemon, monitor: Monitor) -> None:
    """A handshake with two Origin fields is malformed, whichever comes first."""
    for first, second in ((ORIGIN, "https://evil.com"), ("https://evil.com", ORIGIN)):
        with monitor.silence(first, second):
            assert knock(guarded, "/group/chat/1/ann/t", Origin=first, origin=second).status == 400


CORS_PREFIX = "access-control-"


def cors_fields(answer: Answer) -> dict[str, str]:
    return {n.lower(): v for n, v in answer.headers.items() if n.lower().startswith(CORS_PREFIX)}


@pytest.mark.parametrize(
    ("method", "route"),
    [
        *(("POST", route) for route in ("/user/login", "/user/listGroup", "/group/listMessage")),
        *(("GET", route) for route in ("/user/login", "/test/websocket", "/no/such/route")),
    ],
)
def test_only_pages_of_the_allowed_origin_may_read_answers(
    guarded: Daemon, method: str, route: str
) -> None:
    """Access-Control-Allow-Origin names it, and only when it asks; no cache may mix them up."""
    answer = request(guarded, method, route, headers={"Origin": ORIGIN})
    assert cors_fields(answer)["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in cors_fields(answer)
    assert "origin" in answer.headers["Vary"].lower()
    assert cors_fields(request(guarded, method, route)) == {}
    for origin in FOREIGN:
        answer = request(guarded, method, route, headers={"Origin": origin})
        assert cors_fields(answer) == {}, origin


@pytest.mark.parametrize("route", ["/user/login", "/user/joinGroup", "/group/delMessage"])
def test_only_the_allowed_origin_passes_a_preflight(
    guarded: Daemon, monitor: Monitor, route: str
) -> None:
    """It may post with the header fields of the API; others are told nothing."""
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "userid,token",
    }
    with monitor.silence(route):
        answer = request(guarded, "OPTIONS", route, headers={"Origin": ORIGIN, **asked})
        assert answer.status == 200
        allowed = cors_fields(answer)
        assert allowed["access-control-allow-origin"] == ORIGIN
        assert "POST" in split(allowed["access-control-allow-methods"])
        names = {name.lower() for name in split(allowed["access-control-allow-headers"])}
        assert {"userid", "token"} <= names or "*" in names
        for origin in FOREIGN:
            answer = request(guarded, "OPTIONS", route, headers={"Origin": origin, **asked})
            assert cors_fields(answer) == {}, origin


def split(listed: str) -> set[str]:
    return {each.strip() for each in listed.split(",")}
