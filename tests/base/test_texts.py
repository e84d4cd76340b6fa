"""What answers say in ``msg``: Fast-IM's texts byte for byte, all others in Chinese and English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import in_both_languages
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import default_exceptions

from fastimd.base import errors, texts
from fastimd.http.answers import add_errors

PACKAGE = Path(__file__).parent.parent.parent / "fastimd"
CLIENTS = {"terminal", "bench", "operate"}
"""Rooms that read such texts, and give none."""
FAST_IM = {
    "操作成功",
    "操作失败",
    "登录失败",
    "请登录后访问",
    "撤回消息成功",
    "无法撤回消息",
    "消息不存在",
}
"""What Fast-IM's own server says, where fastimd says it too."""
ARGUMENTS = {
    "BadParameter": ("groupId", "must be a whole number from 0 to 7"),
    "ConfigError": (["a mistake"],),
    "KeyUnusable": ("gml:1", "WRONGTYPE"),
    "Restrained": ("banned", "banned: spam"),
    "TokenRefused": ("claims", "it is for another user"),
    "WorkerFailed": (78,),
}


def own_failures() -> Iterator[Exception]:
    """Each exception of ours that a route may raise, as it is without a reason of its own."""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.FastimdError):
            yield kind(*ARGUMENTS.get(name, ()))


def sources() -> Iterator[tuple[str, ast.AST]]:
    """Every node of the code that answers clients, and the file where it stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] not in CLIENTS:
            for node in ast.walk(ast.parse(path.read_text())):
                yield str(name), node


def is_chinese(text: str) -> bool:
    return re.search("[\u4e00-\u9fff]", text) is not None


def test_each_text_is_fast_ims_or_in_both_languages() -> None:
    """Nothing is left in one language, and what is Fast-IM's is as it was."""
    constants = {
        value
        for name, value in vars(texts).items()
        if isinstance(value, str) and not name.startswith("__")
    }
    assert {text for text in constants if not in_both_languages(text)} == FAST_IM


@pytest.mark.parametrize("status", [*texts.CHINESE, 402, 418, 499, 500, 502, 599])
def test_each_status_has_a_text_in_both_languages(status: int) -> None:
    """Those that are not foreseen too."""
    assert in_both_languages(texts.of_status(status, "what is wrong"))


@pytest.mark.parametrize(
    "failure",
    [*own_failures(), *(kind() for kind in default_exceptions.values()), ValueError("a fault")],
    ids=lambda failure: type(failure).__name__,
)
async def test_whatever_a_route_raises_is_answered_in_both_languages(failure: Exception) -> None:
    """Ours, those of the web framework, and a crash."""
    app = QuartTrio("test")
    add_errors(app)

    @app.get("/")
    async def fail() -> Response:
        raise failure

    answer = await (await app.test_client().get("/")).get_json()
    assert answer["msg"] in FAST_IM or in_both_languages(answer["msg"]), answer


def test_no_text_stands_elsewhere() -> None:
    """Chinese is in ``base/texts.py`` and links to it alone; no answer has words of its own."""
    chinese = set()
    own_words = []
    for file, node in sources():
        match node:
            case ast.Constant(value=str(text)) if is_chinese(text):
                chinese.add(file)
            case ast.Call(
                func=ast.Name(id="answer") | ast.Attribute(attr="_tell_refused"),
                args=[_, text, *_],
            ):
                words = [each for each in ast.walk(text) if isinstance(each, ast.Constant)]
                own_words += [(file, ast.unparse(each)) for each in words]
    assert chinese == {"base/texts.py", "base/settings/render.py"}
    assert own_words == []
