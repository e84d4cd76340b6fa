"""Whatever a call carries: it is answered, and never with a fault of the daemon's own."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fastimd.api.appends import AppendsUnderWay
from fastimd.api.calls import Answer, Calls
from fastimd.api.keys import OPERATOR, Caller
from fastimd.api.methods import METHODS
from fastimd.api.service import Service
from fastimd.base.errors import FateUnknown, KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config

FAILURES = (StoreUnavailable, KeyUnusable, FateUnknown)
CALLERS = (OPERATOR, Caller("some", ("p*", "b*"), ("1", "match-*")))
NAMES = st.sampled_from([*METHODS, "batch", "subscribe", "", "no such"])


class _Anything:
    """Has all attributes, does what it is asked, and answers as a store would, or fails."""

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        if name == "append_told":
            return self._append
        return _Anything(self._fails)

    async def __call__(self, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable("a fault of the tests")

    def _append(self, _group: str, _user: str, info: str, told: Any, **options: Any) -> None:
        assert info.encode()
        assert len(options["nonce"].encode()) <= 64
        for text in (*options["tags"], *options["tags"].values()):
            assert text.encode()
        told(StoreUnavailable("a fault of the tests") if self._fails else None, 5)


class _Messages(_Anything):
    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()


class _Store(_Anything):
    @property
    def messages(self) -> _Messages:
        return _Messages(self._fails)


class _Presence(_Anything):
    is_enabled = True


class _Domain(_Anything):
    config = Config()

    @property
    def store(self) -> _Store:
        return _Store(self._fails)

    @property
    def presence(self) -> _Presence:
        return _Presence(self._fails)


class _Service(_Anything):
    def __init__(self, fails: bool) -> None:
        super().__init__(fails)
        self.appends = AppendsUnderWay()

    @property
    def domain(self) -> _Domain:
        return _Domain(self._fails)


def call(name: str, body: bytes, *, caller: Caller = OPERATOR, fails: bool = False) -> Answer:
    """What is answered when there is a store that takes messages, and fails at all else."""
    calls = Calls(cast(Service, _Service(fails)), Metrics())

    async def main() -> Answer:
        return await calls.call(caller, name, body)

    with capture_logs() as lines:
        answer = trio.run(main)
    assert [line["event"] for line in lines] == ["api.call"], lines
    shown = json.loads(answer.body)
    assert shown.keys() == {"result" if answer.error is None else "error"}
    if answer.error is not None:
        assert answer.error.code in (100, 103, 104, 106, 107, 108)
        assert len(answer.body) < 2000
    return answer


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=None, codec=None), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def _value_of(name: str) -> st.SearchStrategy[Any]:
    ids = st.sampled_from(
        ["1", "match-1", "", "a\0b", "\ud800", "\ufffd", "x" * 129, "d#a,b", "字"]
    )
    likely: dict[str, st.SearchStrategy[Any]] = {
        "channel": ids,
        "user": ids,
        "channels": st.lists(ids, max_size=4),
        "whitelist": st.lists(ids, max_size=3),
        "add": st.lists(ids, max_size=3),
        "remove": st.lists(ids, max_size=3),
        "tags": st.dictionaries(ids, ids, max_size=3),
        "b64data": st.binary(max_size=9).map(lambda data: data.hex()) | st.just("e30="),
        "idempotency_key": ids,
        "since": st.fixed_dictionaries({}, optional={"offset": st.integers(), "epoch": ids}),
        "disconnect": st.fixed_dictionaries(
            {}, optional={"code": st.integers(2990, 5010), "reason": ids}
        ),
        "commands": st.lists(
            st.dictionaries(
                NAMES, st.fixed_dictionaries({"channel": ids, "data": JSON}), max_size=2
            ),
            max_size=4,
        ),
        "limit": st.integers(),
        "offset": st.integers(),
        "seconds": st.integers(-1, 100),
        "ts": st.integers(),
    }
    return likely.get(name, JSON) | JSON


@st.composite
def calls_of(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method, and a body with fields of its own that are nearly right."""
    name = draw(st.sampled_from([*METHODS, "batch"]))
    kind = METHODS[name].body if name in METHODS else None
    fields = (
        [field.encode_name for field in msgspec.structs.fields(kind)]
        if kind is not None
        else ["commands", "parallel"]
    )
    body = {
        field: draw(_value_of(field)) for field in fields if draw(st.integers(0, 9)) < 8
    } | draw(st.dictionaries(st.text(max_size=3), JSON, max_size=1))
    return name, json.dumps(body).encode()


FUZZED = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZED
@given(calls_of(), st.sampled_from(CALLERS), st.booleans())
def test_bodies_that_are_nearly_right(
    call_of: tuple[str, bytes], caller: Caller, fails: bool
) -> None:
    """Of the method's own fields, with values of any kind."""
    call(*call_of, caller=caller, fails=fails)


@FUZZED
@given(NAMES, JSON)
def test_any_json(name: str, body: Any) -> None:
    """Of any shape."""
    call(name, json.dumps(body).encode())


@FUZZED
@given(st.text(max_size=20), st.binary(max_size=40))
def test_any_bytes(name: str, body: bytes) -> None:
    """At any path."""
    call(name, body)


@FUZZED
@given(calls_of(), st.data())
def test_bodies_that_are_damaged(call_of: tuple[str, bytes], data: st.DataObject) -> None:
    """A byte more, less or other than it was."""
    name, body = call_of
    at = data.draw(st.integers(0, len(body)))
    more = data.draw(st.binary(max_size=2))
    call(name, body[:at] + more + body[at + data.draw(st.integers(0, 2)) :])


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"commands":[{"publish":{"data":['])
@pytest.mark.parametrize("name", [*METHODS, "batch"])
def test_what_is_nested_deep(name: str, opening: bytes) -> None:
    """However deep, and in whichever field."""
    for depth in (900, 1100, 100_000):
        answer = call(name, opening * depth)
        assert answer.error is not None
        assert answer.error.code == 107


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 1000, 1010, 5000, 100_000])
def test_data_that_is_nested_deep(depth: int) -> None:
    """It is said or refused."""
    for opening, closing in (("[", "]"), ('{"a":[', "]}")):
        data = opening * depth + closing * depth
        call("publish", f'{{"channel": "1", "data": {data}}}'.encode())
        batch = f'{{"commands": [{{"publish": {{"channel": "1", "data": {data}}}}}]}}'
        call("batch", batch.encode())
