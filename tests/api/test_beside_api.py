"""The same calls of the server API, made to fastimd: it answers as Centrifugo has, or it is said.

``centrifugo_api.json`` has what Centrifugo answered (``side_by_side.py``), ``differences_api.toml``
each answer of fastimd that is another one, and docs/API.md why.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from calling import table_of
from conftest import StartDaemon
from side_by_side import API_KEY, CALLS, SECRET, differences, play, read_record

HERE = Path(__file__).parent
DOCUMENT = (HERE.parents[1] / "docs" / "API.md").read_text()
TABLE = tomllib.loads((HERE / "differences_api.toml").read_text())["difference"]


def test_calls_are_answered_as_by_centrifugo(start_daemon: StartDaemon) -> None:
    """What differs is what the table says, line by line."""
    keys = f"[{table_of('tests', API_KEY)}]"
    daemon = start_daemon(api__public="true", api__keys=keys, token__hmac_secret=SECRET)
    record = read_record()
    assert list(record) == [call.name for call in CALLS]
    everywhere = [one["line"] for one in TABLE if "line" in one]
    found: set[str] = set()
    differing: dict[str, list[str]] = {}
    for name, lines in differences(record, play(daemon.address)).items():
        shared = {line for line in lines for each in everywhere if re.fullmatch(each, line)}
        found |= {each for line in shared for each in everywhere if re.fullmatch(each, line)}
        if rest := [line for line in lines if line not in shared]:
            differing[name] = rest
    known: dict[str, list[str]] = {}
    for one in TABLE:
        for name, lines in one.get("calls", {}).items():
            known.setdefault(name, []).extend(lines)
    assert differing == {name: sorted(lines) for name, lines in known.items()}
    assert found == set(everywhere)


def test_the_page_gives_the_reason_of_each_difference() -> None:
    """Each is named there once, and no other is."""
    section = DOCUMENT.partition("\n## Differences from Centrifugo\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)[1:]
    titles = [name for name in named if not set(name) <= {"-"}]
    assert sorted(titles) == sorted(one["title"] for one in TABLE)
