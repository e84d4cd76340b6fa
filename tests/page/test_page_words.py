"""The words of the page: each once, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "fastimd" / "page"
SCRIPTS = sorted(path for path in PAGE.glob("*.js") if "\naddTexts({" in path.read_text())
BLOCK = re.compile(r"^addTexts\(\{\n  en: \{(.*?)\},?\n  zh: \{(.*?)\},?\n\}\);", re.M | re.S)
KEY = re.compile(r"(?:^|[{,]) *(\w+):(?= |$)", re.M)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_key_stands_once_in_each_language(script: Path) -> None:
    """One that stood twice would lose its first text; one in one language only would be unsaid."""
    block = BLOCK.search(script.read_text())
    assert block is not None
    english, chinese = (KEY.findall(part) for part in block.groups())
    assert sorted(set(english)) == sorted(english)
    assert sorted(set(chinese)) == sorted(chinese)
    # Chinese has no singular.
    assert [key for key in english if not key.endswith("One")] == chinese


def test_no_two_scripts_have_a_key() -> None:
    """They share one table: the script that comes later would have the word."""
    blocks = [BLOCK.search(script.read_text()) for script in SCRIPTS]
    keys = [key for block in blocks if block for key in KEY.findall(block[1])]
    assert len(keys) > 100
    assert sorted(set(keys)) == sorted(keys)
