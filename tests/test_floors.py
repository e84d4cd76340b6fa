"""The house: every module stands on a floor, and imports only point down."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "fastimd"

FLOORS = {
    "fastimd": 0,
    "fastimd.address": 0,
    "fastimd.errors": 0,
    "fastimd.recent": 0,
    "fastimd.systemd": 0,
    "fastimd.turnstile": 0,
    "fastimd.codec": 1,
    "fastimd.config": 1,
    "fastimd.log": 1,
    "fastimd.metrics": 1,
    "fastimd.supervise": 1,
    "fastimd.redis": 2,
    "fastimd.hooks": 3,
    "fastimd.store": 3,
    "fastimd.outbox": 3,
    "fastimd.head": 3,
    "fastimd.clients": 3,
    "fastimd.access": 4,
    "fastimd.hub": 4,
    "fastimd.kicks": 4,
    "fastimd.poller": 4,
    "fastimd.relay": 4,
    "fastimd.http": 5,
    "fastimd.sockets": 5,
    "fastimd.desk": 5,
    "fastimd.door": 5,
    "fastimd.bench": 6,
    "fastimd.daemon": 6,
    "fastimd.drain": 6,
    "fastimd.reload": 6,
    "fastimd.operate": 6,
    "fastimd.terminal": 6,
    "fastimd.cli": 7,
    "fastimd.__main__": 7,
}
"""A package's floor is that of all its modules."""

ROOMS_ON_ONE_FLOOR = {
    ("fastimd.http", "fastimd.door"),
    ("fastimd.sockets", "fastimd.door"),
    ("fastimd.http", "fastimd.sockets"),
    ("fastimd.sockets", "fastimd.http"),
}
"""Arrows along a floor that are refused: the door opens to the two rooms behind it, never back."""

PACKAGES = {
    "fastimd.bench",
    "fastimd.redis",
    "fastimd.hooks",
    "fastimd.http",
    "fastimd.operate",
    "fastimd.sockets",
    "fastimd.terminal",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def all_modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}


def room_of(module: str) -> str | None:
    """The entry of FLOORS that a module belongs to."""
    for package in PACKAGES:
        if module == package or module.startswith(f"{package}."):
            return package
    return module if module in FLOORS else None


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
        elif FLOORS[other] > FLOORS[room] or (room, other) in ROOMS_ON_ONE_FLOOR:
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
    """It imports how addresses and messages look, and the root of the exceptions."""
    modules = all_modules()
    seen = {
        target
        for module, path in modules.items()
        if room_of(module) == "fastimd.terminal"
        for target in imports_of(module, path.read_text(), is_package=False, known=modules)
    }
    others = {target for target in seen if room_of(target) != "fastimd.terminal"}
    assert others == {"fastimd.address", "fastimd.codec", "fastimd.errors"}


def test_the_walk_sees_the_house() -> None:
    """The check above is not empty: it finds the arrows that are known to be there."""
    modules = all_modules()
    assert len(modules) >= 25
    source = modules["fastimd.relay"].read_text()
    seen = imports_of("fastimd.relay", source, is_package=False, known=modules)
    assert {"fastimd.codec", "fastimd.store", "fastimd.redis.wire"} <= seen


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastimd.codec", "from .hub import Hub"),
        ("fastimd.codec", "from . import hub"),
        ("fastimd.codec", "import fastimd.hub"),
        ("fastimd.codec", "from fastimd import hub"),
        ("fastimd.codec", "from fastimd.hub import Hub as H"),
        ("fastimd.codec", "def f():\n    from .hub import Hub"),
        ("fastimd.codec", "if TYPE_CHECKING:\n    from .hub import Hub"),
        ("fastimd.codec", "import_module('fastimd.hub')"),
        ("fastimd.redis.wire", "from ..store import Store"),
        ("fastimd.redis.scripts", "from ...store import Store"),
        ("fastimd.errors", "from . import codec"),
        ("fastimd.store", "from .relay import Relay"),
        ("fastimd.hub", "from .sockets.session import Session"),
        ("fastimd.sockets.chat", "from ..door import Door"),
        ("fastimd.http.server", "from .. import door"),
        ("fastimd.http.app", "from ..sockets.session import Session"),
        ("fastimd.door", "from .daemon import serve"),
        ("fastimd.daemon", "from . import cli"),
    ],
)
def test_an_arrow_that_points_up_is_caught(module: str, source: str) -> None:
    """However the import is written, and wherever it stands."""
    is_package = module == "fastimd.redis.scripts"
    assert check(module, f"import trio\n{source}\n", is_package=is_package) != []


def test_an_arrow_that_points_down_is_no_mistake() -> None:
    """The checker does not cry at everything."""
    assert check("fastimd.door", "from .http.server import HttpServer\nimport trio") == []
    assert check("fastimd.hub", "from . import codec\nfrom .relay import Relay") == []


def test_a_module_without_a_floor_is_caught() -> None:
    """A new room must be given a floor, and cannot be entered before."""
    assert check("fastimd.attic", "import trio") == ["fastimd.attic stands on no floor"]
    arrows = upward_arrows("fastimd.daemon", {"fastimd.attic"})
    assert arrows == ["fastimd.daemon imports fastimd.attic, which stands on no floor"]
