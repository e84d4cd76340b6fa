"""The key set of tokens, at a real server that rotates keys, goes away and answers rubbish."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import jwt
import pytest
import structlog
import trio
from conftest import Daemon, StartDaemon, wait_for
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from fastimd.base.errors import TokenRefused
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Token
from fastimd.live import jwks
from fastimd.live.asymmetric import MAX_KEYS
from fastimd.live.tokens import Tokens

RSA = [rsa.generate_private_key(65537, 2048) for _ in range(2)]
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def public(key: Any, **fields: Any) -> dict[str, Any]:
    """The public part of a key, as it is in a set."""
    families = {rsa.RSAPrivateKey: RSAAlgorithm, ed25519.Ed25519PrivateKey: OKPAlgorithm}
    family: Any = next((found for kind, found in families.items() if isinstance(key, kind)), None)
    made: dict[str, Any] = (family or ECAlgorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made | fields


def key_set(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(key: Any, algorithm: str, kid: str | None = None) -> str:
    return jwt.encode({"sub": "mara"}, key, algorithm, {"kid": kid} if kid is not None else None)


OLD, NEW = public(RSA[0], kid="old"), public(RSA[1], kid="new")
BY_OLD, BY_NEW = token(RSA[0], "RS256", "old"), token(RSA[1], "RS256", "new")


class KeyServer:
    """A server that a test drives; ``answer`` is asked for what to send, as it is."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Callable[[trio.SocketStream], Awaitable[None]] = self.nothing
        self.url = ""

    def say(self, body: bytes, status: str = "200 OK", fields: str = "") -> None:
        """From now on, answer that."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n"

        async def answer(stream: trio.SocketStream) -> None:
            await stream.send_all(head.encode() + body)

        self.answer = answer

    async def nothing(self, _stream: trio.SocketStream) -> None: ...

    async def silence(self, _stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def drip(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.01)

    async def flood(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += await stream.receive_some()
            assert asked.startswith(b"GET /keys HTTP/1.1\r\n")
            self.asked += 1
            with suppress(trio.BrokenResourceError):  # the daemon had enough
                await self.answer(stream)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses and deadlines be short."""
    monkeypatch.setattr(jwks, "PAUSE", 0.1)
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.5)


@asynccontextmanager
async def serving(body: bytes = b"") -> AsyncIterator[tuple[KeyServer, Tokens, Metrics]]:
    """A server, and who reads tokens by its keys."""
    server, metrics = KeyServer(), Metrics()
    server.say(body)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        server.url = f"http://127.0.0.1:{port}/keys"
        tokens = Tokens(Config(token=Token(jwks_url=server.url)), metrics)
        nursery.start_soon(tokens.run)
        with trio.fail_after(20):
            yield server, tokens, metrics
        nursery.cancel_scope.cancel()


async def refusal(tokens: Tokens, text: str) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        await tokens.read_connect(text)
    assert text not in str(caught.value)
    return caught.value


async def user(tokens: Tokens, text: str) -> str:
    return (await tokens.read_connect(text)).user


# --- keys


async def test_keys_are_found_by_their_ids() -> None:
    """Of every kind, among others that are not for signatures."""
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"},
        {"kty": "unheard of"},
        {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "broken"},
        {"kty": 1},
        {},
    ]
    keys = [OLD, NEW, public(EC, kid="ec"), public(ED, kid="ed")]
    async with serving(key_set(*others, *keys)) as (_, tokens, _):
        for key, algorithm, kid in (
            (RSA[0], "RS256", "old"),
            (RSA[0], "PS512", "old"),
            (RSA[1], "RS384", "new"),
            (EC, "ES256", "ec"),
            (ED, "EdDSA", "ed"),
        ):
            assert await user(tokens, token(key, algorithm, kid)) == "mara"
        assert (await refusal(tokens, token(RSA[1], "RS256", "old"))).cause == "signature"


@pytest.mark.parametrize(
    "jwk",
    [
        public(RSA[0], kid="old", use="enc"),
        public(RSA[0], kid="old", key_ops=["sign"]),
        public(RSA[0], kid="old", key_ops="verify"),
        public(RSA[0], kid="old", alg="RS512"),
        public(RSA[0], kid="old", alg="RSA-OAEP"),
        public(RSA[0], kid="old", alg=None),
        public(RSA[0], kid=1),
        public(RSA[0], kid="Old"),
        public(rsa.generate_private_key(65537, 1024), kid="old"),
        RSAAlgorithm.to_jwk(RSA[0], as_dict=True) | {"kid": "old", "key_ops": ["verify"]},
        {"kty": "oct", "k": OLD["n"], "kid": "old", "alg": "RS256"},
    ],
    ids=lambda jwk: "-".join(f"{jwk.get(name)}" for name in ("use", "key_ops", "alg", "kid")),
)
async def test_a_key_for_something_else_is_not_used(jwk: dict[str, Any]) -> None:
    """Nor one that is private, weak, or of another algorithm or id."""
    async with serving(key_set(jwk, NEW)) as (_, tokens, _):
        refused = await refusal(tokens, BY_OLD)
        assert (refused.cause, refused.is_temporary) == ("key", False)


async def test_a_secret_of_the_set_is_no_key() -> None:
    """Everybody can read it."""
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U", "kid": "s"}
    async with serving(key_set(secret, OLD)) as (server, tokens, _):
        text = jwt.encode({"sub": "mara"}, b"secret" * 6, "HS256", {"kid": "s"})
        assert (await refusal(tokens, text)).cause == "algorithm"
        assert server.asked <= 1  # nothing was looked for


async def test_a_token_without_an_id_needs_the_only_key_that_fits() -> None:
    """Of two it might be either."""
    async with serving(key_set(OLD, public(EC, kid="ec"))) as (server, tokens, _):
        assert await user(tokens, token(RSA[0], "RS256")) == "mara"
        assert await user(tokens, token(EC, "ES256")) == "mara"
        server.say(key_set(OLD, NEW))
        assert await user(tokens, BY_NEW) == "mara"
        assert "names no key" in str(await refusal(tokens, token(RSA[0], "RS256")))


# --- rotation


async def test_a_new_key_is_read_when_a_token_names_it() -> None:
    """The old one is gone as soon as the set is without it."""
    async with serving(key_set(OLD)) as (server, tokens, metrics):
        assert await user(tokens, BY_OLD) == "mara"
        server.say(key_set(NEW))
        assert await user(tokens, BY_NEW) == "mara"
        assert (await refusal(tokens, BY_OLD)).cause == "key"
        assert metrics.jwks_reads["failed"] == 0


async def test_many_tokens_share_one_answer() -> None:
    """At the start too, when no key is known."""
    async with serving(key_set(OLD)) as (server, tokens, _):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(user, tokens, BY_OLD)
        assert server.asked == 1
        server.say(key_set(NEW))
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(user, tokens, BY_NEW)
        assert server.asked == 2


async def test_a_token_that_nobody_waits_for_any_more_spoils_nothing() -> None:
    """Who goes away while the server is asked leaves the answer to the others."""
    async with serving(key_set(OLD)) as (server, tokens, _):
        assert await user(tokens, BY_OLD) == "mara"
        server.say(key_set(NEW))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(user, tokens, BY_NEW)
            with trio.move_on_after(0.01) as gone:
                await tokens.read_connect(BY_NEW)
            assert gone.cancelled_caught
        assert await user(tokens, BY_NEW) == "mara"


async def test_invented_ids_do_not_flood_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer in a pause is all that they get, and each is refused for good."""
    monkeypatch.setattr(jwks, "PAUSE", 0.3)
    async with serving(key_set(OLD)) as (server, tokens, _):
        began = trio.current_time()
        for round_number in range(3):
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    text = token(ED, "EdDSA", f"{round_number}-{number}")
                    nursery.start_soon(refusal, tokens, text)
        assert server.asked <= (trio.current_time() - began) / 0.3 + 1
        assert not (await refusal(tokens, token(ED, "EdDSA", "x"))).is_temporary


async def test_the_set_is_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a key which was taken out is not good for ever."""
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.05)
    async with serving(key_set(OLD)) as (server, tokens, _):
        assert await user(tokens, BY_OLD) == "mara"
        asked = server.asked
        server.say(key_set(NEW))
        await trio.sleep(0.6)  # of which 0.3 are pauses
        assert server.asked >= asked + 2
        assert (await refusal(tokens, BY_OLD)).cause == "key"


# --- a server that is away, or answers something else


def answers(server: KeyServer) -> dict[str, Callable[[], Any]]:
    """What a server may do wrong; each makes it do so."""

    def do(name: str) -> Callable[[], Any]:
        return lambda: setattr(server, "answer", getattr(server, name))

    def say(*given: Any) -> Callable[[], Any]:
        return lambda: server.say(*given)

    return {
        "the connection broke": do("nothing"),
        "no answer within 0.5 s": do("silence"),
        "no answer within 0.5 s ": do("drip"),
        "longer than 262144 bytes": do("flood"),
        "no key set": say(b"<html>"),
        "no key set ": say(b'{"keys":{}}'),
        "no key set  ": say(b"[" * 100_000),
        "no key set   ": say(b'{"keys":["\xff"]}'),
        "no key that can be used": say(b'{"keys":[]}'),
        "more than 64 keys": say(key_set(*[NEW] * (MAX_KEYS + 1))),
        "it answered 500": say(key_set(NEW), "500 Internal Server Error"),
        "it answered 204": say(b"", "204 No Content"),
        "it answered 302": say(b"", "302 Found", f"Location: {server.url}\r\n"),
    }


@pytest.mark.parametrize("reason", answers(KeyServer()))
async def test_the_last_good_keys_outlive_their_server(reason: str) -> None:
    """A failure is logged and counted; who has a new key may try again later."""
    async with serving(key_set(OLD)) as (server, tokens, metrics):
        assert await user(tokens, BY_OLD) == "mara"
        answers(server)[reason]()
        with structlog.testing.capture_logs() as lines:
            refused = await refusal(tokens, BY_NEW)
        assert (refused.cause, refused.is_temporary) == ("key", True)
        failed = [line for line in lines if line["event"] == "jwks.failed"]
        assert reason.strip() in failed[0]["error"]
        assert failed[0]["keys"] == 1
        assert metrics.jwks_reads["failed"] == len(failed)
        assert await user(tokens, BY_OLD) == "mara"
        server.say(key_set(OLD, NEW))
        assert await user(tokens, BY_NEW) == "mara"


async def test_a_token_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where nobody reads the keys."""
    monkeypatch.setattr(jwks, "WAIT_SECONDS", 0.1)
    tokens = Tokens(Config(token=Token(jwks_url="http://127.0.0.1:1/keys")), Metrics())
    assert (await refusal(tokens, BY_OLD)).is_temporary


async def test_a_server_that_is_not_there_is_told_with_its_cause() -> None:
    """As the system says it."""
    metrics = Metrics()
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))  # and nobody listens there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/keys"
        tokens = Tokens(Config(token=Token(jwks_url=url)), metrics)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tokens.run)
            with structlog.testing.capture_logs() as lines:
                assert (await refusal(tokens, BY_OLD)).is_temporary
            nursery.cancel_scope.cancel()
    assert "cannot connect: [Errno 111]" in lines[0]["error"]


def test_a_daemon_reads_its_keys_and_serves_without_them(start_daemon: StartDaemon) -> None:
    """It starts though the server is away, says so, and stops when it is told."""
    daemon: Daemon = start_daemon(token__jwks_url="http://127.0.0.1:1/keys")
    wait_for(lambda: daemon.events("jwks.failed"), daemon)
    assert daemon.stop() == 0
