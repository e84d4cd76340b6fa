"""Settings: defaults, the file, the environment, and the report of everything that is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastimd.base.errors import ConfigError
from fastimd.base.settings import Config, default_data_dir, load, parse_bind, reading, settings
from fastimd.base.settings.api import ApiKey

EXAMPLE = Path(__file__).parent.parent.parent / "fastimd.toml"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

DEFAULTS: dict[str, dict[str, Any]] = {
    "server": {
        "bind": "127.0.0.1:9000",
        "workers": 1,
        "allowed_origins": ["*"],
        "max_connections": 0,
        "max_connections_per_ip": 0,
        "trusted_proxies": [],
        "drain_seconds": 10,
    },
    "redis": {"url": "embedded", "data_dir": "", "hold_bytes": 4194304, "hold_seconds": 10},
    "group": {"login_auth": False, "auto_join": True, "max_joined": 10000},
    "group_message": {
        "timeout": 604800,
        "list_num": 50,
        "recall_time_limit": 120,
        "max_length": 100000,
        "max_bytes": 65536,
    },
    "group_list": {"update_rate": 1},
    "socket": {
        "ping_interval": 25,
        "ping_timeout": 60,
        "outbox_bytes": 1048576,
        "max_messages_per_second": 0,
        "message_burst": 20,
    },
    "live": {"max_subscriptions": 128, "recover_limit": 1000},
    "room": {"max_deliveries_per_second": 0},
    "presence": {"enabled": True, "announce_up_to": 200},
    "login": {"hook": "", "token_ttl": 86400},
    "token": {"hmac_secret": "", "public_key": "", "jwks_url": "", "audience": "", "issuer": ""},
    "hooks": {
        "handler": "",
        "webhook_url": "",
        "webhook_secret": "",
        "webhook_events": [],
        "webhook_retries": 2,
        "webhook_connections": 32,
        "webhook_keep_seconds": 86400.0,
        "webhook_queue": 100_000,
        "login_timeout": 5,
        "authorize_timeout": 5,
        "message_timeout": 5,
        "presence_timeout": 5,
        "authorize_on_failure": "refuse",
        "message_on_failure": "refuse",
    },
    "api": {"public": False, "keys": []},
    "admin": {"bind": "127.0.0.1:9001"},
    "log": {"format": "auto", "level": "info", "message_text": False},
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory, with no file of the machine in the way."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(
        reading, "SEARCH_PATHS", (Path("fastimd.toml"), tmp_path / "etc" / "fastimd.toml")
    )
    return here


def load_text(text: str, environ: Mapping[str, str] | None = None) -> Config:
    path = Path("given.toml")
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {})


def load_value(name: str, toml: str) -> Any:
    section, key = name.split(".")
    loaded = load_text(f"[{section}]\n{key} = {toml}\n")
    return getattr(getattr(loaded, section), key)


def mistakes_of(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, environ)
    return caught.value.mistakes


def only_mistake(text: str, environ: Mapping[str, str] | None = None) -> str:
    [mistake] = mistakes_of(text, environ)
    return mistake


def sections(loaded: Config) -> dict[str, Any]:
    tables: dict[str, Any] = msgspec.to_builtins(loaded)
    del tables["source"]
    return tables


def as_toml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# Defaults and where they come from


def test_defaults_are_the_documented_ones() -> None:
    """With no file and no variable, every key has its documented default."""
    loaded = load(None, {})
    assert msgspec.json.decode(msgspec.json.encode(sections(loaded))) == DEFAULTS
    assert loaded == Config()
    assert loaded.source == "built-in defaults"


def test_settings_lists_every_key_with_its_default_and_a_description() -> None:
    """settings() is the table of the documentation: every key once, in order."""
    listed: dict[str, dict[str, Any]] = {}
    for setting in settings():
        assert setting.description
        assert setting.about.does
        listed.setdefault(setting.section, {})[setting.key] = as_toml(setting.default)
    assert listed == DEFAULTS
    assert [list(keys) for keys in listed.values()] == [list(keys) for keys in DEFAULTS.values()]


def test_defaults_pass_their_own_checks() -> None:
    """Writing every default into a file changes nothing."""
    lines = []
    for section, keys in DEFAULTS.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
    assert sections(load_text("\n".join(lines))) == sections(Config())


def test_a_config_cannot_be_changed() -> None:
    """Settings are read once; nobody alters them under way."""
    with pytest.raises(AttributeError):
        Config().server.bind = "0.0.0.0:1"  # type: ignore[misc]


# The file


def test_file_in_the_working_directory_comes_first(nowhere: Path, tmp_path: Path) -> None:
    """./fastimd.toml hides the one in /etc."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "fastimd.toml").write_text("[group_message]\nlist_num = 2\n")
    (nowhere / "fastimd.toml").write_text("[group_message]\nlist_num = 1\n")
    loaded = load(None, {})
    assert loaded.group_message.list_num == 1
    assert loaded.source == str(nowhere / "fastimd.toml")


def test_file_in_etc_comes_second(tmp_path: Path) -> None:
    """Without ./fastimd.toml, the one in /etc is read."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "fastimd.toml").write_text("[group_message]\nlist_num = 2\n")
    loaded = load(None, {})
    assert loaded.group_message.list_num == 2
    assert loaded.source == str(tmp_path / "etc" / "fastimd.toml")


def test_the_searched_places_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the search is part of the command line's contract."""
    monkeypatch.undo()
    assert [str(path) for path in reading.SEARCH_PATHS] == [
        "fastimd.toml",
        "/etc/fastimd/fastimd.toml",
    ]


def test_a_named_file_is_the_only_one_read(nowhere: Path) -> None:
    """A file named explicitly is not mixed with the ones that would be found."""
    (nowhere / "fastimd.toml").write_text("[group_message]\nlist_num = 1\n")
    assert load_text("[log]\nlevel = 'debug'\n").group_message.list_num == 50


def test_a_missing_named_file_is_a_mistake(nowhere: Path) -> None:
    """A file named explicitly must be there; the defaults do not stand in for it."""
    with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
        load(Path("absent.toml"), {})
    assert str(nowhere / "absent.toml") in str(caught.value)


def test_a_found_file_that_cannot_be_read_is_a_mistake(nowhere: Path, tmp_path: Path) -> None:
    """A file that is there but unreadable is not passed over for the next one."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "fastimd.toml").write_text("")
    (nowhere / "fastimd.toml").mkdir()
    with pytest.raises(ConfigError, match=r"here/fastimd\.toml: cannot be read: Is a directory"):
        load(None, {})


def test_a_file_that_is_not_toml_is_a_mistake_with_its_line() -> None:
    """A syntax error names the file and the line."""
    mistake = only_mistake("[server]\n\nbind = oops\n")
    assert "given.toml: not TOML" in mistake
    assert "line 3" in mistake


def test_a_syntax_error_at_the_end_of_the_file_has_a_line_too() -> None:
    """An array left open is noticed only at the end, and still has a line number."""
    assert "line 2" in only_mistake("[server]\nallowed_origins = [\n")


def test_a_file_that_is_not_utf_8_is_a_mistake_with_its_line() -> None:
    """TOML is UTF-8; another encoding is named as the trouble."""
    Path("latin.toml").write_bytes(b"[log]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: not TOML: not UTF-8 \(at line 2\)"):
        load(Path("latin.toml"), {})


def test_an_empty_file_gives_the_defaults() -> None:
    """No key is required."""
    assert sections(load_text("")) == sections(Config())


# Values that are accepted


@pytest.mark.parametrize(
    ("name", "toml", "expected"),
    [
        ("server.bind", '"0.0.0.0:0"', "0.0.0.0:0"),
        ("server.bind", '"[::1]:65535"', "[::1]:65535"),
        ("server.bind", '"chat-1.example.org:80"', "chat-1.example.org:80"),
        ("server.allowed_origins", "[]", ()),
        (
            "server.allowed_origins",
            '["https://a.example", "http://localhost:8080", "http://[::1]:80"]',
            ("https://a.example", "http://localhost:8080", "http://[::1]:80"),
        ),
        ("server.max_connections", "100000", 100000),
        ("server.max_connections_per_ip", "20", 20),
        ("server.trusted_proxies", '["10.0.0.0/8", "::1"]', ("10.0.0.0/8", "::1")),
        ("server.drain_seconds", "0", 0.0),
        ("server.drain_seconds", "2.5", 2.5),
        ("redis.url", '"redis://:p%40ss@host:6380/2"', "redis://:p%40ss@host:6380/2"),
        ("redis.url", '"rediss://user:word@host"', "rediss://user:word@host"),
        ("redis.url", '"redis://localhost/0?protocol=3"', "redis://localhost/0?protocol=3"),
        ("redis.url", '"unix:///run/redis.sock?db=1"', "unix:///run/redis.sock?db=1"),
        (
            "redis.url",
            '"rediss://host/1?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required"',
            "rediss://host/1?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
        ),
        ("redis.data_dir", '"/srv/chat"', "/srv/chat"),
        ("redis.hold_bytes", "0", 0),
        ("redis.hold_bytes", "1099511627776", 2**40),
        ("redis.hold_seconds", "0", 0.0),
        ("redis.hold_seconds", "2.5", 2.5),
        ("group.login_auth", "true", True),
        ("group_message.list_num", "0", 0),
        ("group_message.list_num", "10000", 10000),
        ("group_message.recall_time_limit", "0", 0),
        ("group_message.max_length", "0", 0),
        ("group_message.max_bytes", "16777216", 16777216),
        ("group_list.update_rate", "0.05", 0.05),
        ("socket.outbox_bytes", "4096", 4096),
        ("socket.max_messages_per_second", "0.5", 0.5),
        ("socket.max_messages_per_second", "1000000", 1_000_000.0),
        ("socket.message_burst", "1", 1),
        ("login.hook", '"house.accounts:check"', "house.accounts:check"),
        ("login.hook", '"accounts:check"', "accounts:check"),
        ("hooks.handler", '"house.game"', "house.game"),
        ("hooks.handler", '"game:Hooks"', "game:Hooks"),
        ("hooks.message_timeout", "0.5", 0.5),
        ("hooks.message_on_failure", '"allow"', "allow"),
        ("api.public", "true", True),
        ("api.keys", "[]", ()),
        (
            "api.keys",
            f'[{{name = "a.b-c_1", sha256 = "{DIGEST}"}}]',
            (ApiKey("a.b-c_1", DIGEST, ("*",), ("*",)),),
        ),
        (
            "api.keys",
            f'[{{name = "game", sha256 = "{DIGEST}", methods = [], groups = ["match-*", "7"]}}]',
            (ApiKey("game", DIGEST, (), ("match-*", "7")),),
        ),
        ("admin.bind", '""', ""),
        ("admin.bind", '"[::]:9001"', "[::]:9001"),
        ("admin.bind", '"unix:/run/fastimd/admin.sock"', "unix:/run/fastimd/admin.sock"),
        ("log.format", '"json"', "json"),
        ("log.level", '"warning"', "warning"),
        ("log.message_text", "true", True),
    ],
)
def test_a_good_value_is_taken(name: str, toml: str, expected: object) -> None:
    """Every form that is documented is taken, in the type of its key."""
    value = load_value(name, toml)
    assert value == expected
    assert type(value) is type(expected)


# Values that are refused


@pytest.mark.parametrize(
    ("name", "toml"),
    [
        ("server.bind", '""'),
        ("server.bind", '":9000"'),
        ("server.bind", '"9000"'),
        ("server.bind", '"localhost"'),
        ("server.bind", '"localhost:65536"'),
        ("server.bind", '"localhost:-1"'),
        ("server.bind", '"localhost:9000\\n"'),
        ("server.bind", '"::1:9000"'),
        ("server.bind", '"[::g]:9000"'),
        ("server.bind", '"300.0.0.1:9000"'),
        ("server.bind", '"http://localhost:9000"'),
        ("server.bind", "9000"),
        ("server.allowed_origins", '"*"'),
        ("server.allowed_origins", "[1]"),
        ("server.allowed_origins", '["example.org"]'),
        ("server.allowed_origins", '["https://example.org/"]'),
        ("server.allowed_origins", '["https://example.org:65536"]'),
        ("server.allowed_origins", '["https://*.example.org"]'),
        ("server.allowed_origins", '["https://Example.org"]'),
        ("server.max_connections", "-1"),
        ("server.max_connections_per_ip", "-1"),
        ("redis.hold_bytes", "-1"),
        ("redis.hold_bytes", "1.5"),
        ("redis.hold_seconds", "-1"),
        ("redis.hold_seconds", "86401"),
        ("socket.max_messages_per_second", "-1"),
        ("socket.max_messages_per_second", "1000001"),
        ("socket.message_burst", "0"),
        ("server.max_connections", "true"),
        ("server.max_connections", "1.0"),
        ("server.max_connections", '"1"'),
        ("server.trusted_proxies", '["10.0.0.1/8"]'),
        ("server.trusted_proxies", '["proxy.example.org"]'),
        ("server.drain_seconds", "-0.1"),
        ("server.drain_seconds", "inf"),
        ("server.drain_seconds", "nan"),
        ("server.drain_seconds", "true"),
        ("server.drain_seconds", '"10"'),
        ("redis.url", '""'),
        ("redis.url", '"localhost:6379"'),
        ("redis.url", '"http://localhost:6379"'),
        ("redis.url", '"REDIS://localhost"'),
        ("redis.url", '"redis://localhost:port"'),
        ("redis.url", '"redis://localhost/chat"'),
        ("redis.url", '"redis://:pa/ss@localhost"'),
        ("redis.url", '"unix://"'),
        ("redis.url", '"unix://run/redis.sock"'),
        ("redis.url", '"rediss://localhost?ssl_ca_cert=/etc/ca.pem"'),
        ("redis.url", '"rediss://localhost?ssl_ca_certs="'),
        ("redis.url", '"rediss://localhost?ssl_ca_certs"'),
        ("redis.url", '"rediss://localhost?ssl_cert_reqs=nome"'),
        ("redis.url", '"rediss://localhost?ssl_cert_reqs=none&ssl_cert_reqs=required"'),
        ("redis.url", '"redis://localhost?ssl_ca_certs=/etc/ca.pem"'),
        ("redis.url", '"redis://localhost?db=chat"'),
        ("redis.url", '"redis://localhost?host=other"'),
        ("redis.data_dir", "1"),
        ("group.login_auth", "1"),
        ("group.auto_join", '"true"'),
        ("group_message.timeout", "0"),
        ("group_message.timeout", "1.5"),
        ("group_message.timeout", "99999999999999999999"),
        ("group_message.list_num", "-1"),
        ("group_message.list_num", "10001"),
        ("group_message.recall_time_limit", "-1"),
        ("group.max_joined", "-1"),
        ("group_message.max_length", "-1"),
        ("group_message.max_bytes", "0"),
        ("group_message.max_bytes", "16777217"),
        ("group_list.update_rate", "0"),
        ("socket.ping_interval", "0"),
        ("socket.ping_timeout", "0"),
        ("socket.outbox_bytes", "4095"),
        ("login.hook", '"accounts"'),
        ("login.hook", '"accounts.check"'),
        ("login.hook", '"accounts:"'),
        ("login.hook", '"2fa:check"'),
        ("login.hook", '"accounts:check\\n"'),
        ("hooks.handler", '"2fa"'),
        ("hooks.handler", '"game:"'),
        ("hooks.handler", '"game:a.b"'),
        ("hooks.handler", '"game\\n"'),
        ("hooks.webhook_url", '"game.example/hooks"'),
        ("hooks.webhook_secret", '"whsec_c2hvcnQ="'),
        ("hooks.webhook_events", '["on_say"]'),
        ("hooks.webhook_events", '"login"'),
        ("hooks.webhook_retries", "11"),
        ("hooks.webhook_connections", "1"),
        ("hooks.webhook_keep_seconds", "3599"),
        ("hooks.webhook_queue", "0"),
        ("hooks.login_timeout", "0"),
        ("hooks.authorize_timeout", "0"),
        ("hooks.message_timeout", "0"),
        ("hooks.presence_timeout", "86401"),
        ("hooks.authorize_on_failure", '"ask"'),
        ("hooks.message_on_failure", "true"),
        ("login.token_ttl", "0"),
        ("api.public", '"yes"'),
        ("api.keys", '"secret"'),
        ("api.keys", '[{name = "game"}]'),
        ("api.keys", f'[{{sha256 = "{DIGEST}"}}]'),
        ("api.keys", '[{name = "game", sha256 = "secret"}]'),
        ("api.keys", f'[{{name = "a game", sha256 = "{DIGEST}"}}]'),
        ("api.keys", f'[{{name = "{"x" * 65}", sha256 = "{DIGEST}"}}]'),
        ("api.keys", f'[{{name = "game", sha256 = "{DIGEST}", methods = "publish"}}]'),
        ("api.keys", f'[{{name = "game", sha256 = "{DIGEST}", secret = "x"}}]'),
        ("admin.bind", '"9001"'),
        ("admin.bind", '"unix:admin.sock"'),
        ("admin.bind", '"unix:///run/admin.sock"'),
        ("admin.bind", f'"unix:/{"x" * 107}"'),
        ("log.format", '"text"'),
        ("log.level", '"INFO"'),
        ("log.level", "2024-01-01"),
        ("log.message_text", "1"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_accepted(name: str, toml: str) -> None:
    """A refusal is one line with the file, the key, the value and what would be accepted."""
    section, key = name.split(".")
    [description] = [s.description for s in settings() if (s.section, s.key) == (section, key)]
    mistake = only_mistake(f"[{section}]\n{key} = {toml}\n")
    assert mistake.startswith(f"{Path('given.toml').absolute()}: {name}: got ")
    assert mistake.endswith(f"; accepted: {description}")
    assert "\n" not in mistake


def test_a_refused_value_is_shown() -> None:
    """The operator sees the value as it was given."""
    assert "got 'loud';" in only_mistake("[log]\nlevel = 'loud'\n")


def test_a_long_refused_value_is_shortened() -> None:
    """A value of any length makes a line of reasonable length."""
    mistake = only_mistake(f"[log]\nlevel = '{'x' * 5000}'\n")
    assert f"got '{'x' * 56}...; accepted" in mistake


def test_in_a_list_only_the_refused_item_is_shown() -> None:
    """One bad origin among many good ones is found at once."""
    mistake = only_mistake("[server]\nallowed_origins = ['https://a.example', 'b.example']\n")
    assert "got 'b.example';" in mistake


def test_a_ping_timeout_must_be_longer_than_the_interval() -> None:
    """A peer is never closed for silence before it was pinged once."""
    mistake = only_mistake("[socket]\nping_timeout = 25\n")
    assert "given.toml: socket.ping_timeout: got 25; accepted: " in mistake
    assert "more than socket.ping_interval (25)" in mistake


def test_pings_from_different_places_are_compared() -> None:
    """The timeout of the file against the interval of the environment; both are named."""
    mistake = only_mistake(
        "[socket]\nping_timeout = 30\n", {"FASTIMD_SOCKET__PING_INTERVAL": "30.5"}
    )
    assert "given.toml, environment variable FASTIMD_SOCKET__PING_INTERVAL: " in mistake
    assert "got 30; accepted: seconds, more than socket.ping_interval (30.5)" in mistake


def test_pings_are_not_compared_with_a_default_nobody_meant() -> None:
    """One misspelt ping key is one mistake, not two."""
    assert "ping_intervall" in only_mistake("[socket]\nping_intervall = 5\nping_timeout = 20\n")


# Names that nobody knows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nbnd = 1\n", "unknown key 'server.bnd', did you mean server.bind?"),
        (
            "[group]\nlist_num = 1\n",
            "unknown key 'group.list_num', did you mean group_message.list_num?",
        ),
        ("[log]\nbind = 1\n", "unknown key 'log.bind', did you mean server.bind or admin.bind?"),
        ("[log]\nzzz = 1\n", "unknown key 'log.zzz', known are format, level, message_text"),
        ("[sever]\nbind = 1\n", "unknown section 'sever', did you mean server?"),
        ("zzz = 1\n", "unknown section 'zzz', known are server, redis, group,"),
        ("source = 'me'\n", "unknown section 'source'"),
        ("server = '127.0.0.1:9000'\n", "server: not a section; accepted: [server] with its keys"),
        ("[[server]]\nbind = '127.0.0.1:9000'\n", "server: not a section"),
    ],
)
def test_an_unknown_name_is_a_mistake_with_the_nearest(text: str, expected: str) -> None:
    """A misspelt key or section is reported with the name that was probably meant."""
    mistake = only_mistake(text)
    assert f"given.toml: {expected}" in mistake


def test_an_unknown_name_cannot_break_the_line() -> None:
    """TOML allows any character in a quoted key; a report stays one line a mistake."""
    assert "\n" not in only_mistake('[log]\n"a\\nb" = 1\n')


# The environment


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("GROUP_MESSAGE__LIST_NUM", "7", 7),
        ("SERVER__DRAIN_SECONDS", "3", 3.0),
        ("SERVER__DRAIN_SECONDS", "0.25", 0.25),
        ("GROUP__LOGIN_AUTH", "true", True),
        ("GROUP__LOGIN_AUTH", "1", True),
        ("GROUP__LOGIN_AUTH", "Yes", True),
        ("GROUP__AUTO_JOIN", "FALSE", False),
        ("GROUP__AUTO_JOIN", "0", False),
        ("GROUP__AUTO_JOIN", "no", False),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.1, 10.1.0.0/16,", ("10.0.0.1", "10.1.0.0/16")),
        ("SERVER__TRUSTED_PROXIES", '["10.0.0.1", "::1"]', ("10.0.0.1", "::1")),
        ("SERVER__ALLOWED_ORIGINS", "['https://a.example']", ("https://a.example",)),
        ("SERVER__ALLOWED_ORIGINS", "", ()),
        ("REDIS__URL", "redis://:secret@host/1", "redis://:secret@host/1"),
        ("REDIS__DATA_DIR", "123", "123"),
        ("ADMIN__BIND", "", ""),
        ("log__level", "debug", "debug"),
        ("Log__Format", "json", "json"),
    ],
)
def test_the_environment_overrides_a_key_of_any_type(
    variable: str, text: str, expected: object
) -> None:
    """Text of a variable is read in the type of its key; names may be in lower case."""
    section, key = variable.lower().split("__")
    loaded = load(None, {f"FASTIMD_{variable}": text})
    value = getattr(getattr(loaded, section), key)
    assert value == expected
    assert type(value) is type(expected)


def test_the_environment_beats_the_file() -> None:
    """A variable wins over the file, key by key."""
    loaded = load_text(
        "[group_message]\nlist_num = 1\nmax_bytes = 9\n", {"FASTIMD_GROUP_MESSAGE__LIST_NUM": "2"}
    )
    assert (loaded.group_message.list_num, loaded.group_message.max_bytes) == (2, 9)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("GROUP_MESSAGE__LIST_NUM", "many"),
        ("GROUP_MESSAGE__LIST_NUM", ""),
        ("GROUP_MESSAGE__LIST_NUM", "1.0"),
        ("GROUP_MESSAGE__LIST_NUM", "true"),
        ("GROUP_MESSAGE__LIST_NUM", "-1"),
        ("SERVER__DRAIN_SECONDS", "10s"),
        ("SERVER__DRAIN_SECONDS", "nan"),
        ("SERVER__DRAIN_SECONDS", "1e999"),
        ("GROUP__LOGIN_AUTH", "maybe"),
        ("GROUP__LOGIN_AUTH", ""),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.1;10.0.0.2"),
        ("SERVER__TRUSTED_PROXIES", "['10.0.0.1'"),
        ("SERVER__TRUSTED_PROXIES", "[1]"),
        ("LOG__LEVEL", "loud"),
        ("SERVER__BIND", ""),
    ],
)
def test_a_bad_variable_is_refused_by_its_name(variable: str, text: str) -> None:
    """A refusal names the variable, the key and the text that was given."""
    mistake = only_mistake("", {f"FASTIMD_{variable}": text})
    name = variable.lower().replace("__", ".")
    expected = f"environment variable FASTIMD_{variable}: {name}: got {text!r}; accepted: "
    assert mistake.startswith(expected)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("FASTIMD_SERVER__BNID", "unknown key 'server.bnid', did you mean server.bind?"),
        ("FASTIMD_SERVER__BIND__X", "unknown key 'server.bind__x', did you mean server.bind?"),
        ("FASTIMD_GROUPLIST__UPDATE_RATE", "unknown section 'grouplist', did you mean group_list?"),
        ("FASTIMD___BIND", "unknown section '', known are server,"),
    ],
)
def test_an_unknown_variable_is_a_mistake_with_the_nearest(variable: str, expected: str) -> None:
    """A misspelt override does not pass in silence."""
    mistake = only_mistake("", {variable: "1"})
    assert mistake.startswith(f"environment variable {variable}: {expected}")


def test_other_variables_are_ignored() -> None:
    """Only FASTIMD_ with a double underscore is an override."""
    environ = {"FASTIMD_HOME": "/x", "FASTIMDX__Y": "1", "OTHER__BIND": "1", "PATH": "/bin"}
    assert load(None, environ) == Config()


# The report


def test_all_mistakes_come_at_once() -> None:
    """File and environment, values, names and sections: one report has them all."""
    mistakes = mistakes_of(
        """
        login = 1
        [server]
        bind = "here"
        max_connections = true
        [socket]
        ping_interval = 70
        [group_message]
        list_nun = 5
        [colour]
        """,
        {
            "FASTIMD_LOG__LEVEL": "loud",
            "FASTIMD_GROUP__AUTOJOIN": "1",
            "FASTIMD_SERVER__BIND": "there",
        },
    )
    for expected in (
        "login: not a section",
        "given.toml: server.bind: got 'here'",
        "FASTIMD_SERVER__BIND: server.bind: got 'there'",
        "server.max_connections: got True",
        "socket.ping_timeout: got 60",
        "did you mean group_message.list_num?",
        "unknown section 'colour'",
        "FASTIMD_LOG__LEVEL: log.level: got 'loud'",
        "did you mean group.auto_join?",
    ):
        assert [expected in mistake for mistake in mistakes].count(True) == 1, expected
    assert len(mistakes) == 9


def test_a_file_that_is_not_toml_does_not_hide_mistakes_elsewhere() -> None:
    """The environment is checked even when the file is beyond reading."""
    mistakes = mistakes_of("[", {"FASTIMD_LOG__LEVEL": "loud", "FASTIMD_SOCKET__PING_TIMEOUT": "9"})
    assert len(mistakes) == 2
    assert "not TOML" in mistakes[0]
    assert "log.level" in mistakes[1]


def test_a_bad_value_in_the_file_is_reported_even_if_overridden() -> None:
    """An override does not hide a mistake that would come back with its removal."""
    mistake = only_mistake("[log]\nlevel = 'loud'\n", {"FASTIMD_LOG__LEVEL": "info"})
    assert "given.toml: log.level" in mistake


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("[redis]\nurl = 'reddis://:hunter2@host'\n", {}),
        ("[redis]\nurl = 'redis://:hunter2@host:port'\n", {}),
        ("[redis]\nurl = 'redis://:hunter2\u2100@host'\n", {}),
        ("[redis]\nurl = ['hunter2']\n", {}),
        ("[redis]\nurl = redis://:hunter2@host\n", {}),
        ("[redis]\nuri = 'redis://:hunter2@host'\n", {}),
        ("[admin]\nbind = 'redis-cluster://one?pass=hunter2'\n", {}),
        ("[admin]\nbind = 'redis-sentinel://one/chat?pass=hunter2'\n", {}),
        ("[redis]\n'redis://:hunter2@host' = 1\n", {}),
        ("redis = 'redis://:hunter2@host'\n", {}),
        ("url = 'redis://:hunter2@host'\n", {}),
        ("[admin]\nbind = 'redis://:hunter2@host:6379'\n", {}),
        ("[hooks]\nwebhook_secret = 'whsec_hunter2'\n", {}),
        ("[hooks]\nwebhook_url = 'ftp://host/hunter2'\n", {}),
        ("", {"FASTIMD_HOOKS__WEBHOOK_SECRET": "hunter2"}),
        ("[admin]\nbind = 'unix:///run/redis.sock?password=hunter2'\n", {}),
        ("", {"FASTIMD_REDIS__URL": "http://:hunter2@host"}),
        ("", {"FASTIMD_REDIS__URL": "redis://user:12?hunter2@host"}),
        ("", {"FASTIMD_REDIS__URL": "redis://user:12?hunter2=@host"}),
        ("", {"FASTIMD_REDIS__URI": "redis://:hunter2@host"}),
        ("", {"FASTIMD_REDDIS__URL": "redis://:hunter2@host"}),
        ("", {"FASTIMD_SERVER__BIND": f"redis://{'x' * 80}:hunter2@host"}),
    ],
)
def test_a_password_is_never_repeated(text: str, environ: Mapping[str, str]) -> None:
    """Wherever a URL with a password strays, no report repeats it."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, environ)
    assert caught.value.mistakes
    assert "hunter2" not in repr(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_config_in_a_log_line_does_not_show_the_password() -> None:
    """repr() of the settings leaves out the URLs and secrets."""
    loaded = load(None, {"FASTIMD_REDIS__URL": "redis://:hunter2@host"})
    assert loaded.redis.url == "redis://:hunter2@host"
    assert "hunter2" not in repr(loaded)
    secret = "whsec_" + "hunter2h" * 4
    loaded = load_text(
        f"[hooks]\nwebhook_url = 'http://host/hunter2'\nwebhook_secret = '{secret}'\n"
        "webhook_events = ['login']\n"
    )
    assert loaded.hooks.webhook_secret == secret
    assert "hunter2" not in repr(loaded)


# Parsed forms


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_parse_bind_separates_host_and_port(value: str, expected: tuple[str, int]) -> None:
    """The host comes without brackets, ready for the socket call."""
    assert parse_bind(value) == expected


def test_parse_bind_refuses_what_is_neither_form() -> None:
    """A caller that skipped the check gets a ValueError, not a guess."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_bind("::1")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        ({"STATE_DIRECTORY": "", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/fastimd"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/fastimd"),
        ({"HOME": "/h"}, "/h/.local/state/fastimd"),
    ],
)
def test_default_data_dir_follows_systemd_then_xdg(
    environ: Mapping[str, str], expected: str
) -> None:
    """systemd's state directory, then the user's, then the customary place in the home."""
    assert default_data_dir(environ) == Path(expected)


def test_default_data_dir_without_a_home_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with no home directory is told which key to set."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match=r"redis\.data_dir"):
        default_data_dir({})


# The example file


def uncommented(text: str) -> str:
    """The example with every commented key switched on; prose stays a comment."""
    keys = {setting.key for setting in settings()}
    lines = []
    for line in text.splitlines():
        key, separator, _ = line.removeprefix("# ").partition(" = ")
        lines.append(line.removeprefix("# ") if separator and key in keys else line)
    return "\n".join(lines)


def test_the_example_file_changes_nothing_as_it_is() -> None:
    """Installed untouched, the example gives the defaults."""
    assert sections(load(EXAMPLE, {})) == sections(Config())
    assert tomllib.loads(EXAMPLE.read_text()) == {section: {} for section in DEFAULTS}


def test_the_example_file_lists_every_key_with_its_default() -> None:
    """Uncommented, the example is exactly the settings, in order, and loads as the defaults."""
    text = uncommented(EXAMPLE.read_text())
    tables = tomllib.loads(text)
    assert [(section, list(table)) for section, table in tables.items()] == [
        (section, list(keys)) for section, keys in DEFAULTS.items()
    ]
    for setting in settings():
        assert tables[setting.section][setting.key] == as_toml(setting.default)
    assert sections(load_text(text)) == sections(Config())


def test_the_example_of_a_key_is_a_key() -> None:
    """The table that the example file shows in a comment is one that the settings take."""
    text = "\n".join(re.findall(r"^#     (.*)$", EXAMPLE.read_text(), re.M))
    [key] = load_text(text).api.keys
    assert key == ApiKey("game", DIGEST, ("publish", "broadcast"), ("match-*",))


def test_two_keys_of_one_name_are_a_mistake() -> None:
    """Logs and metrics could not tell them apart."""
    table = f'[[api.keys]]\nname = "game"\nsha256 = "{DIGEST}"\n'
    mistake = only_mistake(table * 2 + table.replace("game", "shop"))
    assert "api.keys: 'game' is there more than once; accepted: each name once" in mistake


def test_the_example_file_explains_every_key() -> None:
    """Above each key stands a comment in prose."""
    lines = EXAMPLE.read_text().splitlines()
    switched_on = uncommented(EXAMPLE.read_text()).splitlines()
    for number, (line, key_line) in enumerate(zip(lines, switched_on, strict=True)):
        if line != key_line:
            assert lines[number - 1].startswith("# "), line
            assert switched_on[number - 1] == lines[number - 1], line
