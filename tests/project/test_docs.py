"""The documents say what the code says: settings, log events, metrics, JSON and links."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from msgspec import Meta

from fastimd.base.codec import Message
from fastimd.base.metrics import Metrics
from fastimd.base.recent import Trouble
from fastimd.base.settings import Setting, render, settings
from fastimd.classic.sockets import KINDS
from fastimd.daemon.workers.office import families_of
from fastimd.http.forms import GroupView, WorkerState
from fastimd.live.sockets import KINDS as LIVE_KINDS
from fastimd.operate.screen import RATES, Report

ROOT = Path(__file__).parent.parent.parent
OPERATION = ROOT / "docs" / "OPERATION.md"
LOGS = ROOT / "docs" / "LOGS.md"
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "bench", "examples", "systemd")
    for path in (ROOT / folder).glob("*.md")
)
SUFFIXES = {"counter": "_total", "info": "_info"}
"""What the text of a scrape adds to the names of families."""
HOLDS = {
    "SETTINGS.md": ("at once", "for new sockets", "after a restart"),
    "SETTINGS.zh-CN.md": ("立即", "新连接", "重启后"),
}
"""The tables of settings, and what they call the moments when a change holds."""
LEVELS = {"exception": "error"} | {
    level: level for level in ("debug", "info", "warning", "error", "critical")
}


def table_rows(document: Path, name: str, columns: int) -> list[list[str]]:
    """Cells of the rows of that many whose first one is ``name``, a pattern, in backquotes."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in document.read_text().splitlines()
        if re.match(rf"\| `{name}` \|", line)
    ]
    return [[row[0].strip("`"), *row[1:]] for row in rows if len(row) == columns]


def calls() -> Iterator[tuple[ast.Call, str, str]]:
    """Every ``receiver.method("name", …)`` in the code: the call, the method and the name."""
    for path in sorted((ROOT / "fastimd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=method), args=[ast.Constant(value=str(name)), *_]
                ):
                    yield node, method, name


def logged_events() -> dict[str, tuple[set[str], set[str]]]:
    """Every event in the code, with its levels and its fields."""
    events: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for call, method, name in calls():
        assert isinstance(call.func, ast.Attribute)
        receiver = call.func.value
        if isinstance(receiver, ast.Name) and receiver.id == "log" and method in LEVELS:
            levels, fields = events[name]
            levels.add(LEVELS[method])
            fields.update(keyword.arg for keyword in call.keywords if keyword.arg is not None)
            fields.update({"exc_info"} if method == "exception" else ())
    return {
        name: (levels, {"exception" if field == "exc_info" else field for field in fields})
        for name, (levels, fields) in events.items()
    }


def as_toml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def stated(setting: Setting) -> set[str]:
    """What a text that says what is accepted has to name: limits, and the words of a choice."""
    metas = [each for each in setting.type.__metadata__ if isinstance(each, Meta)]
    limits = {limit for meta in metas for limit in (meta.ge, meta.le) if limit is not None}
    kind = setting.type.__origin__
    item = get_args(kind)[0] if get_origin(kind) is tuple else kind
    choices = get_args(item) if get_origin(item) is Literal else ()
    return {f"{limit}" for limit in limits} | {f'"{choice}"' for choice in choices}


@pytest.mark.parametrize("name", HOLDS)
def test_a_table_has_every_setting(name: str) -> None:
    """Key for key in the code's order: default, limits, and when a change holds."""
    moments = dict(zip(HOLDS["SETTINGS.md"], HOLDS[name], strict=True))
    table = table_rows(ROOT / "docs" / name, r"[a-z_]+\.[a-z_]+", 5)
    for row, setting in zip(table, settings(), strict=True):
        key, default, _meaning, accepted, holds = row
        assert (key, default) == (setting.name, f"`{as_toml(setting.default)}`")
        assert stated(setting) <= set(re.findall(r'"\w+"|\d+', accepted)), key
        assert holds == moments[setting.about.holds], key


def test_the_files_of_the_settings_are_what_the_sections_say() -> None:
    """A change of a setting is written into both: ``make settings``."""
    for path, text in (
        (render.EXAMPLE, render.render_example()),
        (render.TABLE, render.render_table()),
    ):
        assert (ROOT / path).read_text() == text, f"make settings writes {path} anew"


def test_making_the_settings_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``make settings`` runs, in a checkout whose two files are of before."""
    assert "\t$(BIN)/python -m fastimd.base.settings.render\n" in (ROOT / "Makefile").read_text()
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (render.EXAMPLE, render.TABLE):
        path.write_text("of before")
    render.main()
    for path in (render.EXAMPLE, render.TABLE):
        assert path.read_bytes() == (ROOT / path).read_bytes()


@pytest.mark.parametrize("name", ["README.md", "docs/MIGRATING.md"])
def test_both_languages_have_the_same_examples(name: str) -> None:
    """Commands and code are the same in both languages, but for the comments."""
    english, chinese = (
        [
            re.sub(r"\s*(?:#|//) .*|(?<=console\.log\()\".*\"", "", block)
            for block in re.findall(r"^```\w+\n.*?^```", (ROOT / name).read_text(), re.M | re.S)
        ]
        for name in (name, name.replace(".md", ".zh-CN.md"))
    )
    assert english
    assert english == chinese


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_each_figure_of_a_readme_was_measured(name: str) -> None:
    """The table of costs has the numbers of bench/RESULTS.md, each by the command of its row."""
    results = (ROOT / "bench" / "RESULTS.md").read_text()
    table = re.findall(r"^\| .* \| `make bench.*` \|$", (ROOT / name).read_text(), re.M)
    servers = ("fastimd", "Nchan", "Nchan, TCP_NODELAY", "Socket.IO")
    assert len(table) == 7
    for row in table:
        *figures, command = [cell.strip() for cell in row.strip("| ").split(" | ")][1:]
        only = re.search(r'--only "(.*)"', command)
        case = only[1] if only else "50 % of the peak"
        for server, figure in zip(servers, figures, strict=True):
            section = results.split(f"\n{case}\n")[1].split("\n\n")[0]
            (measured,) = re.findall(rf"^\| {re.escape(server)} +\|(.*)\|$", section, re.M)
            assert figure in [cell.strip() for cell in measured.split("|")], (row, server)


def test_the_catalogue_has_every_event_and_no_other() -> None:
    """docs/LOGS.md has the code's names, levels and fields."""
    table = {
        event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields)))
        for event, levels, fields, _meaning, _remedy in table_rows(LOGS, r"[a-z]+\.[a-z_]+", 5)
    }
    assert table == logged_events()


def test_operation_has_every_metric_and_no_other() -> None:
    """The table of metrics has the names and types that a scrape shows."""
    families = {
        f"{family.name}{SUFFIXES.get(family.type, '')}": family.type
        for family in Metrics().collect()
    }
    families |= {
        f"{name}{SUFFIXES.get(family.kind, '')}": family.kind
        for name, family in families_of(()).items()
    }
    gauges = {name for _, method, name in calls() if method in ("add_gauge", "add_divided_gauge")}
    assert {name: kind for name, kind, _ in table_rows(OPERATION, r"fastimd_\w+", 3)} == (
        families | {f"fastimd_{name}": "gauge" for name in gauges}
    )


SHOWN_TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list[str]: "list of strings",
    str | None: "string or null",
    float | None: "number or null",
    int | None: "integer or null",
    list[WorkerState]: "list of objects",
    list[Trouble]: "list of objects",
    list[msgspec.Raw]: "list of objects",
}
KEYS = {
    "sockets": (*KINDS, *LIVE_KINDS),
    "rates": tuple(RATES),
    "members": (),  # users
    "troubles[].fields": (),  # of the event
    "last[].tags": (),  # of the sender
}
"""Those of the objects that are no structs."""


def fields_of(struct: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and type of each field of a struct's JSON, with those of what is in it."""
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        name, kind = f"{prefix}{field.name}", hints[field.name]
        yield name, SHOWN_TYPES.get(kind, "object")
        if get_origin(kind) is dict:
            yield from ((f"{name}.{key}", SHOWN_TYPES[get_args(kind)[1]]) for key in KEYS[name])
        elif kind not in SHOWN_TYPES:
            yield from fields_of(kind, f"{name}.")
        elif kind in (list[Trouble], list[WorkerState]):
            yield from fields_of(get_args(kind)[0], f"{name}[].")
        elif kind == list[msgspec.Raw]:
            yield from fields_of(Message, f"{name}[].")


@pytest.mark.parametrize(("command", "struct"), [("status", Report), ("group", GroupView)])
def test_operation_has_every_field_of_json_and_no_other(command: str, struct: type) -> None:
    """The tables have the names and types of what the commands print, in its order."""
    section = OPERATION.read_text().partition(f"| field of `{command}` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| ([a-z ]+) \| \S", section, re.M)
    assert rows == list(fields_of(struct))


def test_every_promise_names_tests_that_exist() -> None:
    """Whatever docs/PROMISES.md says proves a promise is there."""
    named = re.findall(r"`(\w+)::(\w+)`", (ROOT / "docs" / "PROMISES.md").read_text())
    assert len(named) > 40
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(f"test_{file}.py")
        source = path.read_text()
        assert re.search(rf"^(?:async )?def test_{test}\(", source, re.M), (file, test)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_files_that_exist(document: Path) -> None:
    """Every relative link, and every anchor in it, leads somewhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = document.parent / name if name else document
        assert linked.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", linked.read_text(), re.M)
            assert anchor in {as_anchor(heading) for heading in headings}, target


def as_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
