"""The house: every folder stands on a floor, and imports only point down, never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent.parent / "fastimd"

FLOORS = {
    "fastimd": 0,
    "fastimd.page": 0,
    "fastimd.console": 0,
    "fastimd.base": 1,
    "fastimd.door": 2,
    "fastimd.redis": 2,
    "fastimd.websocket": 3,
    "fastimd.hooks": 3,
    "fastimd.groups": 4,
    "fastimd.classic": 5,
    "fastimd.http": 5,
    "fastimd.live": 5,
    "fastimd.api": 6,
    "fastimd.daemon": 7,
    "fastimd.operate": 7,
    "fastimd.terminal": 7,
    "fastimd.bench": 7,
    "fastimd.cli": 8,
    "fastimd.__main__": 9,
}
"""Where each folder stands; a module imports its own folder and those of lower floors."""


MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def all_modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}


def room_of(module: str) -> str | None:
    """The entry of FLOORS that a module belongs to."""
    room = ".".join(module.split(".")[:2])
    return room if room in FLOORS else None


def imports_of(module: str, source: str, *, is_package: bool, known: Iterable[str]) -> set[str]:
    """The modules of ours that a source imports, wherever in it, lazily or for types alone."""
    known = set(known)
    found: set[str] = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        found.update(_targets(node, package, known))
    return {target for target in found if target.partition(".")[0] == "fastimd"}


def _targets(node: ast.AST, package: list[str], known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{origin}.{alias.name}"
            yield name if name in known else origin
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        for argument in node.args:
            if isinstance(argument, ast.Constant):
                yield str(argument.value)


def upward_arrows(module: str, targets: Iterable[str]) -> list[str]:
    """What is wrong with the imports of a module, one line each."""
    room = room_of(module)
    if room is None:
        return [f"{module} stands on no floor"]
    wrong = []
    for target in sorted(targets):
        other = room_of(target)
        if other is None:
            wrong.append(f"{module} imports {target}, which stands on no floor")
        elif other != room and FLOORS[other] >= FLOORS[room]:
            wrong.append(f"{module} (floor {FLOORS[room]}) imports {target} ({FLOORS[other]})")
    return wrong


def check(module: str, source: str, *, is_package: bool = False) -> list[str]:
    known = {*all_modules(), module}
    return upward_arrows(module, imports_of(module, source, is_package=is_package, known=known))


@pytest.mark.parametrize("module", all_modules())
def test_imports_only_point_down(module: str) -> None:
    """A module imports nothing that stands above it."""
    path = all_modules()[module]
    assert check(module, path.read_text(), is_package=path.name == "__init__.py") == []


def test_the_terminal_client_knows_the_wire_alone() -> None:
    """It imports how addresses and messages look, and what every command needs."""
    modules = all_modules()
    seen = {
        target
        for module, path in modules.items()
        if room_of(module) == "fastimd.terminal"
        for target in imports_of(module, path.read_text(), is_package=False, known=modules)
    }
    others = {target for target in seen if room_of(target) != "fastimd.terminal"}
    names = ("address", "codec", "errors", "password", "signals")
    assert others == {f"fastimd.base.{name}" for name in names}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The circles in a graph of modules, each as the way round."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for target in sorted(arrows.get(module, ())):
                walk(target, [*way, module])
            done.add(module)

    for module in sorted(arrows):
        walk(module, [])
    return found


def test_no_import_leads_round_in_a_circle() -> None:
    """Within a folder too, every module can be read without those that import it."""
    modules = all_modules()
    arrows = {
        module: imports_of(
            module, path.read_text(), is_package=path.name == "__init__.py", known=modules
        )
        for module, path in modules.items()
    }
    assert circles(arrows) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]


def test_no_file_and_no_function_is_long() -> None:
    """A file has at most 400 lines, a function 60: what is longer wants rooms."""
    long = [
        f"{path.relative_to(HOUSE)}: {lines}"
        for path in sorted(HOUSE.rglob("*"))
        if path.suffix in {".py", ".js", ".lua"}
        and (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    ]
    for module, path in all_modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{module}.{node.name}: {lines}")
    assert long == []


def test_the_walk_sees_the_house() -> None:
    """The check above is not empty: it finds the arrows that are known to be there."""
    modules = all_modules()
    assert len(modules) >= 25
    source = modules["fastimd.groups.relay"].read_text()
    seen = imports_of("fastimd.groups.relay", source, is_package=False, known=modules)
    assert {"fastimd.base.codec", "fastimd.groups.store.history", "fastimd.redis.wire"} <= seen


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastimd.base.codec", "from ..groups.hub import Hub"),
        ("fastimd.base.codec", "from ..groups import hub"),
        ("fastimd.base.codec", "import fastimd.groups.hub"),
        ("fastimd.base.codec", "from fastimd.groups import hub"),
        ("fastimd.base.codec", "from fastimd.groups.hub import Hub as H"),
        ("fastimd.base.codec", "def f():\n    from ..groups.hub import Hub"),
        ("fastimd.base.codec", "if TYPE_CHECKING:\n    from ..groups.hub import Hub"),
        ("fastimd.base.codec", "import_module('fastimd.groups.hub')"),
        ("fastimd.redis.wire", "from ..groups.store import Store"),
        ("fastimd.redis.scripts", "from ...groups.store import Store"),
        ("fastimd.redis.wire", "from ..door.head import Head"),
        ("fastimd.websocket.session", "from ..groups.hub import Hub"),
        ("fastimd.websocket.session", "from ..hooks.runner import HookRunner"),
        ("fastimd.groups.hub", "from ..classic.dialect import Classic"),
        ("fastimd.classic.chat", "from ..http.app import create_app"),
        ("fastimd.http.app", "from ..classic.chat import serve_chat"),
        ("fastimd.door.door", "from ..daemon.tree import serve"),
        ("fastimd.live.inbox", "from ..api import bodies"),
        ("fastimd.api.server", "from ..daemon.admin import open_admin"),
        ("fastimd.daemon.tree", "from .. import cli"),
        ("fastimd.operate.client", "from ..daemon.tree import serve"),
    ],
)
def test_an_arrow_that_points_up_is_caught(module: str, source: str) -> None:
    """However the import is written, and wherever it stands; along a floor too."""
    is_package = module == "fastimd.redis.scripts"
    assert check(module, f"import trio\n{source}\n", is_package=is_package) != []


def test_an_arrow_that_points_down_is_no_mistake() -> None:
    """The checker does not cry at everything."""
    assert check("fastimd.http.server", "from ..door.head import Head\nimport trio") == []
    assert check("fastimd.groups.hub", "from ..base import codec\nfrom .relay import Relay") == []


def test_a_module_without_a_floor_is_caught() -> None:
    """A new room must be given a floor, and cannot be entered before."""
    assert check("fastimd.attic", "import trio") == ["fastimd.attic stands on no floor"]
    arrows = upward_arrows("fastimd.daemon.tree", {"fastimd.attic"})
    assert arrows == ["fastimd.daemon.tree imports fastimd.attic, which stands on no floor"]


DESIGN = HOUSE.parent / "docs" / "DESIGN.md"


def test_the_design_names_what_there_is() -> None:
    """Each file that docs/DESIGN.md names exists, and what stands beside it is in it."""
    text = DESIGN.read_text()
    named = re.findall(
        r"`(\w+/[\w/]+\.(?:py|lua))`((?:[, ]+`[A-Z_]\w*(?:\.\w+)?`|,? `\w+`)*)", text
    )
    assert len(named) >= 15
    for path, names in named:
        if path.startswith(("tests/", "bench/")):
            assert (HOUSE.parent / path).exists(), path
            continue
        source = (HOUSE / path).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"\b{part}\b", source), (path, name)


def test_the_design_has_every_folder_once() -> None:
    """The picture, the table and the floors of the tests are of the same house."""
    text = DESIGN.read_text()
    picture = text.split("```")[1]
    table = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    folders = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    assert sorted(table) == sorted(folders)
    for line in picture.strip().splitlines():
        floor, *rooms = re.findall(r"\d+|\w+(?=/| )", line.split("  " * 4)[0])
        for room in rooms:
            if room in folders:
                assert FLOORS[f"fastimd.{room}"] == int(floor), room
