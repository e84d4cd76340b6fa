"""fastim.js without a browser: a copy of it is whole, and says refusals in the reader's language.

Node runs it. Without Node these tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "fastimd" / "page"
HAN = re.compile(r"[\u4e00-\u9fff]")
CASES = [
    # The daemon's own, in both languages
    ("加入的群组过多 (too many groups)", "en-US", "too many groups"),
    ("加入的群组过多 (too many groups)", "zh-CN", "加入的群组过多"),
    ("数据异常 (gml:公会 is no list (but a set))", "en", "gml:公会 is no list (but a set)"),
    ("数据异常 (gml:公会 is no list (but a set))", "zh", "数据异常"),
    ("群组ID无效(groupId: empty)", "de", "groupId: empty"),
    ("群组ID无效(groupId: empty)", "ZH-hant", "群组ID无效"),
    ("两行\n都是 (two\nlines)", "en", "two\nlines"),
    # Those of Fast-IM, in Chinese only
    ("登录失败", "en", "wrong user or password"),
    ("登录失败", "zh-TW", "登录失败"),
    ("消息不存在", "fr", "this message is gone"),
    ("操作失败", "", "the operation failed"),
    # Those of the live wire, in English only
    ("too many requests", "zh-CN", "发送过于频繁"),
    ("too many requests", "en", "too many requests"),
    ("too old to be recalled", "en", "it is too late to recall this message"),
    ("muted until 2026-11-29 03:10:00 UTC: x", "zh", "已被禁言（2026-11-29 03:10:00 UTC）：x"),
    ("banned", "zh", "已被封禁"),
    ("slow mode: wait 7 s", "zh", "慢速模式，请稍候（7 s）"),
    ("muted: spam", "en", "muted: spam"),
    # A hook's, in both or in one
    ("请勿刷屏 (no spam)", "en", "no spam"),
    ("请勿刷屏 (no spam)", "zh", "请勿刷屏"),
    ("请勿刷屏", "en", "请勿刷屏"),
    ("请勿刷屏 (第二次)", "en", "请勿刷屏 (第二次)"),
    ("请勿刷屏 (no spam) 谢谢", "zh", "请勿刷屏 (no spam) 谢谢"),
    ("not here (see the rules)", "zh", "not here (see the rules)"),
    ("not here (看规则)", "en", "not here (看规则)"),
    # The reasons of closes, which are neither
    ("kicked", "zh", "kicked"),
    ("", "zh", ""),
    ("", "en", ""),
    ("(only this)", "en", "(only this)"),
    ("__proto__", "en", "__proto__"),
    # Another language whose code begins alike
    ("登录失败", "zha", "wrong user or password"),
]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fastim.js as one copies it: itself, and what is named after it."""
    folder = tmp_path_factory.mktemp("copied")
    for file in PAGE.glob("fastim*.js"):
        shutil.copy(file, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def run_node(folder: Path, script: str, given: Any = None) -> Any:
    """Run a module that writes JSON; ``given`` is there."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node on this machine")
    program = f"const given = {json.dumps(given)};\n{script}"
    done = subprocess.run(
        [node, "--input-type=module", "-e", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(folder: Path, cases: list[tuple[str, str]]) -> list[str]:
    """Each text in its language."""
    script = """
    import { inLanguage } from "./fastim.js";
    console.log(JSON.stringify(given.map(([msg, language]) => inLanguage(msg, language))));
    """
    shown: list[str] = run_node(folder, script, cases)
    return shown


def test_a_copy_is_whole(copied: Path) -> None:
    """What the document says to copy needs no other file, and has the whole interface."""
    script = "import * as all from './fastim.js'; console.log(JSON.stringify(Object.keys(all)));"
    found = run_node(copied, script)
    assert found == ["FastIM", "FastIMError", "Group", "GroupList", "inLanguage"]
    document = (ROOT / "docs" / "FASTIM_JS.md").read_text()
    assert "fastim*.js" in document
    assert all(
        f"`{name}`" in document or f"`{name}(" in document for name in found[1:2] + found[4:]
    )


def test_refusals_in_the_readers_language(copied: Path) -> None:
    """The part in that language; of Chinese alone the English that is known; else what it is."""
    shown = read(copied, [(msg, language) for msg, language, _ in CASES])
    assert [(*case[:2], text) for case, text in zip(CASES, shown, strict=True)] == CASES


def test_the_examples_of_the_document(copied: Path) -> None:
    """docs/FASTIM_JS.md shows reasons as they are."""
    document = (ROOT / "docs" / "FASTIM_JS.md").read_text()
    rows = re.findall(r"^\| `([^`]+)`[^|]* \| `([^`]+)` \| `([^`]+)` \|$", document, re.M)
    assert len(rows) == 5
    cases = [(msg, language) for msg, *_ in rows for language in ("zh-CN", "en")]
    assert read(copied, cases) == [text for _, *texts in rows for text in texts]


def test_the_language_is_an_option(copied: Path) -> None:
    """The browser's unless it is said; errors have the server's words, and the reader's."""
    script = """
    import { FastIM, FastIMError } from "./fastim.js";
    const found = [];
    const answers = [
      { code: 100, msg: "加入的群组过多 (too many groups)" }, { code: 100, msg: "消息不存在" },
    ];
    for (const [browser, option] of given) {
      Object.defineProperty(globalThis, "navigator", {
        configurable: true, value: browser ? { language: browser } : undefined,
      });
      const language = option ? { language: option } : {};
      const im = new FastIM({ url: "http://127.0.0.1", userId: "ada", ...language });
      for (const answer of answers) {
        globalThis.fetch = async () => ({ json: async () => answer });
        const asked = answer === answers[0]
          ? im.joinGroup("1") : im.recall({ groupId: "1", ts: 1 });
        await asked.catch((error) => {
          if (!(error instanceof FastIMError)) throw error;
          found.push([error.msg === answer.msg, error.reason, error.message]);
        });
      }
    }
    console.log(JSON.stringify(found));
    """
    languages = [("zh-CN", ""), ("en-GB", ""), ("", ""), ("en", "zh"), ("zh", "en")]
    chinese = [[True, text, f"100: {text}"] for text in ("加入的群组过多", "消息不存在")]
    english = [[True, text, f"100: {text}"] for text in ("too many groups", "this message is gone")]
    found = run_node(copied, script, languages)
    assert found == [*chinese, *english, *english, *chinese, *english]


def documented_refusals(value: Any, is_msg: bool = False) -> Iterator[str]:
    """Every text that a ``msg`` has, by an example or by a schema."""
    if isinstance(value, str):
        if is_msg:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from documented_refusals(each, is_msg)
    elif isinstance(value, dict):
        for name, each in value.items():
            is_text = is_msg and name in ("const", "enum", "default", "examples")
            yield from documented_refusals(each, name == "msg" or is_text)


def test_all_that_the_daemon_says_has_an_english_text(copied: Path) -> None:
    """Every Chinese text that the interface's documents know says it itself, or is in the table."""
    documents = [ROOT / "fastimd" / "http" / "openapi.json", ROOT / "docs" / "asyncapi.json"]
    said = {
        msg
        for document in documents
        for msg in documented_refusals(json.loads(document.read_text()))
        if HAN.search(msg)
    }
    assert {"登录失败", "消息不存在"} <= said
    cases = sorted(said)
    shown = dict(zip(cases, read(copied, [(msg, "en") for msg in cases]), strict=True))
    assert {msg: text for msg, text in shown.items() if HAN.search(text)} == {}


def test_all_errors_of_the_live_wire_have_a_chinese_text(copied: Path) -> None:
    """Every error of docs/LIVE.md is in the table, but for those that name a field."""
    document = (ROOT / "docs" / "LIVE.md").read_text()
    table = document.partition("\n## Errors\n")[2].partition("\n## ")[0]
    errors = re.findall(r"^\| \d{3} \| `([^`]+)`", table, re.M)
    assert len(errors) >= 10
    cases = [(msg, "zh") for msg in errors if msg != "bad request"]
    assert [text for text in read(copied, cases) if not HAN.search(text)] == []
