"""The same scripts of a raw client, played to fastimd: it answers as Centrifugo has, or it is said.

``centrifugo.json`` has what Centrifugo answered (``beside.py``), ``differences.toml`` each answer
of fastimd that is another one, and docs/LIVE.md why.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from beside import PLAYS, read_record
from conftest import StartDaemon
from differences import DIFFERENCES, NOT_SERVED_YET
from likeness import EVERYWHERE, differences
from play import SECRET, play_all

DOCS = Path(__file__).parents[2] / "docs"
HEADING = "## Differences from Centrifugo\n"
SETTINGS = {
    "socket__ping_interval": "5",
    "socket__ping_timeout": "8",
    "token__hmac_secret": SECRET,
}


@pytest.mark.timeout(180)
async def test_answers_are_those_of_centrifugo(start_daemon: StartDaemon) -> None:
    """What differs is what the table says, line by line."""
    daemon = start_daemon(**SETTINGS)
    record = read_record()
    found: set[str] = set()
    differing = differences(record, await play_all(daemon.address, PLAYS, record), found)
    unserved = {name: differing.pop(name, []) for name in NOT_SERVED_YET}
    assert [name for name, lines in unserved.items() if not lines] == [], "they are served by now"
    known: dict[str, list[str]] = {}
    for scripts in DIFFERENCES.values():
        for name, lines in scripts.items():
            if name in NOT_SERVED_YET:
                continue
            known.setdefault(name, []).extend(lines)
    assert {name: sorted(lines) for name, lines in differing.items()} == {
        name: sorted(lines) for name, lines in known.items()
    }
    assert found == set(EVERYWHERE)


def test_page_gives_the_reason_of_each_difference() -> None:
    """Each is named there once, and no other is."""
    text = (DOCS / "LIVE.md").read_text()
    section = text.partition(HEADING)[2].partition("\n## ")[0]
    named = re.findall(r"^- \*\*(.+?)\.\*\* (?=\S)", section.replace("\n  ", " "), re.MULTILINE)
    assert sorted(named) == sorted((*EVERYWHERE, *DIFFERENCES))
