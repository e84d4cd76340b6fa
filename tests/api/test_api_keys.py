"""Who may call the server API: keys with their rights, and operators on the daemon's machine."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from calling import (
    KEYS,
    SECRETS,
    SETTINGS,
    ApiFailed,
    Backend,
    admin_of,
    backend,
    line_to,
    request_of,
    table_of,
    unix_line,
)
from clients import metrics, request, talking
from conftest import Daemon, ShareDaemon, StartDaemon, run_fastimd, wait_for
from hypothesis import given
from hypothesis import strategies as st
from test_api_methods import EXAMPLES
from trio.testing import MockClock

from fastimd.api.keys import WRONG_A_MINUTE, Caller, Strangers, find_caller, fits
from fastimd.api.methods import METHODS
from fastimd.base.settings import load
from fastimd.base.settings.api import ApiKey, digest_of

COMMAND = {"Fastimd-Command": "1"}
SPANNING = {name for name, method in METHODS.items() if method.spans}


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon(**SETTINGS)


# Rights


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_key_may_do_what_it_is_for(daemon: Daemon, name: str) -> None:
    """One for other methods, or for other groups, is refused; and nothing has happened."""
    body = dict(EXAMPLES[name].body)
    if "ts" in body:
        body["ts"] = 1
    if name == "batch":
        body["commands"] = [{"publish": {"channel": "match-1", "data": "x"}}]
    may = name in ("publish", "broadcast", "batch", "whoami")
    assert code_of(backend(daemon, "speaker"), name, body) == (0 if may else 103)
    foreign = {
        field: {"channel": "guild", "channels": ["match-1", "guild"]}.get(field, value)
        for field, value in body.items()
    }
    if name == "batch":
        [reply] = backend(daemon, "match").call(
            "batch", commands=[{"publish": {"channel": "guild", "data": "x"}}]
        )
        assert reply["error"]["code"] == 103
    elif name != "whoami":
        assert code_of(backend(daemon, "match"), name, foreign) == 103
        may_touch = {**body, **({"channels": ["match-1", "lobby"]} if "channels" in body else {})}
        found = code_of(backend(daemon, "match"), name, may_touch)
        assert found == (103 if name in SPANNING else 404 if name == "delete_message" else 0)
    assert backend(daemon).call("history", channel="guild", limit=9)["publications"] == []


def code_of(caller: Backend, name: str, body: dict[str, Any]) -> int:
    try:
        caller.call(name, body)
    except ApiFailed as exc:
        return exc.code
    return 0


def test_commands_of_a_batch_have_the_rights_of_the_key(daemon: Daemon) -> None:
    """Each for itself: a batch is no way around them."""
    commands = [
        {"publish": {"channel": "match-1", "data": "x"}},
        {"history_remove": {"channel": "match-1"}},
        {"batch": {"commands": []}},
    ]
    said, removed, nested = backend(daemon, "speaker").call("batch", commands=commands)
    assert "publish" in said
    assert removed["error"]["code"] == 103
    assert nested["error"]["code"] == 104


@given(st.text(max_size=8), st.lists(st.text("ab*?[]-", max_size=5), max_size=4))
def test_globs_fit_as_one_of_them_does(text: str, globs: list[str]) -> None:
    """A key for nothing may nothing, and no glob changes what another means."""
    each = [fits((glob,), text) for glob in globs]
    assert fits(tuple(globs), text) == any(each)
    assert fits((*globs, "*"), text)


def test_a_key_is_found_by_its_secret(tmp_path: Path) -> None:
    """Whatever the case of the digest in the file; no other secret is one."""
    text = f"[api]\nkeys = {KEYS}\n"
    keys = _keys_of(tmp_path, text)
    upper = _keys_of(tmp_path, text.replace(keys[0].sha256, keys[0].sha256.upper()))
    for known in (keys, upper):
        for name, secret in SECRETS.items():
            found = find_caller(known, digest_of(secret.encode()))
            assert found is not None
            assert found.name == name
        for wrong in (b"", b"of-the-gam", b"of-the-game ", keys[0].sha256.encode(), b"\xff"):
            assert find_caller(known, digest_of(wrong)) is None
    assert find_caller((), digest_of(b"of-the-game")) is None


def _keys_of(folder: Path, text: str) -> tuple[ApiKey, ...]:
    path = folder / "keys.toml"
    path.write_text(text)
    return load(path, {}).api.keys


# Where it is served, and to whom


@pytest.mark.parametrize("admin", [False, True])
def test_a_key_is_shown_in_one_of_two_headers(daemon: Daemon, admin: bool) -> None:
    """``X-API-Key``, or ``Authorization`` with the scheme apikey; never in the URL."""
    game = backend(daemon, admin=admin)
    secret = SECRETS["game"]
    assert game.call("info")
    for scheme in ("apikey", "ApiKey", "APIKEY"):
        assert Backend(game.address, {"Authorization": f"{scheme} {secret}"}).call("info")
    for headers in (
        {},
        {"X-API-Key": ""},
        {"X-API-Key": secret[:-1]},
        {"X-API-Key": f"{secret}, {secret}"},
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": secret},
        {"Authorization": "apikey"},
        {"X-API-Key": "wrong", "Authorization": f"apikey {secret}"},
    ):
        nobody = Backend(game.address, headers)
        for path in ("info", f"info?api_key={secret}", "no_such_method"):
            answer = nobody.send(path)
            assert (answer.status, answer.json["error"]["code"]) == (401, 101), headers
            assert "unauthorized" in answer.json["error"]["message"]
        assert nobody.send("openapi.json", verb="GET").status == 401


def test_the_public_address_has_no_api_unless_it_is_switched_on(share_daemon: ShareDaemon) -> None:
    """Its paths are then as unknown as any; the admin address has it all the same."""
    daemon = share_daemon(api__keys=KEYS)
    headers = {"X-API-Key": SECRETS["game"]}
    for method, path in [("POST", "publish"), ("GET", "openapi.json"), ("GET", "")]:
        answer = request(daemon, method, f"/api/{path}", headers=headers)
        other = request(daemon, method, f"/elsewhere/{path}", headers=headers)
        assert (answer.status, answer.body) == (other.status, other.body)
        assert answer.status == 404
    assert backend(daemon, admin=True).call("info")
    assert not daemon.events("api.key_refused")


HOSTS: list[tuple[str, bool]] = [
    ("localhost", True),
    ("localhost:9001", True),
    ("127.0.0.1:9001", True),
    ("[::1]:9001", True),
    ("LOCALHOST", True),
    ("evil.example", False),
    ("localhost.evil.example:9001", False),
    ("", False),
]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_operator_needs_no_key(start_daemon: StartDaemon, workers: str) -> None:
    """On the loopback admin address, with the header of commands, and no name of another host.

    So neither a web page nor a name that was made to lead here gets in; and a wrong key is one.
    """
    daemon = start_daemon(server__workers=workers, **SETTINGS)
    address = admin_of(daemon)
    for host, is_trusted in HOSTS:
        operator = Backend(address, {**COMMAND, "Host": host})
        answer = operator.send("presence_stats", {"channel": "x"})
        assert answer.status == (200 if is_trusted else 401), host
        assert Backend(address, {"Host": host}).send("info").status == 401
        assert Backend(address, {"Host": host, "X-API-Key": SECRETS["game"]}).call("info")
        wrong = Backend(address, {**COMMAND, "Host": host, "X-API-Key": "wrong"})
        assert wrong.send("info").status == 401
    assert {line["key"] for line in daemon.events("api.call")} == {"operator", "game"}
    public = Backend(daemon.address, {**COMMAND, "Host": "localhost"})
    assert public.send("info").status == 401


@pytest.mark.parametrize("workers", ["1", "2"])
def test_on_an_address_for_others_everybody_needs_a_key(
    start_daemon: StartDaemon, workers: str
) -> None:
    """There the header proves nothing."""
    daemon = start_daemon(admin__bind="0.0.0.0:0", server__workers=workers, **SETTINGS)
    port = daemon.admin.rpartition(":")[2]
    address = f"127.0.0.1:{port}"
    assert Backend(address, {**COMMAND, "Host": "localhost"}).send("info").status == 401
    assert Backend(address).call("info")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_on_a_unix_socket_an_operator_needs_no_key(
    start_daemon: StartDaemon, tmp_path: Path, workers: str
) -> None:
    """The rights of its file say who may."""
    path = tmp_path / "admin.sock"
    start_daemon(admin__bind=f"unix:{path}", server__workers=workers, **SETTINGS)
    line = unix_line(str(path))
    with line.stream:
        head = "Fastimd-Command: 1\r\n"
        line.say(request_of("presence_stats", {"channel": "x"}, key="", head=head))
        assert line.hear().json == {"result": {"num_clients": 0, "num_users": 0}}
        line.say(request_of("info", key=""))
        assert line.hear().status == 401


# Wrong keys


async def test_wrong_keys_are_counted_by_address_and_minute(mock_clock: MockClock) -> None:
    """A new minute is a new start, and as many addresses are remembered as fit."""
    strangers = Strangers()
    assert [strangers.note("a") for _ in range(WRONG_A_MINUTE + 2)] == (
        [True] * WRONG_A_MINUTE + [False] * 2
    )
    assert strangers.note("b")
    mock_clock.jump(59)
    assert not strangers.note("a")
    mock_clock.jump(1)
    assert strangers.note("a")
    for number in range(20_000):
        strangers.note(f"{number}")
    assert len(strangers._seen) == 10_000
    assert strangers.note("a")


def test_a_thousand_wrong_keys_disturb_nobody(start_daemon: StartDaemon) -> None:
    """The log has a line a second at most, a right key works, and the chat goes on."""
    daemon = start_daemon(**SETTINGS)
    statuses: list[int] = []

    def try_keys() -> None:
        for number in range(250):
            with line_to(daemon.address) as line:
                line.say(request_of("info", key=f"guess {number}"))
                statuses.append(line.hear().status)

    with talking(daemon) as talker, ThreadPoolExecutor(4) as threads:
        began, said = time.monotonic(), talker.said
        trying = [threads.submit(try_keys) for _ in range(4)]
        game = backend(daemon)
        while not all(each.done() for each in trying):
            assert game.call("presence_stats", channel="calm")["num_users"] == 1
        for each in trying:
            each.result()
        took = time.monotonic() - began
        wait_for(lambda: talker.said > said + 10)
    assert statuses.count(401) == WRONG_A_MINUTE
    assert statuses.count(429) == 1000 - WRONG_A_MINUTE
    assert len(daemon.events("api.key_refused")) <= took + 2
    assert daemon.events("api.key_refused")[0]["client"] == "127.0.0.1"
    assert metrics(daemon)["fastimd_api_keys_refused_total"] == 1000


# Reload, and making keys


def test_changed_keys_hold_after_a_reload(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """A new key works, one that is gone does not, and one that stays has its new rights."""
    path = tmp_path / "fastimd.toml"

    def write(*keys: str, public: bool = True) -> None:
        lists = ", ".join(keys)
        path.write_text(f"[api]\npublic = {str(public).lower()}\nkeys = [{lists}]\n")

    write(table_of("a", "secret-a"), table_of("b", "secret-b"))
    daemon = start_daemon(config=path)
    by_a, by_b, by_c = (Backend(daemon.address, {"X-API-Key": f"secret-{name}"}) for name in "abc")
    assert [each.send("info").status for each in (by_a, by_b, by_c)] == [200, 200, 401]
    with line_to(daemon.address) as line:
        line.say(request_of("info", key="secret-a"))
        assert line.hear().status == 200
        write(
            table_of("b", "secret-b", methods=["publish"]), table_of("c", "secret-c"), public=True
        )
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: daemon.events("config.reloaded"), daemon)
        line.say(request_of("info", key="secret-a"))
        assert line.hear().status == 401
    assert [each.send("info").status for each in (by_a, by_b, by_c)] == [401, 200, 200]
    assert by_b.send("info").json["error"]["code"] == 103
    write(public=False)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(daemon.events("config.reloaded")) == 2, daemon)
    assert by_c.send("info").status == 404
    assert all("secret" not in str(line) for line in daemon.lines)


def test_a_key_that_the_command_makes_works(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Its secret is shown once, and the table it prints goes into the file as it is."""
    made = run_fastimd("api-key", "game", "--methods", "publish", "--groups", "match-*", "lobby")
    assert (made.returncode, made.stderr) == (0, "")
    secret = made.stdout.split("\n\n")[1]
    table = made.stdout[made.stdout.index("[[api.keys]]") :]
    assert secret not in table
    path = tmp_path / "fastimd.toml"
    path.write_text(f"[api]\npublic = true\n\n{table}")
    daemon = start_daemon(config=path)
    caller = Backend(daemon.address, {"X-API-Key": secret})
    assert caller.call("publish", channel="match-1", data="x")["offset"] > 0
    assert code_of(caller, "publish", {"channel": "guild", "data": "x"}) == 103
    assert code_of(caller, "presence", {"channel": "lobby"}) == 103
    assert run_fastimd("api-key", "game").stdout.split("\n\n")[1] != secret


@pytest.mark.parametrize("name", ["", "a game", "x" * 65, "game\n", "字"])
def test_a_name_that_is_none_makes_no_key(name: str) -> None:
    """It would be refused in the settings."""
    refused = run_fastimd("api-key", name)
    assert refused.returncode == 78
    assert refused.stdout == ""
    assert "letters, digits" in refused.stderr


def test_a_caller_with_all_groups_is_one_who_says_so() -> None:
    """A list that happens to fit everything does not count."""
    assert Caller("x").has_all_groups
    assert Caller("x", ("*",), ("a", "*")).has_all_groups
    assert not Caller("x", ("*",), ("a*", "[!a]*")).has_all_groups
