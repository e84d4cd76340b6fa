"""Hooks over HTTP: what a receiver is asked, what its answers do, and what befalls bad ones."""

from __future__ import annotations

import hmac
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from clients import AGAIN, closing, frame, memory_of, metrics, post, post_async, stored
from conftest import Daemon, StartDaemon, connect, receive, run_fastimd, wait_for
from redis import Redis

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "HOOKS.md"
SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
ALL = "login,authorize,on_message,on_join,on_leave"


class Asked(NamedTuple):
    """A request that came. ``at`` is by ``time.monotonic``."""

    method: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """What is answered; ``body`` is written as it is."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()


def say(**fields: Any) -> Answer:
    return Answer(body=json.dumps(fields).encode())


class Receiver:
    """A receiver that a test drives: ``answer`` gets each request, and may wait or raise."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self.answer: Callable[[Asked], Answer] = lambda _asked: say(allow=True)

    def of(self, event: str) -> list[Asked]:
        return [each for each in self.asked if each.event["type"] == event]


@contextmanager
def run_receiver(certificate: Path | None = None, port: int = 0) -> Iterator[tuple[Receiver, str]]:
    """A receiver on a free port or this one, with TLS if there is a certificate, and its URL."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            receiver.connections += 1
            super().setup()

        def handle(self) -> None:
            with suppress(OSError):  # the daemon did not wait
                super().handle()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, headers, body, time.monotonic())
            receiver.asked.append(asked)
            try:
                answer = receiver.answer(asked)
            except ConnectionAbortedError:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            scheme = "https" if certificate else "http"
            yield receiver, f"{scheme}://127.0.0.1:{server.server_port}/hooks?for=test"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def receiver_and_url() -> Iterator[tuple[Receiver, str]]:
    with run_receiver() as both:
        yield both


@pytest.fixture
def receiver(receiver_and_url: tuple[Receiver, str]) -> Receiver:
    """A running receiver."""
    return receiver_and_url[0]


Ask = Callable[..., Daemon]


@pytest.fixture
def ask(start_daemon: StartDaemon, receiver_and_url: tuple[Receiver, str]) -> Ask:
    """Start a daemon that asks the receiver."""

    def start(events: str, **settings: str) -> Daemon:
        given = {
            "hooks__webhook_url": receiver_and_url[1],
            "hooks__webhook_secret": SECRET,
            "hooks__webhook_events": events,
            **settings,
        }
        return start_daemon(**given)

    return start


def causes(daemon: Daemon) -> list[str]:
    return [line["error"] for line in daemon.events("hook.failed")]


def log_in(daemon: Daemon, password: str = "x") -> Any:
    answer = post(daemon, "/user/login", {"userId": "1", "password": password})
    return answer.status, answer.json


# --- what is asked


async def test_every_event_has_its_fields(ask: Ask, receiver: Receiver) -> None:
    """One POST each, with the type and what the hook in Python gets."""
    daemon = ask(ALL)
    await post_async(daemon, "/user/login", {"userId": "ann", "password": "pass wörd"})
    async with connect(daemon.chat_url("7", "ann", "tok%20en")) as member:
        await receive(member)
        await member.send_message("héllo\n")
        assert (await receive(member))["info"] == "héllo\n"
    wait_for(lambda: receiver.of("on_leave"), daemon)
    (join,), (leave,) = receiver.of("on_join"), receiver.of("on_leave")
    connection = join.event["connectionId"]
    assert len(connection) == 32
    presence = {"groupId": "7", "userId": "ann", "connectionId": connection}
    assert join.event == {"type": "on_join", **presence}
    assert leave.event == {"type": "on_leave", **presence}
    told = {each.event["type"]: each.event for each in receiver.asked}
    assert told["login"] == {"type": "login", "userId": "ann", "password": "pass wörd"}
    assert told["authorize"] == {
        "type": "authorize",
        "userId": "ann",
        "token": "tok en",
        "action": "chat",
        "groupId": "7",
    }
    assert told["on_message"] == {
        "type": "on_message",
        "groupId": "7",
        "userId": "ann",
        "info": "héllo\n",
    }
    assert len(receiver.asked) == 5


def test_requests_are_signed_as_standard_webhooks_says(ask: Ask, receiver: Receiver) -> None:
    """HMAC-SHA256 over id, timestamp and body, with the bytes of the secret as the key."""
    daemon = ask("login")
    log_in(daemon)
    log_in(daemon)
    first, second = receiver.asked
    for each in (first, second):
        message_id, timestamp = each.headers["webhook-id"], each.headers["webhook-timestamp"]
        signed = f"{message_id}.{timestamp}.".encode() + each.body
        expected = b64encode(hmac.digest(bytes(range(32)), signed, "sha256")).decode()
        assert each.headers["webhook-signature"] == f"v1,{expected}"
        assert abs(int(timestamp) - time.time()) < 60
        assert each.headers["content-type"] == "application/json"
        assert each.headers["user-agent"].startswith("fastimd/")
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the specification, made with its reference libraries."""
    from fastimd.hooks.webhook import signed_headers

    headers = signed_headers(
        b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def the_document(language: str, having: str) -> str:
    """The block of docs/HOOKS.md in a language that has some text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)
    (block,) = [block for block in blocks if having in block]
    return str(block)


def cases() -> list[tuple[str, dict[str, str], str, bool]]:
    """A secret, the headers and the body of requests, and whether they are good."""
    from fastimd.hooks.webhook import signed_headers

    key, body, now = bytes(range(32)), '{"info":"héllo"}', int(time.time())
    good = signed_headers(key, "msg_1", now, body.encode())
    signature = good["webhook-signature"]
    return [
        (SECRET, good, body, True),
        (SECRET, {**good, "webhook-signature": f"v1,b2xk {signature}"}, body, True),
        (SECRET, good, body + " ", False),
        (SECRET, {**good, "webhook-id": "msg_2"}, body, False),
        (SECRET, {**good, "webhook-signature": "v1,"}, body, False),
        (SECRET, {**good, "webhook-signature": "é"}, body, False),
        (SECRET, {**good, "webhook-timestamp": "now"}, body, False),
        *((SECRET, {n: good[n] for n in good if n != name}, body, False) for name in good),
        (SECRET, signed_headers(bytes(32), "msg_1", now, body.encode()), body, False),
        (SECRET, signed_headers(key, "msg_1", now - 400, body.encode()), body, False),
        (SECRET, signed_headers(key, "msg_1", now + 400, body.encode()), body, False),
    ]


def test_the_document_checks_signatures_in_python() -> None:
    """The lines of docs/HOOKS.md take what the daemon signs, and nothing else."""
    names: dict[str, Any] = {}
    exec(the_document("python", "def is_good"), names)
    for secret, headers, body, good in cases():
        assert names["is_good"](secret, headers, body.encode()) == good


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")
def test_the_document_checks_signatures_in_node() -> None:
    """So do those for Node."""
    source = the_document("js", "function isGood") + (
        "const cases = JSON.parse((await import('node:fs')).readFileSync(0));\n"
        "const judge = ([secret, headers, body]) => isGood(secret, headers, Buffer.from(body));\n"
        "console.log(JSON.stringify(cases.map(judge)));\n"
    )
    judged = subprocess.run(
        ["node", "--input-type=module", "--eval", source],
        input=json.dumps(cases()).encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert judged.stderr == b""
    assert json.loads(judged.stdout) == [good for *_, good in cases()]


def test_only_the_named_events_are_asked(ask: Ask, receiver: Receiver) -> None:
    """The others are as without a receiver."""
    daemon = ask("on_join")
    assert log_in(daemon)[1]["data"] == "user_info"

    async def visit() -> None:
        async with connect(daemon.chat_url()) as member:
            await receive(member)
            await member.send_message("x")
            assert (await receive(member))["info"] == "x"

    trio.run(visit)
    wait_for(lambda: receiver.asked, daemon)
    daemon.stop()
    assert [each.event["type"] for each in receiver.asked] == ["on_join"]


async def test_connections_are_kept_and_bounded(ask: Ask, receiver: Receiver) -> None:
    """One after the other, questions go over one connection; at once, over no more than set."""
    asking = threading.Semaphore(0)
    go = threading.Event()
    daemon = ask("login", hooks__webhook_connections="3", hooks__login_timeout="60")
    for _ in range(5):
        assert (await trio.to_thread.run_sync(log_in, daemon))[0] == 200
    assert receiver.connections == 1

    def wait(_asked: Asked) -> Answer:
        asking.release()
        go.wait(20)
        return say(allow=True)

    receiver.answer = wait
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(partial(trio.to_thread.run_sync, log_in, daemon))
        for _ in range(3):
            await trio.to_thread.run_sync(asking.acquire)
        await trio.sleep(0.2)
        assert not asking.acquire(blocking=False)
        go.set()
    assert len(receiver.asked) == 13
    assert receiver.connections == 3


# --- what is answered


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (say(allow=True, data={"level": 7}), {"code": 200, "data": {"level": 7}}),
        (say(allow=True), {"code": 200, "data": "user_info"}),
        (say(allow=True, data=None, reason=None), {"code": 200, "data": "user_info"}),
        (Answer(201, b'{"allow":true}'), {"code": 200, "data": "user_info"}),
        (say(allow=False), {"code": 100, "msg": "登录失败", "data": None}),
        (say(allow=False, reason="banned"), {"code": 100, "msg": "banned", "data": None}),
    ],
)
def test_login_is_decided_by_the_receiver(
    ask: Ask, receiver: Receiver, answer: Answer, expected: dict[str, Any]
) -> None:
    """``data`` is shown, a reason told."""
    receiver.answer = lambda _asked: answer
    status, got = log_in(ask("login"))
    assert status == 200
    assert got == {"msg": got["msg"], **expected}


async def test_authorize_is_decided_by_the_receiver(ask: Ask, receiver: Receiver) -> None:
    """Without a reason it is a bad token, with one a user who may not."""
    answers = {
        "good": say(allow=True),
        "bad": say(allow=False),
        "banned": say(allow=False, reason="banned"),
    }
    receiver.answer = lambda asked: answers[asked.event["token"]]
    daemon = ask("authorize")
    async with connect(daemon.chat_url(token="bad")) as refused:
        assert await frame(refused) == "440"
        assert await closing(refused) == (1008, "login required")
    async with connect(daemon.list_url(token="banned")) as refused:
        assert await closing(refused) == (1008, "banned")
    async with connect(daemon.chat_url(token="good")) as member:
        await receive(member)
    for token, code in (("good", 200), ("bad", 440), ("banned", 403)):
        headers = {"userId": "1", "token": token}
        assert (await post_async(daemon, "/user/listGroup", {}, headers)).json["code"] == code


async def test_a_message_is_decided_by_the_receiver(
    ask: Ask, receiver: Receiver, redis: Redis
) -> None:
    """Allowed, changed or refused, on two daemons alike."""

    def decide(asked: Asked) -> Answer:
        match asked.event["info"]:
            case "spam":
                return say(allow=False, reason="no spam")
            case "empty":
                return say(allow=True, info="")
            case "darn":
                return say(allow=True, info="****", reason=None)
            case "gift":
                return say(allow=True, tags={"kind": "gift"})
            case "none":
                return say(allow=True, tags={}, info=None)
        return say(allow=True, tags=None)

    receiver.answer = decide
    here, there = ask("on_message"), ask("on_message")
    async with (
        connect(here.chat_url(user="ann")) as ann,
        connect(there.chat_url(user="bob")) as bob,
    ):
        await receive(ann)
        await receive(bob)
        await ann.send_message("spam")
        assert await receive(ann) == {"code": 403, "msg": "no spam", "data": "spam"}
        for text in ("hello", "darn", "empty", "gift", "none"):
            await ann.send_message(text)
        heard = [await receive(bob) for _ in range(5)]
    infos = ["hello", "****", "", "gift", "none"]
    assert [each["info"] for each in heard] == stored(redis) == infos
    assert [each.get("tags") for each in heard] == [None, None, None, {"kind": "gift"}, None]


# --- what goes wrong


def flaky(*statuses: int) -> Callable[[Asked], Answer]:
    """Answers with these one after the other, then well."""
    left = list(statuses)
    return lambda _asked: Answer(left.pop(0)) if left else say(allow=True)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_asked_again(ask: Ask, receiver: Receiver, status: int) -> None:
    """Two failures, then an answer: one id, three signatures, and pauses that grow."""
    receiver.answer = flaky(status, status)
    daemon = ask("login")
    assert log_in(daemon)[0] == 200
    first, second, third = receiver.asked
    assert len({each.headers["webhook-id"] for each in receiver.asked}) == 1
    assert len({each.body for each in receiver.asked}) == 1
    assert second.at - first.at >= 0.05
    assert third.at - second.at >= 0.1
    assert causes(daemon) == []
    assert metrics(daemon)['fastimd_hook_calls_total{hook="login",outcome="ok"}'] == 1


def test_a_connection_that_breaks_is_no_answer(ask: Ask, receiver: Receiver) -> None:
    """The receiver drops the connection twice, then answers."""
    left = [1, 1]

    def answer(_asked: Asked) -> Answer:
        if left:
            left.pop()
            raise ConnectionAbortedError
        return say(allow=True)

    receiver.answer = answer
    assert log_in(ask("login"))[0] == 200
    assert len(receiver.asked) == 3


def test_retries_are_bounded(ask: Ask, receiver: Receiver) -> None:
    """After ``webhook_retries`` further attempts the hook has failed."""
    receiver.answer = lambda _asked: Answer(500)
    daemon = ask("login", hooks__webhook_retries="1")
    assert log_in(daemon) == (503, AGAIN)
    assert len(receiver.asked) == 2
    assert causes(daemon) == ["it answered 500 (attempts: 2)"]


def test_retries_end_with_the_deadline(ask: Ask, receiver: Receiver) -> None:
    """No pause is begun that would not end in time, and the last cause is told."""
    receiver.answer = lambda _asked: Answer(500)
    daemon = ask("login", hooks__webhook_retries="10", hooks__login_timeout="3")
    began = time.monotonic()
    assert log_in(daemon) == (503, AGAIN)
    assert time.monotonic() - began < 10
    assert 2 <= len(receiver.asked) <= 6
    (cause,) = causes(daemon)
    assert cause == f"it answered 500 (attempts: {len(receiver.asked)})"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Answer(200, b""), "not understood: Input data was truncated"),
        (Answer(204, b""), "not understood: Input data was truncated"),
        (Answer(200, b"<html>"), "not understood: JSON is malformed"),
        (Answer(200, b'{"allow":true'), "not understood: Input data was truncated"),
        (Answer(200, b"\xff"), "not understood: JSON is malformed"),
        (say(), "not understood: Object missing required field `allow`"),
        (say(allow="yes"), "not understood: Expected `bool`, got `str` - at `$.allow`"),
        (say(allow=1), "not understood: Expected `bool`, got `int` - at `$.allow`"),
        (say(allow=True, infos="x"), "not understood: a field that has no meaning here"),
        (say(allow=True, info=7), "not understood: Expected `str | null`, got `int` - at `$.info`"),
        (say(allow=True, tags=["x"]), "Expected `object | null`, got `array` - at `$.tags`"),
        (say(allow=True, tags={"x": 1}), "Expected `str`, got `int` - at `$.tags[...]`"),
        (say(allow=True, tags={"event": "recall"}), "returned a tag event, which is fastimd's own"),
        (say(allow=True, tags={"x": "y" * 1024}), "returned tags of 1025 bytes, more than 1024"),
        (Answer(200, b"[true]"), "not understood: Expected `object`, got `array`"),
        (Answer(200, b" " * 65537), "its answer is longer than 65536 bytes"),
        (
            Answer(200, b"\x1f\x8b\x08\x00", (("Content-Encoding", "gzip"),)),
            "not understood: JSON is malformed",
        ),
        (Answer(302, b"", (("Location", "/elsewhere"),)), "it answered 302"),
        (Answer(307, b"", (("Location", "/elsewhere"),)), "it answered 307"),
        (Answer(401, b'{"allow":true}'), "it answered 401"),
        (Answer(400, b" " * 65537), "it answered 400"),
        (Answer(500, b" " * 65537), "it answered 500 (attempts: 1)"),
        (Answer(404, b'{"allow":true}'), "it answered 404"),
    ],
)
async def test_a_bad_answer_is_never_a_yes(
    ask: Ask, receiver: Receiver, redis: Redis, answer: Answer, cause: str
) -> None:
    """It is asked once, the message is refused, and the log has the cause."""
    receiver.answer = lambda _asked: answer
    daemon = ask("on_message", hooks__webhook_retries="0")
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("said")
        assert await receive(member) == {**AGAIN, "data": "said"}
    assert len(receiver.asked) == 1
    assert stored(redis) == []
    (told,) = causes(daemon)
    assert cause in told


def test_cookies_are_not_kept(ask: Ask, receiver: Receiver) -> None:
    """One user's session with the receiver is not another's."""
    receiver.answer = lambda _asked: Answer(
        200, b'{"allow":true}', (("Set-Cookie", "session=1; Path=/"),)
    )
    daemon = ask("login")
    for _ in range(2):
        assert log_in(daemon)[0] == 200
    assert len(receiver.asked) == 2
    assert not any("cookie" in each.headers for each in receiver.asked)


async def test_a_huge_answer_is_not_read_to_its_end(ask: Ask, receiver: Receiver) -> None:
    """The daemon's memory does not follow the receiver's."""
    receiver.answer = lambda _asked: Answer(200, b" " * 100_000_000)
    daemon = ask("on_message")
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("said")
        assert (await receive(member))["code"] == 503
    assert memory_of(daemon, "VmHWM") < 150_000_000


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("policy", ["refuse", "allow"])
async def test_a_receiver_that_is_away(ask: Ask, redis: Redis, policy: str) -> None:
    """Each hook does what its policy says; a login never lets anybody in."""
    daemon = ask(
        ALL,
        hooks__webhook_url=f"http://user:hunter2@127.0.0.1:{unused_port()}/hunter3",
        hooks__authorize_on_failure=policy,
        hooks__message_on_failure=policy,
    )
    answer = await post_async(daemon, "/user/login", {"userId": "1", "password": "x"})
    assert (answer.status, answer.json) == (503, AGAIN)
    async with connect(daemon.chat_url()) as member:
        if policy == "refuse":
            assert await closing(member) == (1013, "try again later")
        else:
            await receive(member)
            await member.send_message("x")
            assert (await receive(member))["info"] == "x"
    cause = causes(daemon)[0]
    assert cause.startswith("cannot connect: ")
    assert cause.endswith("Connection refused (attempts: 3)")
    assert "hunter" not in daemon.log_path.read_text()


async def test_a_receiver_that_hangs_has_a_deadline(ask: Ask, receiver: Receiver) -> None:
    """No answer in time is a failure, also of those who wait for a connection; when the receiver
    answers again all connections can be used again."""
    go = threading.Event()

    def wait(_asked: Asked) -> Answer:
        go.wait(20)
        return say(allow=True)

    receiver.answer = wait
    daemon = ask("login", hooks__webhook_connections="2", hooks__login_timeout="5")
    statuses: list[int] = []

    async def ask_once() -> None:
        statuses.append((await trio.to_thread.run_sync(log_in, daemon))[0])

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask_once)
    assert statuses == [503] * 6
    assert causes(daemon)[0] == "no answer within 5 s"
    go.set()
    both = threading.Barrier(2, timeout=20)

    def meet(_asked: Asked) -> Answer:
        both.wait()
        return say(allow=True)

    receiver.answer = meet
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_once)
        nursery.start_soon(ask_once)
    assert statuses[6:] == [200, 200]


def test_a_receiver_that_does_not_speak_http(ask: Ask) -> None:
    """Whatever comes back is not repeated in the log."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(connection.recv(65536).rpartition(b"\r\n")[2] + b"\r\n\r\n")

        thread = threading.Thread(target=echo)
        thread.start()
        port = server.getsockname()[1]
        daemon = ask("login", hooks__webhook_url=f"http://127.0.0.1:{port}/")
        assert log_in(daemon, "top-secret") == (503, AGAIN)
        thread.join()
    (cause,) = causes(daemon)
    assert cause.startswith("the connection broke: ")
    assert "top-secret" not in daemon.log_path.read_text()


def test_a_certificate_is_judged(
    ask: Ask, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot prove to be the receiver is not asked; whom the machine trusts is."""
    with run_receiver(certificate) as (receiver, url):
        daemon = ask("login", hooks__webhook_url=url)
        assert log_in(daemon) == (503, AGAIN)
        assert "certificate verify failed: self-signed certificate" in causes(daemon)[0]
        assert receiver.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert log_in(ask("login", hooks__webhook_url=url))[0] == 200
        assert len(receiver.asked) == 1


def test_a_proxy_in_the_environment_is_not_asked(
    ask: Ask, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed for the receiver goes to the receiver."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    assert log_in(ask("login"))[0] == 200
    assert len(receiver.asked) == 1


async def test_no_secret_gets_into_the_log(ask: Ask, receiver: Receiver) -> None:
    """At the lowest level, with answers that echo what was asked."""
    told = {"login": "password", "authorize": "token", "on_message": "info"}

    def echo(asked: Asked) -> Answer:
        event = asked.event
        return say(allow=True, **{event[told.get(event["type"], "type")]: 1})

    receiver.answer = echo
    daemon = ask(ALL, log__level="debug", hooks__authorize_on_failure="allow")
    await post_async(daemon, "/user/login", {"userId": "1", "password": "top-secret"})
    async with connect(daemon.chat_url(token="tok%20en")) as member:
        await receive(member)
        await member.send_message("said-this")
        assert (await receive(member))["code"] == 503
    wait_for(lambda: len(daemon.events("hook.failed")) >= 3, daemon)
    said = daemon.log_path.read_text()
    for secret in ("top-secret", "tok en", "tok%20en", "said-this", SECRET, SECRET[6:]):
        assert secret not in said


async def test_presence_is_told_again_until_it_is_taken(ask: Ask, receiver: Receiver) -> None:
    """Any 2xx takes it; join before leave, under failures too, and each under its id."""
    failing = {"left": 2}

    def answer(_asked: Asked) -> Answer:
        if failing["left"]:
            failing["left"] -= 1
            return Answer(503)
        return Answer(204, b"")

    receiver.answer = answer
    daemon = ask("on_join,on_leave")
    async with connect(daemon.chat_url("7", "ann")) as member:
        await receive(member)
    await trio.to_thread.run_sync(wait_for, lambda: receiver.of("on_leave"), daemon)
    kinds = [each.event["type"] for each in receiver.asked]
    assert kinds == ["on_join"] * 3 + ["on_leave"]
    assert len({each.headers["webhook-id"] for each in receiver.asked}) == 2
    (failed,) = daemon.events("event.failed")
    assert failed["error"] == "it answered 503"
    assert metrics(daemon)['fastimd_events_failed_total{event="on_join"}'] == 2
    assert metrics(daemon)['fastimd_events_delivered_total{event="on_join"}'] == 1


async def test_presence_that_hangs_holds_up_no_question(ask: Ask, receiver: Receiver) -> None:
    """However few connections there are, some are left for what somebody waits for."""
    go = threading.Event()

    def answer(asked: Asked) -> Answer:
        if asked.event["type"] == "on_join":
            go.wait(20)
        return say(allow=True)

    receiver.answer = answer
    daemon = ask("on_join,on_message", hooks__webhook_connections="2", hooks__presence_timeout="60")
    async with (
        connect(daemon.chat_url(user="a")) as one,
        connect(daemon.chat_url(user="b")),
        connect(daemon.chat_url(user="c")),
    ):
        await receive(one)
        wait_for(lambda: receiver.of("on_join"), daemon)
        for text in ("x", "y"):
            await one.send_message(text)
            assert (await receive(one))["info"] == text
        assert len(receiver.of("on_join")) == 1
        go.set()
        wait_for(lambda: len(receiver.of("on_join")) == 3, daemon)


@pytest.mark.timeout(120)
async def test_a_leave_that_is_told_twice_has_one_id(ask: Ask, receiver: Receiver) -> None:
    """A daemon is killed, and the one that tells its leave is not sure that it was taken.

    Nor may the first have known that of the join, which is told again then.
    """
    first, second = (ask("on_join,on_leave") for _ in range(2))
    kinds: list[str] = []

    def answer(asked: Asked) -> Answer:
        kinds.append(asked.event["type"])
        return Answer(503) if kinds.count("on_leave") == 1 else say(allow=True)

    receiver.answer = answer
    async with connect(first.chat_url("7", "ann")) as member:
        await receive(member)
        wait_for(lambda: receiver.of("on_join"), first)
        first.process.kill()
        first.expected_status = -signal.SIGKILL
    with trio.fail_after(40):
        while len(receiver.of("on_leave")) < 2:  # noqa: ASYNC110
            await trio.sleep(0.1)
    number = receiver.of("on_join")[0].event["connectionId"]
    for kind in ("on_join", "on_leave"):
        told = receiver.of(kind)
        assert {each.event["connectionId"] for each in told} == {number}
        assert {each.headers["webhook-id"] for each in told} == {f"msg_{number}_{kind}"}
    assert second.stop() == 0


# --- settings


def check(login_hook: str = "", **settings: str) -> tuple[int, list[str]]:
    given = {f"hooks__{name}": value for name, value in settings.items()}
    checked = run_fastimd("check", folder=None, typed="", login__hook=login_hook, **given)
    return checked.returncode, checked.stderr.splitlines()


GOOD = {
    "webhook_url": "https://game.example/hooks",
    "webhook_secret": SECRET,
    "webhook_events": "login",
}


def test_a_receiver_needs_a_secret_and_events() -> None:
    """Each of them that is missing is named; the whole is good."""
    assert check(**GOOD) == (0, [])
    for missing in ("webhook_secret", "webhook_events"):
        code, (line,) = check(**{**GOOD, missing: ""})
        assert code == 78
        assert f"hooks.{missing}: not given; hooks.webhook_url needs it" in line
    code, (line,) = check(webhook_events="login")
    assert code == 78
    assert "hooks.webhook_url: not given; hooks.webhook_events needs it" in line


def test_a_login_is_named_once() -> None:
    """``login.hook`` and a receiver that is asked for logins are a mistake of both."""
    code, (line,) = check(**GOOD, login_hook="operator:eq")
    assert code == 78
    assert "hooks.webhook_events" in line
    assert "login.hook ('operator:eq')" in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("webhook_url", "ftp://game.example/"),
        ("webhook_url", "game.example"),
        ("webhook_url", "http://:80"),
        ("webhook_url", "http://game.example:0/"),
        ("webhook_url", "http://game.example/#part"),
        ("webhook_url", "http://game.example/a b"),
        ("webhook_url", "http://300.1.1.1/"),
        ("webhook_url", "http://xn--/"),
        ("webhook_secret", "hunter2"),
        ("webhook_secret", "whsec_hunter2"),
        ("webhook_secret", "whsec_" + b64encode(bytes(23)).decode()),
        ("webhook_secret", "whsec_" + b64encode(bytes(65)).decode()),
        ("webhook_events", "on_mesage"),
    ],
)
def test_a_bad_setting_is_told_and_a_secret_one_not_shown(key: str, value: str) -> None:
    """What is accepted is named; URLs and secrets are not repeated."""
    code, (line,) = check(**{**GOOD, key: value})
    assert code == 78
    assert f"hooks.{key}: got " in line
    assert (value in line) == (key == "webhook_events")
