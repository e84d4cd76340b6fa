"""JWTs: what is accepted of them, what is refused, and how the keys are set."""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import jwt
import pytest
import structlog
import trio
from conftest import run_daemon, run_fastimd
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from fastimd.base.errors import TokenExpired, TokenRefused
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Token
from fastimd.live.tokens import LEEWAY, MAX_TOKEN, Claims, SubscriptionClaims, Tokens

PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

SECRET = "of the backend and the daemon, and of nobody else"
KEYS: dict[str, PrivateKey] = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}
FITTING = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "Ed448": ("EdDSA",),
}
SECRETS = ("HS256", "HS384", "HS512")
PAIRS = [(kind, algorithm) for kind, algorithms in FITTING.items() for algorithm in algorithms]


def public_pem(kind: str) -> str:
    public = KEYS[kind].public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(kind: str) -> str:
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KEYS[kind].private_bytes(*form).decode()


def tokens(**settings: str) -> Tokens:
    return Tokens(Config(token=Token(**settings)), Metrics())


def segment(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(
    payload: bytes, header: Any = None, secret: bytes = SECRET.encode(), digest: str = "sha256"
) -> str:
    """A token of any payload, and any header, even one that no library would make."""
    head = json.dumps(header if header is not None else {"alg": "HS256"}).encode()
    text = f"{segment(head)}.{segment(payload)}"
    return f"{text}.{segment(hmac.digest(secret, text.encode(), digest))}"


def token(**claims: Any) -> str:
    return signed(json.dumps({"sub": "mara"} | claims).encode())


async def connect_cause(reader: Tokens, text: str) -> str:
    """Why a connect token is refused."""
    with pytest.raises(TokenRefused) as caught:
        await reader.read_connect(text)
    assert not text or text not in str(caught.value)
    assert not caught.value.is_temporary
    return f"{caught.value.cause}: {caught.value}"


# --- what is accepted


async def test_a_connect_token_says_who_and_what() -> None:
    """All its claims, in the types that the connection uses."""
    until = int(time.time()) + 60
    claims = await tokens(hmac_secret=SECRET).read_connect(
        token(
            exp=until + 0.75,
            info={"name": "Mara"},
            channels=["lobby", "guild:1", "lobby"],
            role="moderator",
            groups=["guild:*"],
            subs={"not": "served"},
        )
    )
    channels = ("lobby", "guild:1")
    expected = Claims("mara", until, b'{"name":"Mara"}', channels, "moderator", ("guild:*",))
    assert claims == expected


async def test_a_connect_token_needs_no_more_than_who() -> None:
    """What is not claimed is empty, and it never expires."""
    claims = await tokens(hmac_secret=SECRET).read_connect(token())
    assert claims == Claims("mara", 0, b"", (), "", ())


async def test_a_subscription_token_says_which_group() -> None:
    """For this user and connection; its end is that of the subscription."""
    until = int(time.time()) + 60
    text = token(channel="vip", client="c1", exp=until, info=["x"])
    claims = await tokens(hmac_secret=SECRET).read_subscription(text, "mara", "vip", "c1")
    assert claims == SubscriptionClaims("vip", "mara", until, b'["x"]')


@pytest.mark.parametrize("expire_at", [0, 32503680000])
async def test_the_end_of_a_connection_may_be_another_than_the_tokens(expire_at: int) -> None:
    """``expire_at`` is the end of what the token opens, 0 none; the token still has its own."""
    reader = tokens(hmac_secret=SECRET)
    claims = await reader.read_connect(token(exp=time.time() + 60, expire_at=expire_at))
    assert claims.expires_at == expire_at
    with pytest.raises(TokenExpired):
        await reader.read_connect(token(exp=time.time() - 60, expire_at=expire_at))


async def test_info_comes_on_one_line() -> None:
    """It is passed on in frames of lines; numbers stay as they are written."""
    text = signed(b'{"sub":"mara","info":{\n "level": 12345678901234567890.10,\n "x": "\\u00e9"}}')
    claims = await tokens(hmac_secret=SECRET).read_connect(text)
    assert claims.info == b'{"level":12345678901234567890.10,"x":"\\u00e9"}'


@pytest.mark.parametrize("algorithm", SECRETS)
async def test_a_secret_signs_with_each_digest(algorithm: str) -> None:
    """As PyJWT signs them."""
    secret = SECRET * 2  # as long as the longest digest, or PyJWT warns
    text = jwt.encode({"sub": "mara"}, secret, algorithm)
    assert (await tokens(hmac_secret=secret).read_connect(text)).user == "mara"


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS)
@pytest.mark.parametrize("is_path", [False, True])
async def test_a_public_key_verifies_each_algorithm_that_it_fits(
    kind: str, algorithm: str, is_path: bool, tmp_path: Path
) -> None:
    """Given as text or as a path."""
    given_as = public_pem(kind)
    if is_path:
        path = tmp_path / "key.pem"
        path.write_text(given_as)
        given_as = str(path)
    text = jwt.encode({"sub": "mara"}, KEYS[kind], algorithm, headers={"kid": "ignored"})
    assert (await tokens(public_key=given_as).read_connect(text)).user == "mara"


async def test_a_secret_and_a_public_key_are_used_side_by_side() -> None:
    """Each for its own algorithms."""
    reader = tokens(hmac_secret=SECRET, public_key=public_pem("RSA"))
    assert (await reader.read_connect(token())).user == "mara"
    text = jwt.encode({"sub": "tom"}, KEYS["RSA"], "RS256")
    assert (await reader.read_connect(text)).user == "tom"


def test_without_a_key_nothing_is_configured() -> None:
    """With any of the three it is."""
    assert not tokens().is_configured
    assert tokens(hmac_secret=SECRET).is_configured
    assert tokens(public_key=public_pem("RSA")).is_configured
    assert tokens(jwks_url="http://127.0.0.1:1/").is_configured


# --- what is refused


NOW = time.time()
REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "malformed"),
    "one part": ("a", "malformed"),
    "two parts": ("a.b", "malformed"),
    "four parts": (token() + ".", "malformed"),
    "five parts, as encrypted ones": ("a.b.c.d.e", "malformed"),
    "empty parts": ("..", "malformed"),
    "not ASCII": (token() + "é", "malformed"),
    "padded": (token() + "=", "malformed"),
    "the other alphabet": (token().replace("e", "+", 1), "malformed"),
    "a line break": (token() + "\n", "malformed"),
    "no header": (signed(b"{}", header=[]), "malformed"),
    "no algorithm": (signed(b"{}", header={}), "malformed"),
    "an algorithm that is no text": (signed(b"{}", header={"alg": 1}), "malformed"),
    "an extension": (signed(b"{}", header={"alg": "HS256", "crit": ["b64"]}), "malformed"),
    "nested deep": (f"{segment(b'[' * 9000)}.e30.e30", "malformed"),
    "alg none": (signed(b"{}", header={"alg": "none"}), "algorithm"),
    "alg none, unsigned": (jwt.encode({"sub": "mara"}, "", "none"), "algorithm"),
    "alg None": (signed(b"{}", header={"alg": "None"}), "algorithm"),
    "alg in lower case": (signed(b"{}", header={"alg": "hs256"}), "algorithm"),
    "an empty algorithm": (signed(b"{}", header={"alg": ""}), "algorithm"),
    "a public one": (signed(b"{}", header={"alg": "RS256"}), "algorithm"),
    "another secret": (signed(b'{"sub":"mara"}', secret=b"x" * 32), "signature"),
    "another digest": (signed(b'{"sub":"mara"}', digest="sha512"), "signature"),
    "no signature": (token().rpartition(".")[0] + ".", "signature"),
    "no JSON": (signed(b"sub=mara"), "claims"),
    "no object": (signed(b'"mara"'), "claims"),
    "no UTF-8": (signed(b'{"sub":"mara","info":"\xff"}'), "claims"),
    "claims nested deep": (signed(b'{"sub":"mara","info":' + b"[" * 9000), "claims"),
    "no sub": (signed(b"{}"), "claims: sub"),
    "an empty sub": (token(sub=""), "claims: sub"),
    "a long sub": (token(sub="x" * 129), "claims: sub"),
    "a sub with a space at its end": (token(sub="mara "), "claims: sub"),
    "a sub with a line break": (token(sub="ma\nra"), "claims: sub"),
    "a sub that is a number": (token(sub=7), "claims"),
    "a sub that is null": (token(sub=None), "claims"),
    "half a character": (signed(b'{"sub":"\\ud800"}'), "claims"),
    "over": (token(exp=NOW - 1), "expired"),
    "over long since": (token(exp=0), "expired"),
    "a connection that is over": (token(expire_at=NOW - 1), "expired"),
    "an end before time began": (token(exp=-1), "claims"),
    "an end that is text": (token(exp="2999-01-01"), "claims"),
    "an end that is true": (token(exp=True), "claims"),
    "an end beyond numbers": (signed(b'{"sub":"mara","exp":1e400}'), "claims"),
    "an end beyond time": (token(exp=2**60), "claims"),
    "not yet valid": (token(nbf=NOW + 3600), "claims: nbf"),
    "not yet issued": (token(iat=NOW + 3600), "claims: iat"),
    "an audience that is a number": (token(aud=1), "claims"),
    "an issuer that is a list": (token(iss=["a"]), "claims"),
    "channels that are text": (token(channels="lobby"), "claims"),
    "a channel that is a number": (token(channels=[1]), "claims"),
    "a channel that is no id": (token(channels=["lobby", ""]), "claims: channels"),
    "a role that nobody knows": (token(role="king"), "claims: role"),
    "a role that is true": (token(role=True), "claims"),
    "groups that are no ids": (token(role="moderator", groups=["a\n"]), "claims: groups"),
    "a subscription token": (token(channel="vip"), "claims: it is a subscription token"),
    "as long as may be": ("a" * MAX_TOKEN, "malformed: it is no JWT"),
    "one character too many": ("a" * (MAX_TOKEN + 1), "malformed: it is longer"),
    "a megabyte": ("a." * 500_000, "malformed: it is longer"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_connect_token_is_refused_with_its_cause(case: str) -> None:
    """Whatever is wrong with it, and the reason has nothing of the token."""
    text, cause = REFUSED[case]
    assert (await connect_cause(tokens(hmac_secret=SECRET), text)).startswith(cause)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({}, "no channel"),
        ({"channel": "lobby"}, "another channel"),
        ({"channel": "vip*"}, "another channel"),
        ({"channel": ["vip"]}, "channel"),
        ({"channel": "vip", "sub": "tom"}, "another user"),
        ({"channel": "vip", "client": "c2"}, "another client"),
        ({"channel": "vip", "client": ""}, "another client"),
        ({"channel": "vip", "client": 1}, "client"),
        ({"channel": "vip", "exp": 1}, "expired"),
        ({"channel": "vip", "sub": ""}, "sub"),
    ],
)
async def test_a_subscription_token_is_for_one_user_group_and_connection(
    claims: dict[str, Any], reason: str
) -> None:
    """A connect token is none, and neither is one for something else."""
    reader = tokens(hmac_secret=SECRET)
    with pytest.raises(TokenRefused, match=reason):
        await reader.read_subscription(token(**claims), "mara", "vip", "c1")


async def test_the_longest_token_is_read() -> None:
    """The limit is the last length that is."""
    texts = [token(info="x" * count) for count in range(12_150, 12_250)]
    longest = max((text for text in texts if len(text) <= MAX_TOKEN), key=len)
    assert len(longest) >= MAX_TOKEN - 2  # no base64 has every length
    assert longest != texts[-1]
    assert (await tokens(hmac_secret=SECRET).read_connect(longest)).user == "mara"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_clock_may_be_a_little_ahead(claim: str) -> None:
    """Of the backend's, by less than the leeway."""
    text = token(**{claim: time.time() + LEEWAY - 5})
    assert (await tokens(hmac_secret=SECRET).read_connect(text)).user == "mara"


@pytest.mark.parametrize(
    ("claims", "is_accepted"),
    [
        ({"aud": "chat", "iss": "game"}, True),
        ({"aud": ["shop", "chat"], "iss": "game"}, True),
        ({"aud": "chatter", "iss": "game"}, False),
        ({"aud": "cha", "iss": "game"}, False),
        ({"aud": [], "iss": "game"}, False),
        ({"iss": "game"}, False),
        ({"aud": "chat"}, False),
        ({"aud": "chat", "iss": "gam"}, False),
    ],
)
async def test_audience_and_issuer_are_checked_if_they_are_set(
    claims: dict[str, Any], is_accepted: bool
) -> None:
    """Whole; without the settings any is good."""
    reader = tokens(hmac_secret=SECRET, audience="chat", issuer="game")
    assert (await tokens(hmac_secret=SECRET).read_connect(token(**claims))).user == "mara"
    if is_accepted:
        assert (await reader.read_connect(token(**claims))).user == "mara"
    else:
        assert (await connect_cause(reader, token(**claims))).startswith("claims: ")


# --- keys and algorithms


@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_is_used_for_its_own_algorithms_alone(kind: str) -> None:
    """For each other one, signed with whatever key signs so, the token is refused."""
    reader = tokens(public_key=public_pem(kind))
    for other, algorithm in PAIRS:
        if algorithm not in FITTING[kind]:
            text = jwt.encode({"sub": "mara"}, KEYS[other], algorithm)
            assert (await connect_cause(reader, text)).startswith("algorithm")
        elif other != kind:
            text = jwt.encode({"sub": "mara"}, KEYS[other], algorithm)
            assert (await connect_cause(reader, text)).startswith("signature")


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("algorithm", SECRETS)
@pytest.mark.parametrize("with_secret", [False, True])
async def test_a_public_key_is_never_a_secret(kind: str, algorithm: str, with_secret: bool) -> None:
    """Everybody has its text, in each of its forms, and may sign with it."""
    public = KEYS[kind].public_key()
    secret = {"hmac_secret": SECRET} if with_secret else {}
    reader = tokens(public_key=public_pem(kind), **secret)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for known in (public_pem(kind).encode(), public_pem(kind).strip().encode(), der, b""):
        text = signed(b'{"sub":"mara"}', {"alg": algorithm}, known, algorithm.replace("HS", "sha"))
        cause = "signature" if with_secret else "algorithm"
        assert (await connect_cause(reader, text)).startswith(cause)


WEAK = rsa.generate_private_key(65537, 1024)
BITCOIN = ec.generate_private_key(ec.SECP256K1())


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


Settings: TypeAlias = Callable[[], dict[str, str]]
MISTAKES: dict[str, tuple[Settings, str]] = {
    "a short secret": (lambda: {"hmac_secret": "hunter2"}, "token.hmac_secret"),
    "a public key for a secret": (
        lambda: {"hmac_secret": public_pem("RSA")},
        "token.hmac_secret: got a value that is not shown",
    ),
    "no file": (lambda: {"public_key": "/nowhere.pem"}, "token.public_key: cannot read '/nowh"),
    "no key": (lambda: {"public_key": "-----BEGIN hunter2"}, "token.public_key: its text is no p"),
    "a private key": (
        lambda: {"public_key": private_pem("RSA")},
        "token.public_key: its text is a private key; accepted: ",
    ),
    "a weak key": (lambda: {"public_key": pem_of(WEAK)}, "fits no algorithm; accepted: "),
    "another curve": (lambda: {"public_key": pem_of(BITCOIN)}, "fits no algorithm; accepted: "),
    "no URL": (lambda: {"jwks_url": "ftp://host/hunter2"}, "token.jwks_url"),
    "two places for public keys": (
        lambda: {"jwks_url": "http://host/", "public_key": public_pem("RSA")},
        "token.jwks_url: given, and token.public_key too",
    ),
    "an audience without a key": (lambda: {"audience": "chat"}, "token.audience: given without"),
    "an issuer without a key": (lambda: {"issuer": "game"}, "token.issuer: given without a key"),
}


def check(**settings: str) -> subprocess.CompletedProcess[str]:
    """What ``fastimd check`` says of keys in ``[token]``."""
    given = {f"token__{key}": value for key, value in settings.items()}
    return run_fastimd("check", folder=None, typed="", **given)


@pytest.mark.parametrize("case", MISTAKES)
def test_check_names_a_mistake_in_the_keys(case: str) -> None:
    """Exit status 78, one line with the key, and no secret."""
    make, expected = MISTAKES[case]
    done = check(**make())
    assert done.returncode == 78, done.stdout
    assert expected in done.stderr
    assert "hunter2" not in done.stderr
    assert private_pem("RSA").splitlines()[1] not in done.stderr


def test_check_accepts_good_keys(tmp_path: Path) -> None:
    """All that may stand side by side; a path is read."""
    path = tmp_path / "key.pem"
    path.write_text(public_pem("Ed25519"))
    given = {"hmac_secret": SECRET, "public_key": str(path), "audience": "a", "issuer": "b"}
    done = check(**given)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def no_cryptography(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the programs that the test starts it is not installed."""
    folder = tmp_path / "shadow"
    folder.mkdir()
    lacking = "raise ModuleNotFoundError(\"No module named 'cryptography'\", name='cryptography')"
    (folder / "cryptography.py").write_text(lacking)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.usefixtures("no_cryptography")
@pytest.mark.parametrize("key", ["public_key", "jwks_url"])
def test_public_keys_need_cryptography(key: str, tmp_path: Path, redis_url: str) -> None:
    """``check`` and the start say so, and what to install."""
    value = public_pem("RSA") if key == "public_key" else "http://127.0.0.1:1/"
    expected = f"token.{key}: needs the package cryptography, which is not installed: "
    done = check(**{key: value})
    set_so = {"redis_url": redis_url, f"token__{key}": value}
    daemon = run_daemon(tmp_path, wait_serving=False, config=None, launcher=(), **set_so)
    try:
        assert daemon.process.wait(20) == 78
    except subprocess.TimeoutExpired:
        daemon.process.kill()
        raise
    for said in (done.stderr, daemon.log_path.read_text()):
        assert f"{expected}pip install 'fastimd[asymmetric]'" in said
    assert done.returncode == 78


@pytest.mark.usefixtures("no_cryptography")
def test_a_secret_needs_no_cryptography() -> None:
    """Whoever has no public key does not have to install it."""
    assert check(hmac_secret=SECRET).returncode == 0


def test_without_keys_nothing_is_loaded_for_them() -> None:
    """Neither the memory of a daemon nor the start of a command pays for what is not used."""
    loads = "import sys, fastimd.cli, fastimd.daemon.tree, fastimd.daemon.check"
    asks = f"{loads}; print(*{{'jwt', 'cryptography.hazmat'}} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


# --- refusals are told


async def test_a_refusal_is_one_line_and_a_count() -> None:
    """With what it was for, its cause and its reason."""
    metrics = Metrics()
    reader = Tokens(Config(token=Token(hmac_secret=SECRET)), metrics)
    texts = [token(exp=1), token(exp=2), token(sub="")]
    with structlog.testing.capture_logs() as lines:
        for text in texts:
            try:
                await reader.read_connect(text)
            except TokenRefused as exc:
                reader.tell_refused("connect", exc)
    assert metrics.tokens_refused == {"expired": 2, "claims": 1}
    assert lines[0] == {
        "event": "token.refused",
        "log_level": "info",
        "purpose": "connect",
        "cause": "expired",
        "reason": "it has expired",
    }
    assert len(lines) == 3


# --- properties


GOOD = token(exp=int(NOW) + 10**6, info={"a": [1]})
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
CLAIMS = ("sub", "exp", "nbf", "iat", "aud", "iss", "info", "channels", "role", "groups", "channel")


def read(text: str) -> Claims | None:
    """What a token says, or None if it is refused; any other exception is a failure."""
    try:
        return trio.run(tokens(hmac_secret=SECRET).read_connect, text)
    except TokenRefused:
        return None


@given(at=st.integers(0, len(GOOD) - 1), letter=st.sampled_from(LETTERS + ".=\0é"))
def test_a_token_with_another_letter_anywhere_is_refused(at: int, letter: str) -> None:
    """There is one way to write a token."""
    changed = GOOD[:at] + letter + GOOD[at + 1 :]
    assert (read(changed) is not None) == (changed == GOOD)


@given(text=st.text(max_size=60) | st.text(LETTERS + ".", max_size=200))
def test_any_text_is_refused_and_breaks_nothing(text: str) -> None:
    """Nothing but a token is one."""
    assert read(text) is None


@given(claims=st.dictionaries(st.sampled_from(CLAIMS), JSON))
def test_claims_of_any_type_are_refused_or_of_their_own(claims: dict[str, Any]) -> None:
    """What gets through is what the connection may rely on."""
    said = read(signed(json.dumps({"sub": "mara"} | claims).encode()))
    if said is not None:
        assert said.user.isprintable()
        assert 0 < len(said.user) <= 128
        assert isinstance(said.expires_at, int)
        assert said.role in ("", "moderator")
        assert all(isinstance(each, str) and each for each in said.channels + said.groups)
        assert b"\n" not in said.info
        assert said.info == b"" or json.loads(said.info) == claims["info"]
